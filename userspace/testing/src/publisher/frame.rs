// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Stored chunks that no builder writes: what a decoder must refuse, or must at least survive.

use std::io::{self, Write};

use fastrand::Rng;
use zstd::stream::Encoder;

/// Bytes that decode to far more than any chunk has.
const BOMB: usize = 32 * 1024 * 1024;
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// The bytes to store instead of a chunk.
pub(super) struct Frames {
    bomb: Vec<u8>,
}

impl Frames {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Frames {
            bomb: zstd::bulk::compress(&vec![0; BOMB], 1)?,
        })
    }

    /// Something to store for a chunk that is stored as `stored` and has `logical_length` bytes of
    /// content, and what it is.
    pub(super) fn choose(
        &self,
        stored: &[u8],
        logical_length: u32,
        rng: &mut Rng,
    ) -> io::Result<(Vec<u8>, &'static str)> {
        let length = logical_length as usize;
        let content: Vec<u8> = (0..length).map(|place| (place / 7) as u8).collect();
        let mut noise = vec![0; rng.usize(1..stored.len().max(2))];
        rng.fill(&mut noise);
        Ok(match rng.u32(..16) {
            0 => (noise, "noise"),
            1 => ([&MAGIC[..], &noise].concat(), "noise behind the magic"),
            2 => (self.bomb.clone(), "a bomb"),
            3 => (
                frame(&content[..length - length / 2], |_| Ok(()))?,
                "a frame of half the content",
            ),
            4 => (
                frame(&[&content[..], b"x"].concat(), |_| Ok(()))?,
                "a frame of a byte more",
            ),
            5 => ([stored, &self.bomb].concat(), "a second frame"),
            6 => ([stored, &noise].concat(), "noise behind the frame"),
            7 => {
                let size = (noise.len() as u32).to_le_bytes();
                (
                    [&SKIPPABLE[..], &size, &noise, stored].concat(),
                    "a skippable frame first",
                )
            }
            8 => (
                stored[..rng.usize(..stored.len().max(1))].to_vec(),
                "cut off",
            ),
            9 => {
                let without_size = frame(&content, |encoder| {
                    encoder.include_contentsize(false)?;
                    encoder.window_log(27)
                })?;
                (without_size, "a window of 128 MiB, no content size")
            }
            10 => {
                let mut wrong = frame(&content, |encoder| encoder.include_checksum(true))?;
                if let Some(last) = wrong.last_mut() {
                    *last ^= 1;
                }
                (wrong, "a wrong checksum")
            }
            11 => (Vec::new(), "nothing"),
            // The decoder itself: wrong tables, wrong offsets.
            _ => {
                let mut wrong = stored.to_vec();
                for _ in 0..rng.u32(1..4) {
                    let header = rng.bool();
                    let end = if header {
                        wrong.len().min(40)
                    } else {
                        wrong.len()
                    };
                    if end > 0 {
                        wrong[rng.usize(..end)] ^= 1 << rng.u32(..8);
                    }
                }
                (wrong, "changed bits")
            }
        })
    }
}

fn frame(
    content: &[u8],
    settings: impl FnOnce(&mut Encoder<'_, Vec<u8>>) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new(), 3)?;
    encoder.set_pledged_src_size(Some(content.len() as u64))?;
    settings(&mut encoder)?;
    encoder.write_all(content)?;
    encoder.finish()
}
