// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What has come into a store, for those who follow what is there.

use std::collections::VecDeque;

use peerfs_format::Digest;

/// The arrivals that are remembered: at 1 Gbit/s those of eight seconds.
const REMEMBERED: usize = 16 * 1024;

/// A change of what is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// It is known which packs this image has, by its manifest.
    Image(Digest),
    /// A chunk of a pack is there.
    Chunk {
        /// The pack.
        pack: Digest,
        /// The chunk's number.
        number: u32,
    },
    /// Something of this pack is not there any more, or was put there otherwise than by the chunk.
    Changed(Digest),
}

/// The arrivals since a node has started, as far as they are remembered. Whoever reads them keeps a cursor: so it
/// costs the same however many read.
#[derive(Debug, Default)]
pub struct Arrivals {
    log: VecDeque<Arrival>,
    /// How many were forgotten.
    forgotten: u64,
}

impl Arrivals {
    /// Adds one.
    pub fn push(&mut self, arrival: Arrival) {
        if self.log.len() == REMEMBERED {
            self.log.pop_front();
            self.forgotten += 1;
        }
        self.log.push_back(arrival);
    }

    /// The cursor behind the last one.
    pub fn end(&self) -> u64 {
        self.forgotten + self.log.len() as u64
    }

    /// Those behind a cursor; `None` if some of them are forgotten.
    pub fn since(&self, cursor: u64) -> Option<impl Iterator<Item = &Arrival>> {
        let known = cursor.checked_sub(self.forgotten)?;
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        Some(self.log.range(known.min(self.log.len())..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_far_behind_is_told() {
        let mut arrivals = Arrivals::default();
        let chunk = |number| Arrival::Chunk {
            pack: Digest([1; 32]),
            number,
        };
        let first = arrivals.end();
        (0..REMEMBERED as u32).for_each(|number| arrivals.push(chunk(number)));
        assert_eq!(arrivals.since(first).unwrap().count(), REMEMBERED);
        let second = arrivals.end();
        arrivals.push(chunk(7));
        assert!(arrivals.since(first).is_none());
        let new: Vec<_> = arrivals.since(second).unwrap().collect();
        assert_eq!(new, [&chunk(7)]);
        assert_eq!(arrivals.since(arrivals.end()).unwrap().count(), 0);
    }
}
