// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Publishers' catalogues of layers: images that list what the layers of ordinary images unpack to, as `peerfs publish-layers` makes
//! them. Each has a symbolic link for a layer, called by its chain id, which leads to the manifest of an image.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerfs_control::Request;
use peerfs_format::Digest;
use peerfs_store::{Image, Store};
use peerfs_text::Causes;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::images::ImageConfig;
use crate::pull::{self, Abandoned};

/// How long what a name stands for is good. A layer that is listed later is unpacked meanwhile.
const AGE_MAX: Duration = Duration::from_secs(30);
/// How long a layer waits for a catalogue of which nothing comes: without it it is unpacked.
const PATIENCE: Duration = Duration::from_secs(5);

/// A publisher's catalogue.
pub(crate) struct Catalogue {
    name: String,
    /// Held while it is asked for, so that all layers of an image ask once.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    asked: Option<Instant>,
    /// The newest one that has come.
    image: Option<Arc<Image<Store>>>,
}

impl Catalogue {
    /// Nothing is asked yet.
    pub(crate) fn new(name: &str) -> Self {
        Catalogue {
            name: name.to_owned(),
            known: Mutex::default(),
        }
    }

    /// The manifest that it has for a layer. What can't be had or read has none.
    pub(crate) async fn find(&self, config: &ImageConfig, layer: &Digest) -> Option<Digest> {
        let image = {
            let mut known = self.known.lock().await;
            if known.asked.is_none_or(|asked| asked.elapsed() > AGE_MAX) {
                // While peerfsd is away the last one is as good as it was.
                if let Some(newest) = self.fetch(config).await {
                    known.image = Some(newest);
                }
                known.asked = Some(Instant::now());
            }
            known.image.clone()?
        };
        let path = layer.to_string();
        let found = spawn_blocking(move || {
            let link = image.lookup(path.as_bytes(), false).ok()?;
            let target = link.symlink_target().ok()?;
            std::str::from_utf8(&target).ok()?.parse().ok()
        });
        found.await.ok()?
    }

    async fn fetch(&self, config: &ImageConfig) -> Option<Arc<Image<Store>>> {
        let abandoned = Abandoned::default();
        let is_abandoned = Arc::clone(&abandoned.0);
        let (config, name) = (config.clone(), self.name.clone());
        let fetched = spawn_blocking(move || {
            let request = Request::Pull {
                tag: Some(format!("peerfs-snapshotter/{name}")),
                image: name,
                timeout: Some(PATIENCE.as_secs() as u32),
                lazy: false,
                used_as: None,
                convert: false,
                platform: None,
            };
            let manifest = pull::ask(&config.socket, &request, PATIENCE, &is_abandoned)??;
            let manifest = manifest.parse().map_err(|_| "peerfsd names no digest")?;
            let text = |error: peerfs_store::Error| Causes(&error).to_string();
            let store = Arc::new(Store::open(&config.root_dir).map_err(text)?);
            Image::open(store, &manifest).map(Arc::new).map_err(text)
        });
        match fetched.await {
            Ok(Ok(image)) => Some(image),
            Ok(Err(error)) => {
                tracing::warn!(
                    catalogue = self.name,
                    error,
                    "layers are unpacked that it may list"
                );
                None
            }
            Err(_) => None,
        }
    }
}
