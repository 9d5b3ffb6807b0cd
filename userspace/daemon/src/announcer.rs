// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tells other nodes what this one has.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peerfs_format::{Digest, Manifest, METADATA_MAX};
use peerfs_peer::Node;
use peerfs_store::{Error as StoreError, Store};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::disk::Disk;
use crate::packs::Packs;

/// How often the store is looked through for images that others have put there.
const RESCAN_INTERVAL: Duration = Duration::from_secs(30);

/// Announces manifests and packs, each once; the node repeats it. Clones share what they know.
#[derive(Clone)]
pub struct Announcer {
    node: Node,
    announced: Arc<Mutex<BTreeSet<Digest>>>,
}

impl Announcer {
    /// An announcer by this node.
    pub fn new(node: Node) -> Self {
        Announcer {
            node,
            announced: Arc::default(),
        }
    }

    /// Announces that the manifest, or something of the pack, is here.
    pub async fn announce(&self, digest: Digest) {
        // A set is valid after every step. As many digests as the store has manifests and packs.
        let is_new = self
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest);
        if is_new {
            self.node.provide(digest).await;
        }
    }

    /// Announces what is in the store, now and when something was put there, until `shutdown`.
    pub async fn run(&self, disk: Disk, packs: Arc<Packs>, shutdown: CancellationToken) {
        let mut known = 0;
        loop {
            let packs = Arc::clone(&packs);
            match disk.run(move |store| contents(store, &packs)).await {
                Ok(digests) => {
                    for &digest in &digests {
                        self.announce(digest).await;
                    }
                    if digests.len() != known {
                        known = digests.len();
                        info!(manifests_and_packs = known, "announced");
                    }
                }
                Err(error) => warn!(%error, "cannot look through the store"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RESCAN_INTERVAL) => (),
            }
        }
    }
}

/// The manifests of the store and the packs of which something is there; `packs` learns their
/// indexes.
fn contents(store: &Store, packs: &Packs) -> peerfs_store::Result<BTreeSet<Digest>> {
    let partial: BTreeSet<Digest> = store.partial_packs()?.into_iter().collect();
    let mut digests = BTreeSet::new();
    for image in store.images()? {
        let blob = match store.read_metadata(&image.manifest, METADATA_MAX) {
            Err(StoreError::BlobMissing(_) | StoreError::BlobDamaged(_)) => continue,
            read => read?,
        };
        let Ok(manifest) = Manifest::parse(&blob) else {
            continue;
        };
        digests.insert(image.manifest);
        for pack in manifest.packs.iter() {
            packs.learn(pack.digest, pack.index_digest);
            if partial.contains(&pack.digest) || store.has_blob(&pack.digest) {
                digests.insert(pack.digest);
            }
        }
    }
    Ok(digests)
}
