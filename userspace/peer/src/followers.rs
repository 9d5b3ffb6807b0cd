// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who follows which image, to lead its followers to each other.

use std::collections::VecDeque;

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use peerfs_exchange::frame::PeerRecord;
use peerfs_exchange::limits::{ADDRESSES_MAX, ADDRESS_SIZE_MAX, PEERS_MAX};
use peerfs_format::Digest;

use crate::network::Network;

/// The images of which followers are remembered, the one that was followed last at the end.
const IMAGES_MAX: usize = 256;

/// Those who have followed images here, each image's last ones.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    images: VecDeque<(Digest, VecDeque<PeerId>)>,
}

impl Followers {
    /// A peer follows an image.
    pub(crate) fn add(&mut self, manifest: Digest, peer: PeerId) {
        let mut images = self.images.iter();
        let place = images.position(|(other, _)| *other == manifest);
        let known = place.and_then(|place| self.images.remove(place));
        let (_, mut peers) = known.unwrap_or((manifest, VecDeque::new()));
        peers.retain(|other| *other != peer);
        if peers.len() == PEERS_MAX {
            peers.pop_front();
        }
        peers.push_back(peer);
        if self.images.len() == IMAGES_MAX {
            self.images.pop_front();
        }
        self.images.push_back((manifest, peers));
    }

    /// Those who followed an image last.
    pub(crate) fn of(&self, manifest: &Digest) -> Vec<PeerId> {
        let mut images = self.images.iter();
        let found = images.find(|(other, _)| other == manifest);
        found.map_or(Vec::new(), |(_, peers)| peers.iter().copied().collect())
    }
}

/// What is told of a peer to one at the other end of a connection with `asker`: those outside are not told of
/// addresses that mean nothing there. `None` if nothing is left.
pub(crate) fn record(
    peer: PeerId,
    addresses: &[Multiaddr],
    asker: &Multiaddr,
) -> Option<PeerRecord> {
    let is_outside = Network::outside(asker).is_some();
    let addresses: Vec<Bytes> = addresses
        .iter()
        .filter(|address| !is_outside || Network::outside(address).is_some())
        .map(|address| Bytes::from(address.to_vec()))
        .filter(|address| (1..=ADDRESS_SIZE_MAX).contains(&address.len()))
        .take(ADDRESSES_MAX)
        .collect();
    let id = Bytes::from(peer.to_bytes());
    (!addresses.is_empty()).then_some(PeerRecord { id, addresses })
}

/// The peer that a record names, and where it listens; `None` if that is no peer. Names of hosts are not taken from
/// others.
pub(crate) fn read_record(record: &PeerRecord) -> Option<(PeerId, Vec<Multiaddr>)> {
    let peer = PeerId::from_bytes(&record.id).ok()?;
    let addresses = record.addresses.iter();
    let addresses = addresses.filter_map(|bytes| Multiaddr::try_from(bytes.to_vec()).ok());
    let addresses = crate::addresses::useful(addresses);
    (!addresses.is_empty()).then_some((peer, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_followers_of_the_last_images_are_known() {
        let mut followers = Followers::default();
        let digest = |number: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&number.to_le_bytes());
            Digest(bytes)
        };
        let peers: Vec<PeerId> = (0..=PEERS_MAX).map(|_| PeerId::random()).collect();
        for peer in &peers {
            followers.add(digest(0), *peer);
            followers.add(digest(0), *peer);
        }
        assert_eq!(followers.of(&digest(0)), peers[1..]);
        for number in 1..=IMAGES_MAX as u16 {
            followers.add(digest(number), peers[0]);
        }
        assert!(followers.of(&digest(0)).is_empty());
        assert_eq!(followers.images.len(), IMAGES_MAX);
    }

    #[test]
    fn strangers_are_not_told_of_local_addresses() {
        let peer = PeerId::random();
        let here: Multiaddr = "/ip4/10.0.0.1/tcp/4001".parse().unwrap();
        let there: Multiaddr = "/ip4/198.51.100.1/tcp/4001".parse().unwrap();
        let addresses = [here.clone(), there.clone()];
        let told = |asker| read_record(&record(peer, &addresses, asker).unwrap()).unwrap();
        assert_eq!(told(&here), (peer, addresses.to_vec()));
        assert_eq!(told(&there), (peer, vec![there.clone()]));
        assert_eq!(record(peer, &[here], &there), None);
        let name = Bytes::from(
            "/dns/example.org/tcp/1"
                .parse::<Multiaddr>()
                .unwrap()
                .to_vec(),
        );
        for address in [name, Bytes::from_static(b"junk")] {
            let id = Bytes::from(peer.to_bytes());
            let addresses = vec![address];
            assert_eq!(read_record(&PeerRecord { id, addresses }), None);
        }
    }
}
