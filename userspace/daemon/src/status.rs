// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reads how the daemon is doing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use peerfs_control::{ImageStatus, PeerStatus, PinStatus, Status};
use peerfs_fetch::{images, Disk, DiskError, Packs, Pins, Traffic};
use peerfs_peer::Node;
use peerfs_store::Store;

/// Everything that knows something about the daemon.
pub struct StatusReader {
    /// The store.
    pub disk: Disk,
    /// Its packs.
    pub packs: Arc<Packs>,
    /// The peer node.
    pub node: Node,
    /// What was fetched.
    pub traffic: Arc<Traffic>,
    /// The images that are kept complete.
    pub pins: Pins,
    /// Requests of the kernel that are not answered yet.
    pub in_flight: Arc<AtomicUsize>,
}

impl StatusReader {
    /// The status now.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn read(&self) -> Result<Status, DiskError> {
        let packs = Arc::clone(&self.packs);
        let images = self.disk.run(move |store| images(store, &packs)).await?;
        let peers = self.node.peers().into_iter().map(|peer| PeerStatus {
            id: peer.id.to_string(),
            address: peer.address.to_string(),
            rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            bytes_received: peer.bytes_received,
        });
        let pins = self.pins.states().into_iter();
        let pins = pins.map(|(manifest, state)| PinStatus {
            image: manifest.to_string(),
            state,
        });
        let listen_addresses = self.node.listen_addresses();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: self.node.peer_id().to_string(),
            listen_addresses: listen_addresses.iter().map(ToString::to_string).collect(),
            peers: peers.collect(),
            images,
            pins: pins.collect(),
            requests_in_flight: self.in_flight.load(Ordering::Relaxed) as u64,
            bytes_by_source: self.traffic.bytes_by_source(),
            lying_sources: self.traffic.lies(),
        })
    }
}

/// The images of the store. One whose manifest is not there is left out: it has no sizes yet.
fn images(store: &Store, packs: &Packs) -> peerfs_store::Result<Vec<ImageStatus>> {
    let mut found = Vec::new();
    for image in store.images()? {
        let Some(manifest) = images::manifest(store, &image.manifest)? else {
            continue;
        };
        let mut present_bytes = 0;
        for pack in images::packs(store, &manifest)?.unwrap_or_default() {
            if store.has_blob(&pack.digest) {
                present_bytes += pack.stored_length;
            } else if let Some(pack) = packs.find_with(store, pack.digest, pack.index_digest)? {
                present_bytes += pack.present_bytes();
            }
        }
        found.push(ImageStatus {
            manifest: image.manifest.to_string(),
            tags: image.tags,
            total_bytes: manifest.stored_bytes,
            present_bytes,
        });
    }
    Ok(found)
}
