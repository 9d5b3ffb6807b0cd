// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The images of snapshots: peerfsd brings them, `peerfs mount` mounts them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peerfs_control::{Reply, Request};
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_oci::stub_layer;
use peerfs_store::{Reference, Store};
use peerfs_sys::mount_point::is_mounted;
use peerfs_text::Causes;
use tokio::process::Command;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::pull::{tag, Abandoned, Pull, ANSWER_MAX};
use crate::record::Image;

/// How long a mount may take whose image is there.
const MOUNT_MAX: Duration = Duration::from_secs(60);
/// How long sizes are good. The kubelet asks for all of them every 10 seconds.
const SIZES_AGE_MAX: Duration = Duration::from_secs(5);

/// Where images come from, and how they are mounted.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// The store.
    pub root_dir: PathBuf,
    /// The control socket of the peerfsd that fills it.
    pub socket: PathBuf,
    /// The program `peerfs`.
    pub program: PathBuf,
    /// More options for its `mount`.
    pub mount_options: Option<String>,
    /// The file of the policy, in the place of the usual one.
    pub policy: Option<PathBuf>,
    /// How long a container waits for an image of which nothing comes.
    pub timeout: Duration,
    /// Publishers' names of images that list what layers unpack to: they are believed.
    pub catalogues: Vec<String>,
}

/// The images of snapshots.
pub struct Images {
    config: ImageConfig,
    /// The mount points at which somebody is at work.
    turns: Mutex<HashMap<PathBuf, Arc<AsyncMutex<()>>>>,
    sizes: Mutex<Option<(Instant, HashMap<String, u64>)>>,
    catalogues: Vec<Catalogue>,
}

impl Images {
    /// Nothing is asked or mounted yet.
    pub fn new(config: ImageConfig) -> Self {
        let catalogues = config.catalogues.iter();
        Images {
            catalogues: catalogues.map(|name| Catalogue::new(name)).collect(),
            config,
            turns: Mutex::default(),
            sizes: Mutex::default(),
        }
    }

    /// The image of what a layer unpacks to, with all below it, that the first of the catalogues names which has it. `layer` is its
    /// chain id.
    pub async fn unpacked(&self, layer: &str) -> Option<Digest> {
        let layer: Digest = layer.strip_prefix("sha256:")?.parse().ok()?;
        for catalogue in &self.catalogues {
            if let Some(found) = catalogue.find(&self.config, &layer).await {
                return Some(found);
            }
        }
        None
    }

    /// Brings what a mount needs of an image into the store, and a tag that keeps it.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub async fn fetch(&self, image: &Image) -> Result<()> {
        let abandoned = Abandoned::default();
        let pull = Pull {
            config: self.config.clone(),
            image: image.clone(),
            is_abandoned: Arc::clone(&abandoned.0),
        };
        let done = spawn_blocking(move || pull.run()).await;
        let done = done.map_err(|_| Error::Ending)?;
        done.map_err(|reason| Error::Image {
            manifest: image.manifest,
            reason,
        })
    }

    /// Fails unless `layer` is what containerd calls the layer that stands for an image which was fetched.
    ///
    /// A first layer is called by the digest of its tar, and who publishes an image says so themselves, as they say which image
    /// the layer stands for. Without this, an image could have its content taken for the layer of any other one.
    ///
    /// # Errors
    /// [`Error::Image`], also if the store can't be read.
    pub async fn check_layer(&self, image: &Image, layer: &str) -> Result<()> {
        let (root_dir, manifest) = (self.config.root_dir.clone(), image.manifest);
        let read =
            spawn_blocking(move || Store::open(&root_dir)?.read_metadata(&manifest, METADATA_MAX));
        let failed = |reason: String| Error::Image { manifest, reason };
        let read = read.await.map_err(|_| Error::Ending)?;
        let bytes = read.map_err(|error| failed(Causes(&error).to_string()))?;
        if layer.strip_prefix("sha256:") == Some(&stub_layer(&bytes).to_string()) {
            return Ok(());
        }
        Err(failed(format!(
            "the layer {layer} does not stand for it, whatever its label says"
        )))
    }

    /// Mounts an image, unless that is done. Whoever wants the same at once waits for the first.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Mount`].
    pub async fn mount(&self, image: &Image, target: &Path) -> Result<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(target.to_owned()).or_default())
        };
        let _turn = turn.lock().await;
        let looked = target.to_owned();
        let is_mounted = spawn_blocking(move || is_mounted(&looked));
        // One that answers slowly is there.
        if !matches!(timeout(ANSWER_MAX, is_mounted).await, Ok(Ok(false))) {
            return Ok(());
        }
        self.fetch(image).await?;
        let failed = |reason: String| Error::Mount {
            manifest: image.manifest,
            reason,
        };
        let mut command = Command::new(&self.config.program);
        command
            .args(["mount", "--root-dir"])
            .arg(&self.config.root_dir);
        command.arg("--socket").arg(&self.config.socket);
        if let Some(options) = &self.config.mount_options {
            command.arg("-o").arg(options);
        }
        command.arg(image.manifest.to_string()).arg(target);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(MOUNT_MAX, command.output()).await;
        let program = self.config.program.display();
        let output = output
            .map_err(|_| failed(format!("{program} did not end")))?
            .map_err(|error| failed(format!("{program} cannot be started: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(
            said.trim().trim_start_matches("peerfs: ").to_owned(),
        ))
    }

    /// Lets an image go that no snapshot is any more: the store may give it up.
    pub fn forget(&self, manifest: &Digest) {
        let forget = || {
            let store = Store::open(&self.config.root_dir)?;
            store.remove_image(&Reference::Tag(tag(manifest)))
        };
        if let Err(error) = forget() {
            // It was never here, or the store is gone.
            tracing::debug!(%manifest, error = %Causes(&error), "the image is not let go");
        }
    }

    /// Bytes of an image that are in the store; 0 if nobody knows.
    pub async fn size(self: &Arc<Self>, manifest: &Digest) -> u64 {
        let images = Arc::clone(self);
        let manifest = manifest.to_string();
        let sizes = spawn_blocking(move || images.size_of(&manifest));
        sizes.await.unwrap_or_default()
    }

    fn size_of(&self, manifest: &str) -> u64 {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if sizes
            .as_ref()
            .is_none_or(|(asked, _)| asked.elapsed() > SIZES_AGE_MAX)
        {
            let answer = peerfs_control::ask(&self.config.socket, &Request::Images, ANSWER_MAX);
            let images = match answer {
                Ok(Reply::Images(images)) => images,
                _ => Vec::new(),
            };
            let by_manifest = images
                .into_iter()
                .map(|one| (one.manifest, one.present_bytes));
            *sizes = Some((Instant::now(), by_manifest.collect()));
        }
        let found = sizes.as_ref().and_then(|(_, sizes)| sizes.get(manifest));
        found.copied().unwrap_or_default()
    }
}
