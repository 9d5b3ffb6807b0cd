// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Those who can be connected to and do not speak this node's exchange protocol.

use std::collections::HashSet;

use libp2p::{identify, PeerId};
use peerfs_text::printable;

/// The peers that are told of, each once.
const TOLD_MAX: usize = 64;
/// What the exchange protocols of all versions begin with.
const FAMILY: &str = "/peerfs/exchange/";

/// Tells of nodes of other versions; other programs are none of the log's business.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    told: HashSet<PeerId>,
}

impl Strangers {
    /// A peer introduced itself without this node's exchange protocol.
    pub(crate) fn met(&mut self, peer: PeerId, info: &identify::Info) {
        let mut protocols = info.protocols.iter().map(AsRef::as_ref);
        match protocols.find(|protocol| protocol.starts_with(FAMILY)) {
            Some(speaks) if self.is_new(peer) => tracing::warn!(
                %peer,
                speaks = %printable(speaks),
                "no peerfs node of this version: nothing is exchanged with it until both have the same"
            ),
            _ => {
                tracing::debug!(%peer, agent = info.agent_version, "not a peerfs node of this version");
            }
        }
    }

    fn is_new(&mut self, peer: PeerId) -> bool {
        self.told.len() < TOLD_MAX && self.told.insert(peer)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{Multiaddr, StreamProtocol};

    use super::*;
    use crate::Identity;

    fn info(protocol: &'static str) -> identify::Info {
        let identity = Identity::generate();
        identify::Info {
            public_key: identity.keypair().public(),
            protocol_version: "/peerfs/1".to_owned(),
            agent_version: "test".to_owned(),
            listen_addrs: Vec::new(),
            protocols: vec![StreamProtocol::new(protocol)],
            observed_addr: Multiaddr::empty(),
            signed_peer_record: None,
        }
    }

    #[test]
    fn nodes_of_other_versions_are_told_of_once_and_other_programs_never() {
        let mut strangers = Strangers::default();
        for _ in 0..2 {
            strangers.met(PeerId::random(), &info("/other/1"));
        }
        assert!(strangers.told.is_empty());
        let peer = PeerId::random();
        for _ in 0..2 {
            strangers.met(peer, &info("/peerfs/exchange/1"));
        }
        assert_eq!(strangers.told.len(), 1);
        assert!(!strangers.is_new(peer));
        for _ in 0..2 * TOLD_MAX {
            strangers.met(PeerId::random(), &info("/peerfs/exchange/3"));
        }
        assert_eq!(strangers.told.len(), TOLD_MAX);
    }
}
