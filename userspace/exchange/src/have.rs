// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How much of something a node has.

use crate::ChunkMap;

/// How much of a blob or a pack a node has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Have {
    /// Nothing of it.
    Absent,
    /// All of it.
    Complete,
    /// These chunks of a pack.
    Partial(ChunkMap),
}

impl Have {
    /// Whether this chunk of the pack is there.
    pub fn chunk(&self, number: u32) -> bool {
        match self {
            Have::Absent => false,
            Have::Complete => true,
            Have::Partial(map) => map.contains(number),
        }
    }
}
