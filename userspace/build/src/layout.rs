// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the format leaves to whoever builds.

use peerfs_format::CHUNK_MAX;

/// How an image is divided. Readers can do with any layout, but images share chunks only if they have
/// the same one. The default is what came out best when it was measured
/// (Documentation/format-choices.md).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    /// The chunks' sizes.
    pub chunks: ChunkSizes,
    /// Files of at least so many bytes are chunked by themselves; shorter ones share chunks.
    pub large_file: u64,
    /// Where a pack is closed: bytes as stored.
    pub pack: u64,
    /// Where an inode shard is closed: bytes.
    pub shard: usize,
}

/// The sizes of chunks in bytes, before compression: ascending, and at most [`CHUNK_MAX`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkSizes {
    /// The shortest, except for the last of a stream.
    pub min: u32,
    /// What the chunker aims at.
    pub average: u32,
    /// The longest.
    pub max: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Layout {
            chunks: ChunkSizes {
                min: 32 * 1024,
                average: 64 * 1024,
                max: 128 * 1024,
            },
            large_file: 64 * 1024,
            pack: 64 * 1024 * 1024,
            shard: 256 * 1024,
        }
    }
}

impl ChunkSizes {
    /// Whether readers take such chunks.
    pub(crate) fn are_valid(self) -> bool {
        0 < self.min
            && self.min <= self.average
            && self.average <= self.max
            && self.max <= CHUNK_MAX
    }
}
