// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The mirror of ordinary images: where it is, and what it is a part of.

use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use peerfs_http::{Address, Listener};
use peerfs_mirror::{serve, Blobs, InvalidUpstream, Mirror, Served, Upstreams};
use peerfs_peer::{Node, Provider};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::{Config, ConfigError};

/// The folder of a store in which its mirror has its blobs.
const FOLDER: &str = "mirror";
/// Bytes that they may take, if nothing else is said.
const CACHE_BYTES: NonZeroU64 = NonZeroU64::new(10_000_000_000).expect("it is not 0");

/// A registry from which others pull what is not in peerfs form.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct MirrorConfig {
    /// Where to listen for clients; by default nowhere.
    pub listen: Option<Address>,
    /// The registries that are asked for them, as references write them.
    pub upstreams: Vec<String>,
    /// Bytes of blobs that are kept.
    pub cache_bytes: NonZeroU64,
}

impl Default for MirrorConfig {
    fn default() -> Self {
        MirrorConfig {
            listen: None,
            upstreams: Vec::new(),
            cache_bytes: CACHE_BYTES,
        }
    }
}

impl MirrorConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |problem: String| ConfigError::Value {
            key: "mirror.upstreams",
            problem,
        };
        if self.listen.is_some() && self.upstreams.is_empty() {
            let problem = "must name the registries that are mirrored, such as [\"docker.io\"]";
            return Err(wrong(problem.to_owned()));
        }
        let upstreams = Upstreams::new(&self.upstreams, peerfs_registry::Options::default());
        upstreams.map_err(|error| wrong(format!("has {error}")))?;
        Ok(())
    }
}

/// Why there can be no mirror.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// It can't be listened there.
    #[error("cannot listen at {address}; name another place with mirror.listen")]
    Listen {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// Its folder can't be used.
    #[error("cannot keep what is mirrored in {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is configured with what is no registry.
    #[error("cannot mirror: {0}")]
    Upstream(#[from] InvalidUpstream),
}

/// A mirror that has not begun to work.
pub struct Prepared {
    listener: Listener,
    folder: PathBuf,
    blobs: Arc<Blobs>,
    upstreams: Upstreams,
}

impl Prepared {
    /// Takes the address and the folder, if there is to be a mirror.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn new(config: &Config) -> Result<Option<Self>, MirrorError> {
        let mirror = &config.mirror;
        let Some(address) = mirror.listen.clone() else {
            return Ok(None);
        };
        let upstreams = Upstreams::new(&mirror.upstreams, config.registry.options())?;
        let folder = config.root_dir.join(FOLDER);
        let (path, limit) = (folder.clone(), mirror.cache_bytes.get());
        let opened = tokio::task::spawn_blocking(move || Blobs::open(&path, limit)).await;
        let opened = opened.unwrap_or_else(|error| Err(io::Error::other(error)));
        let blobs = opened.map_err(|source| MirrorError::Folder {
            path: folder.clone(),
            source,
        })?;
        let listener = Listener::bind(&address).await;
        Ok(Some(Prepared {
            listener: listener.map_err(|source| MirrorError::Listen { address, source })?,
            folder,
            blobs: Arc::new(blobs),
            upstreams,
        }))
    }

    /// What peers are served: the store, and what the mirror has.
    pub fn served(&self, store: Arc<dyn Provider>) -> Arc<dyn Provider> {
        Arc::new(Served::new(store, Arc::clone(&self.blobs)))
    }

    /// The work of the mirror until `shutdown`.
    ///
    /// # Errors
    /// [`MirrorError::Folder`].
    pub fn work(
        self,
        node: Node,
        shutdown: CancellationToken,
    ) -> Result<impl std::future::Future<Output = ()>, MirrorError> {
        let Prepared {
            listener,
            folder,
            blobs,
            upstreams,
        } = self;
        let mirror = Mirror::new(&folder, blobs, upstreams, node, shutdown.clone());
        let mirror = mirror.map_err(|source| MirrorError::Folder {
            path: folder,
            source,
        })?;
        info!(address = %listener.address(), "the mirror");
        Ok(serve(listener, mirror, shutdown))
    }
}
