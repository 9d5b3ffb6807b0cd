// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tells other nodes what this one has.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use peerfs_control::EventKind;
use peerfs_exchange::Arrival;
use peerfs_fetch::{images, Announce, Disk, Packs};
use peerfs_format::{Digest, PackRecord};
use peerfs_peer::Node;
use peerfs_store::Store;
use peerfs_text::Causes;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::events::Events;

/// How often the store is looked through for images that others have put there.
const RESCAN_INTERVAL: Duration = Duration::from_secs(30);

/// Announces images by their manifests, each once; the node repeats it. What belongs to an image is found by that:
/// announcements of each pack would be ten or a hundred times as many. Clones share what they know.
#[derive(Clone)]
pub struct Announcer {
    node: Node,
    events: Events,
    announced: Arc<Mutex<BTreeSet<Digest>>>,
}

impl Announcer {
    /// An announcer by this node, and to clients by these events.
    pub fn new(node: Node, events: Events) -> Self {
        Announcer {
            node,
            events,
            announced: Arc::default(),
        }
    }

    /// Announces the images of the store, now and when one was put there, until `shutdown`.
    pub async fn run(&self, disk: Disk, packs: Arc<Packs>, shutdown: CancellationToken) {
        let mut known = BTreeSet::new();
        loop {
            let (packs, seen) = (Arc::clone(&packs), known.clone());
            match disk
                .run(move |store| new_images(store, &packs, &seen))
                .await
            {
                Ok(images) => {
                    for manifest in images {
                        info!(%manifest, "announced");
                        known.insert(manifest);
                        self.announce_image(manifest).await;
                    }
                }
                Err(error) => warn!(error = %Causes(&error), "cannot look through the store"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RESCAN_INTERVAL) => (),
            }
        }
    }

    /// Remembers that something is announced, and says whether it was not before.
    fn is_new(&self, digest: Digest) -> bool {
        // A set is valid after every step. As many digests as the store has manifests.
        let mut announced = self
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        announced.insert(digest)
    }
}

#[async_trait]
impl Announce for Announcer {
    async fn announce_image(&self, manifest: Digest) {
        if self.is_new(manifest) {
            self.node.arrivals().note(Arrival::Image(manifest));
            let image = manifest.to_string();
            self.events.tell(EventKind::Image { image });
            self.node.provide(manifest).await;
        }
    }
}

/// Finds out which of the two is right when there is both a whole pack and a partial one: a daemon before this one
/// may have begun to mend what is called whole and is damaged, which peers must not be offered.
fn settle(store: &Store, packs: &Packs, pack: &PackRecord) {
    if let Err(error) = packs.open(store, pack.digest, pack.index_digest) {
        let error = Causes(&error);
        warn!(pack = %pack.digest, %error, "cannot tell whether the pack is damaged");
    }
}

/// The images that are not in `known` and whose blob tables are here, by their manifests; `packs` learns the indexes of their
/// packs.
fn new_images(
    store: &Store,
    packs: &Packs,
    known: &BTreeSet<Digest>,
) -> peerfs_store::Result<BTreeSet<Digest>> {
    let partial: BTreeSet<(Digest, Digest)> = store.placed_packs()?.into_iter().collect();
    let mut found = BTreeSet::new();
    for image in store.images()? {
        if known.contains(&image.manifest) {
            continue;
        }
        let Some(manifest) = images::manifest(store, &image.manifest)? else {
            continue;
        };
        let Some(image_packs) = images::packs(store, &manifest)? else {
            continue;
        };
        for pack in image_packs {
            packs.learn(pack.digest, pack.index_digest);
            let is_partial = partial.contains(&(pack.digest, pack.index_digest));
            let is_whole = store.has_blob(&pack.digest);
            if is_partial && is_whole && store.is_locked_for_filling() {
                settle(store, packs, &pack);
            }
        }
        found.insert(image.manifest);
    }
    Ok(found)
}
