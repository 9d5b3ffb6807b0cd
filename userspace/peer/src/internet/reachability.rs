// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether others reach a node, and how.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, PeerId};

use crate::network::is_relayed;

/// The relays that lead to a node which cannot be reached otherwise.
const RELAYS: usize = 2;
/// The peers that are remembered because they are relays.
const OFFERS: usize = 64;
/// How long a relay that did not take the node is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// Whether others reach a node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reachability {
    /// Nobody has tried yet.
    #[default]
    Unknown,
    /// They can connect to it.
    Direct,
    /// Through a relay.
    Relayed,
    /// Not at all: it reaches others.
    Not,
}

/// What others found who tried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Tested {
    #[default]
    NotYet,
    Reached,
    NotReached,
}

/// What a node knows of the ways to it.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    pub(crate) tested: Tested,
    /// The relays that lead to it, or are asked to.
    relays: HashMap<ListenerId, PeerId>,
    /// Connected peers that are relays.
    offers: HashMap<PeerId, Offer>,
}

#[derive(Debug)]
struct Offer {
    address: Multiaddr,
    /// Not before then.
    at: Instant,
}

impl Ways {
    /// How others reach the node, who may do so at these addresses.
    pub(crate) fn reachability<'a>(
        &self,
        addresses: impl IntoIterator<Item = &'a Multiaddr>,
    ) -> Reachability {
        let mut reachability = match self.tested {
            Tested::NotReached => Reachability::Not,
            Tested::NotYet | Tested::Reached => Reachability::Unknown,
        };
        for address in addresses {
            if !is_relayed(address) {
                return Reachability::Direct;
            }
            reachability = Reachability::Relayed;
        }
        reachability
    }

    /// A connected peer is a relay.
    pub(crate) fn offered(&mut self, peer: PeerId, address: Multiaddr, now: Instant) {
        if self.offers.len() < OFFERS || self.offers.contains_key(&peer) {
            let offer = self.offers.entry(peer).or_insert(Offer {
                address: Multiaddr::empty(),
                at: now,
            });
            offer.address = address;
        }
    }

    /// A peer is not connected any more, or no relay.
    pub(crate) fn withdrawn(&mut self, peer: PeerId) {
        self.offers.remove(&peer);
    }

    /// A relay to be asked now, if there are too few.
    pub(crate) fn wanted(&self, now: Instant) -> Option<(PeerId, Multiaddr)> {
        if self.relays.len() >= RELAYS {
            return None;
        }
        let mut offers = self.offers.iter();
        let (peer, offer) = offers.find(|(peer, offer)| {
            offer.at <= now && !self.relays.values().any(|used| used == *peer)
        })?;
        Some((*peer, offer.address.clone()))
    }

    /// A relay is asked to lead to the node.
    pub(crate) fn asked(&mut self, listener: ListenerId, relay: PeerId) {
        self.relays.insert(listener, relay);
    }

    /// A relay could not be asked, or does not lead to the node any more.
    pub(crate) fn refused(&mut self, relay: PeerId, now: Instant) {
        self.relays.retain(|_, other| *other != relay);
        if let Some(offer) = self.offers.get_mut(&relay) {
            offer.at = now + PAUSE;
        }
    }

    /// The relay that a listener belonged to, if it was one.
    pub(crate) fn relay_of(&self, listener: ListenerId) -> Option<PeerId> {
        self.relays.get(&listener).copied()
    }

    /// The listeners of all relays: none is needed any more.
    pub(crate) fn leave_all(&mut self) -> Vec<ListenerId> {
        self.relays.drain().map(|(listener, _)| listener).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_way_counts_more_than_a_relay() {
        let mut ways = Ways::default();
        let direct: Multiaddr = "/ip4/198.51.100.1/tcp/1".parse().unwrap();
        let relay = PeerId::random();
        let relayed: Multiaddr = format!("{direct}/p2p/{relay}/p2p-circuit").parse().unwrap();
        assert_eq!(ways.reachability([]), Reachability::Unknown);
        assert_eq!(ways.reachability([&relayed]), Reachability::Relayed);
        assert_eq!(ways.reachability([&relayed, &direct]), Reachability::Direct);
        ways.tested = Tested::NotReached;
        assert_eq!(ways.reachability([]), Reachability::Not);
        assert_eq!(ways.reachability([&relayed]), Reachability::Relayed);
    }

    #[test]
    fn two_relays_are_asked_and_who_refused_is_left_alone() {
        let (mut ways, now) = (Ways::default(), Instant::now());
        let address: Multiaddr = "/ip4/198.51.100.1/tcp/1".parse().unwrap();
        assert_eq!(ways.wanted(now), None);
        for _ in 0..200 {
            ways.offered(PeerId::random(), address.clone(), now);
        }
        assert_eq!(ways.offers.len(), OFFERS);
        let mut asked = Vec::new();
        while let Some((relay, _)) = ways.wanted(now) {
            let listener = ListenerId::next();
            ways.asked(listener, relay);
            asked.push((listener, relay));
        }
        assert_eq!(asked.len(), RELAYS);
        assert_ne!(asked[0].1, asked[1].1);
        let (listener, refuses) = asked[0];
        assert_eq!(ways.relay_of(listener), Some(refuses));
        ways.offers
            .retain(|relay, _| asked.iter().any(|(_, asked)| asked == relay));
        ways.refused(refuses, now);
        assert_eq!(ways.wanted(now), None);
        assert_eq!(ways.wanted(now + PAUSE), Some((refuses, address)));
        ways.withdrawn(refuses);
        assert_eq!(ways.wanted(now + PAUSE), None);
        assert_eq!(ways.leave_all(), [asked[1].0]);
    }
}
