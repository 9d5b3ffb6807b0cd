// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which of those who fetch the same content asks whoever has all of it for which part, without a word between them.
//!
//! Each part falls to the node whose identity has the highest score with it (rendezvous hashing). Nodes that know of each other
//! come to the same answer, so that one copy leaves a seed or an origin before a second; where one knows of more than
//! another, some parts are sent twice or taken up late, and no more than that. Who is done with its share helps the one to whom the
//! most of what is left falls before it, from the other end: so a slow node does not hold up the others, and the two meet
//! once.

use std::time::{Duration, Instant};

use super::{Class, ContentId};

/// Who has got nothing for so long is not waited for.
pub(super) const FRESH: Duration = Duration::from_secs(2);
/// Neighbouring chunks that fall to one node: of an origin two are asked for at once, which saves half of the requests. Of a
/// peer each for itself: the smaller, the less do shares differ.
const GROUP_OF_ORIGIN: u32 = 2;
const GROUP: u32 = 1;

/// The place of a node among those to whom a chunk may fall.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// It falls to this node.
    First,
    /// It falls to one other node, and would to this one without that.
    Second,
    Later,
}

/// The share of a node among those that fetch the same.
pub(super) struct Share {
    content: u64,
    own: u64,
    fellows: Vec<u64>,
    group: u32,
}

impl Share {
    /// The share of the node with the identity `own` among `fellows`, in what a source of this kind has.
    pub(super) fn new(content: ContentId, class: Class, own: u64, fellows: Vec<u64>) -> Self {
        Share {
            content: known_by(content),
            own,
            fellows,
            group: group_of(class),
        }
    }

    /// Whether there is nobody to share with.
    pub(super) fn is_all(&self) -> bool {
        self.fellows.is_empty()
    }

    /// This node's place with a chunk.
    pub(super) fn place(&self, number: u32) -> Place {
        let group = mix(self.content ^ u64::from(number / self.group));
        let score = |identity| mix(group ^ identity);
        let own = score(self.own);
        let mut before = self.fellows.iter().filter(|&&fellow| score(fellow) > own);
        match (before.next(), before.next()) {
            (None, _) => Place::First,
            (Some(_), None) => Place::Second,
            (Some(_), Some(_)) => Place::Later,
        }
    }
}

/// The score of a node with a chunk, in what a source of this kind has.
pub(super) fn score(content: ContentId, class: Class, number: u32, identity: u64) -> u64 {
    let group = mix(known_by(content) ^ u64::from(number / group_of(class)));
    mix(group ^ identity)
}

fn known_by(content: ContentId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = content.digest().0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn group_of(class: Class) -> u32 {
    match class {
        Class::Origin => GROUP_OF_ORIGIN,
        Class::Directory | Class::Peer => GROUP,
    }
}

/// Whether something that was got then was got lately.
pub(super) fn is_fresh(gained: Option<Instant>, now: Instant) -> bool {
    gained.is_some_and(|at| now.saturating_duration_since(at) < FRESH)
}

/// Mixes bits, as the finalizer of splitmix64 does.
fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use peerfs_format::Digest;

    use super::*;

    #[test]
    fn each_part_falls_to_one_and_all_get_about_as_many() {
        const NODES: u64 = 16;
        const CHUNKS: u32 = 4096;
        let content = ContentId::Pack {
            pack: Digest([7; 32]),
            index: Digest([8; 32]),
        };
        let identities: Vec<u64> = (0..NODES).map(|node| mix(node ^ 0x55)).collect();
        for class in [Class::Peer, Class::Origin] {
            let shares: Vec<Share> = identities
                .iter()
                .map(|&own| {
                    let fellows = identities.iter().copied().filter(|&other| other != own);
                    Share::new(content, class, own, fellows.collect())
                })
                .collect();
            let mut counts = [0; NODES as usize];
            for number in 0..CHUNKS {
                let takers: Vec<usize> = (0..shares.len())
                    .filter(|&node| shares[node].place(number) == Place::First)
                    .collect();
                assert_eq!(takers.len(), 1, "chunk {number} falls to {takers:?}");
                let places = shares.iter().map(|share| share.place(number));
                assert_eq!(places.filter(|&place| place == Place::Second).count(), 1);
                counts[takers[0]] += 1;
            }
            let fair = CHUNKS / NODES as u32;
            let within = counts
                .iter()
                .all(|&count| (fair / 3..3 * fair).contains(&count));
            assert!(within, "{counts:?}");
        }
        let alone = Share::new(content, Class::Peer, 1, Vec::new());
        assert!(alone.is_all() && (0..CHUNKS).all(|number| alone.place(number) == Place::First));
    }
}
