// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What each peer has of a store of this node: who has most gives way first, so that nobody drives out all others.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use libp2p::PeerId;
use peerfs_format::Digest;

/// The keys of each peer, and the peers by their number.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// Those first that expire first.
    keys: HashMap<PeerId, BTreeSet<(Instant, Digest)>>,
    sizes: BTreeSet<(usize, PeerId)>,
}

impl Shares {
    /// The number of a peer's keys.
    pub(crate) fn count(&self, peer: &PeerId) -> usize {
        self.keys.get(peer).map_or(0, BTreeSet::len)
    }

    pub(crate) fn add(&mut self, peer: PeerId, expires: Instant, key: Digest) {
        self.resize(peer, |keys| keys.insert((expires, key)));
    }

    pub(crate) fn remove(&mut self, peer: PeerId, expires: Instant, key: Digest) {
        self.resize(peer, |keys| keys.remove(&(expires, key)));
    }

    /// What goes first: of the peer that has most the key that expires first.
    pub(crate) fn first_to_go(&self) -> Option<(PeerId, Digest)> {
        let (_, peer) = self.sizes.last()?;
        let (_, key) = self.keys.get(peer)?.first()?;
        Some((*peer, *key))
    }

    /// Changes the keys of a peer, and with them its place among the peers.
    fn resize(
        &mut self,
        peer: PeerId,
        change: impl FnOnce(&mut BTreeSet<(Instant, Digest)>) -> bool,
    ) {
        let keys = self.keys.entry(peer).or_default();
        let before = keys.len();
        change(keys);
        let after = keys.len();
        if after == 0 {
            self.keys.remove(&peer);
        }
        self.sizes.remove(&(before, peer));
        if after > 0 {
            self.sizes.insert((after, peer));
        }
    }

    /// Fails unless both agree; returns the number of all keys.
    #[cfg(test)]
    #[track_caller]
    pub(crate) fn check(&self) -> usize {
        assert_eq!(self.sizes.len(), self.keys.len());
        for (size, peer) in &self.sizes {
            assert_eq!(self.keys[peer].len(), *size);
        }
        self.keys.values().map(BTreeSet::len).sum()
    }
}
