// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reads how the daemon is doing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use peerfs_control::{
    Activity, BanStatus, HttpStatus, ImageStatus, MountStatus, NetworkStatus, PeerClass,
    PeerDirection, PeerStatus, Peers, PinOrigin, PinStatus, Reachability, Status,
};
use peerfs_fetch::source::peer_name;
use peerfs_fetch::{images, Disk, DiskError, Packs, PinInfo, Pins, Progress, Pulls, Traffic};
use peerfs_format::Digest;
use peerfs_peer::{self as peer, Direction, Node, PeerInfo};
use peerfs_serve::Counts;
use peerfs_store::{Store, StoreMount};
use rustix::process::{getrlimit, Resource};

use crate::replicas::Replicas;
use crate::requests::RequestCounts;

/// Everything that knows something about the daemon.
#[derive(Clone)]
pub struct StatusReader {
    /// The store.
    pub disk: Disk,
    /// Its packs.
    pub packs: Arc<Packs>,
    /// The peer node.
    pub node: Node,
    /// The fingerprint of its swarm's key, if that is private.
    pub private_swarm: Option<String>,
    /// The swarm that it is a member of, if its nodes have certificates.
    pub member_of: Option<String>,
    /// What was fetched.
    pub traffic: Arc<Traffic>,
    /// The images that are kept complete.
    pub pins: Pins,
    /// Those of which all is being brought here.
    pub pulls: Pulls,
    /// The kernel's requests.
    pub requests: Arc<RequestCounts>,
    /// What was given out by HTTP.
    pub served_by_http: Arc<Counts>,
    /// What is kept for others.
    pub replicas: Replicas,
    /// When the daemon started.
    pub started: Instant,
}

impl StatusReader {
    /// The status now.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn read(&self) -> Result<Status, DiskError> {
        let images = self.images().await?;
        let network = self.node.network().await.unwrap_or_default();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: self.node.peer_id().to_string(),
            listen_addresses: self.listen_addresses(),
            private_swarm: self.private_swarm.clone(),
            member_of: self.member_of.clone(),
            reachability: network.reachability.map(reachability),
            peers: self.connected(),
            images,
            pins: self.pins.list().iter().map(pin_status).collect(),
            pulls: self.pulls.progress().iter().map(Progress::status).collect(),
            requests_in_flight: self.requests.in_flight() as u64,
            bytes_by_source: self.traffic.bytes_by_source(),
            lying_sources: self.traffic.lies(),
        })
    }

    /// What the daemon is busy with. Does not touch the store's disk.
    pub async fn activity(&self) -> Activity {
        let network = self.node.network().await.unwrap_or_default();
        let count = |number: usize| number as u64;
        Activity {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: self.node.peer_id().to_string(),
            uptime_ms: milliseconds(self.started.elapsed()),
            requests: self.requests.status(),
            bytes_by_source: self.traffic.bytes_by_source(),
            bytes_sent: self.node.bytes_sent(),
            served_by_http: HttpStatus {
                answered: self.served_by_http.answered(),
                missing: self.served_by_http.missing(),
                refused: self.served_by_http.refused(),
                bytes: self.served_by_http.bytes(),
            },
            lying_sources: self.traffic.lies(),
            peers: self.connected(),
            pulls: self.pulls.progress().iter().map(Progress::status).collect(),
            network: NetworkStatus {
                listen_addresses: self.listen_addresses(),
                private_swarm: self.private_swarm.clone(),
                reachability: network.reachability.map(reachability),
                neighbours: network.neighbours.map(count),
                dht_nodes: count(network.dht_nodes),
                dht_messages: network.dht_messages,
                bootstrap: count(network.bootstrap),
                bootstrap_connected: count(network.bootstrap_connected),
                banned: count(self.node.bans().len()),
            },
            replicas: self.replicas.counts(),
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |files| count(files.count())),
            open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        }
    }

    /// The nodes that the daemon is connected to, and those that it has banned.
    pub fn peers(&self) -> Peers {
        let banned = self.node.bans().into_iter().map(|ban| BanStatus {
            id: ban.peer.to_string(),
            until_ms: milliseconds(ban.until.duration_since(UNIX_EPOCH).unwrap_or_default()),
            times: ban.times,
            reason: ban.reason,
        });
        Peers {
            peers: self.connected(),
            banned: banned.collect(),
        }
    }

    fn connected(&self) -> Vec<PeerStatus> {
        let peers = self.node.peers();
        peers.iter().map(|peer| self.peer_status(peer)).collect()
    }

    fn peer_status(&self, peer: &PeerInfo) -> PeerStatus {
        use peerfs_peer::PeerClass as Class;
        let gives = self.traffic.gifts(&peer_name(&peer.id));
        PeerStatus {
            id: peer.id.to_string(),
            address: peer.address.to_string(),
            direction: match peer.direction {
                Direction::Inbound => PeerDirection::Inbound,
                Direction::Outbound => PeerDirection::Outbound,
            },
            class: match peer.class {
                Class::Unknown => PeerClass::Unknown,
                Class::Link => PeerClass::Link,
                Class::Wide => PeerClass::Wide,
            },
            rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            connected_ms: milliseconds(peer.connected),
            bytes_received: peer.bytes_received,
            bytes_sent: peer.bytes_sent,
            receive_rate: peer.receive_rate,
            send_rate: peer.send_rate,
            gives: gives.iter().map(ToString::to_string).collect(),
        }
    }

    fn listen_addresses(&self) -> Vec<String> {
        let addresses = self.node.listen_addresses();
        addresses.iter().map(ToString::to_string).collect()
    }

    /// The images of the store.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn images(&self) -> Result<Vec<ImageStatus>, DiskError> {
        let packs = Arc::clone(&self.packs);
        self.disk.run(move |store| images_of(store, &packs)).await
    }

    /// How much of an image is here, from its first chunk to its last one, in at most `cells` parts: percents. None if the store
    /// has no such image, or not yet what lists its packs.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn map(&self, manifest: Digest, cells: usize) -> Result<Option<Vec<u8>>, DiskError> {
        let packs = Arc::clone(&self.packs);
        let map = move |store: &Store| map_of(store, &packs, &manifest, cells);
        self.disk.run(map).await
    }

    /// The mounts over the store that this process sees.
    ///
    /// # Errors
    /// If the store or the list of mounts can't be read.
    pub async fn mounts(&self) -> Result<Vec<MountStatus>, DiskError> {
        let packs = Arc::clone(&self.packs);
        self.disk.run(move |store| mounts_of(store, &packs)).await
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How a pin is doing, as clients are told.
fn pin_status(pin: &PinInfo) -> PinStatus {
    use peerfs_fetch::PinOrigin as Origin;
    PinStatus {
        image: pin.image.clone(),
        origin: match pin.origin {
            Origin::Configuration => PinOrigin::Configuration,
            Origin::Command => PinOrigin::Command,
            Origin::Replica => PinOrigin::Replica,
        },
        state: pin.state.to_string(),
    }
}

/// The images of the store. One whose manifest is not there is left out: it has no sizes yet.
fn images_of(store: &Store, packs: &Packs) -> peerfs_store::Result<Vec<ImageStatus>> {
    let mut found = Vec::new();
    for image in store.images()? {
        if let Some((total_bytes, present_bytes)) = sizes(store, packs, &image.manifest)? {
            found.push(ImageStatus {
                manifest: image.manifest.to_string(),
                tags: image.tags,
                total_bytes,
                present_bytes,
            });
        }
    }
    Ok(found)
}

/// Bytes of an image's packs, and those of them that are here; none if its manifest is not here.
fn sizes(
    store: &Store,
    packs: &Packs,
    manifest: &Digest,
) -> peerfs_store::Result<Option<(u64, u64)>> {
    let Some(manifest) = images::manifest(store, manifest)? else {
        return Ok(None);
    };
    let mut present_bytes = 0;
    for pack in images::packs(store, &manifest)?.unwrap_or_default() {
        if store.has_blob(&pack.digest) {
            present_bytes += pack.stored_length;
        } else if let Some(pack) = packs.find_with(store, pack.digest, pack.index_digest)? {
            present_bytes += pack.present_bytes();
        }
    }
    Ok(Some((manifest.stored_bytes, present_bytes)))
}

fn map_of(
    store: &Store,
    packs: &Packs,
    manifest: &Digest,
    cells: usize,
) -> peerfs_store::Result<Option<Vec<u8>>> {
    let Some(manifest) = images::manifest(store, manifest)? else {
        return Ok(None);
    };
    let mut here = Vec::new();
    for pack in images::packs(store, &manifest)?.unwrap_or_default() {
        let chunks = here.len()..here.len() + pack.chunk_count as usize;
        here.resize(chunks.end, store.has_blob(&pack.digest));
        if let Some(pack) = packs.find_with(store, pack.digest, pack.index_digest)? {
            let own = here.get_mut(chunks).unwrap_or_default();
            for (number, here) in (0..).zip(own) {
                *here |= pack.has(number);
            }
        }
    }
    Ok(Some(percents(&here, cells)))
}

/// How many of equal parts of a list are true, in percent.
fn percents(list: &[bool], parts: usize) -> Vec<u8> {
    let parts = parts.min(list.len());
    let part = |number: usize| {
        let range = number * list.len() / parts..(number + 1) * list.len() / parts;
        let part = list.get(range).unwrap_or_default();
        let share = part.iter().filter(|here| **here).count() * 100 / part.len().max(1);
        // At most 100.
        share as u8
    };
    (0..parts).map(part).collect()
}

/// The mounts over the store.
fn mounts_of(store: &Store, packs: &Packs) -> peerfs_store::Result<Vec<MountStatus>> {
    let mounts = store.mounts()?;
    if mounts.is_empty() {
        return Ok(Vec::new());
    }
    // A tag may be missing, but no mount because of that.
    let images = store.images().unwrap_or_default();
    let tags: BTreeMap<_, _> = images
        .into_iter()
        .map(|image| (image.manifest, image.tags))
        .collect();
    let status = |mount: StoreMount| {
        let sizes = sizes(store, packs, &mount.manifest)?;
        Ok(MountStatus {
            manifest: mount.manifest.to_string(),
            tags: tags.get(&mount.manifest).cloned().unwrap_or_default(),
            mountpoint: mount.mountpoint.to_string_lossy().into_owned(),
            missing_bytes: sizes.map(|(total, present)| total.saturating_sub(present)),
        })
    };
    mounts.into_iter().map(status).collect()
}

fn reachability(reachability: peer::Reachability) -> Reachability {
    match reachability {
        peer::Reachability::Unknown => Reachability::Unknown,
        peer::Reachability::Direct => Reachability::Direct,
        peer::Reachability::Relayed => Reachability::Relayed,
        peer::Reachability::Not => Reachability::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_full_as_what_is_in_them() {
        let list = [true, true, true, false, false, false, false];
        assert_eq!(percents(&list, 2), [100, 0]);
        assert_eq!(percents(&list, 3), [100, 50, 0]);
        assert_eq!(percents(&list, 100), [100, 100, 100, 0, 0, 0, 0]);
        assert!(percents(&[], 100).is_empty());
    }
}
