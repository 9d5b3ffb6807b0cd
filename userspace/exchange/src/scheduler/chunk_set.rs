// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sets of chunks, of which many are looked through for each part that comes.

use crate::ChunkMap;

/// A set of numbers of chunks: a bit for each.
#[derive(Clone, Debug, Default)]
pub(super) struct ChunkSet {
    words: Vec<u64>,
    len: usize,
}

const BITS: u32 = u64::BITS;

impl ChunkSet {
    /// The chunks of a map whose numbers are below `end`.
    pub(super) fn of_map(map: &ChunkMap, end: u32) -> Self {
        let mut set = ChunkSet::default();
        let numbers = 0..map.chunk_count().min(end);
        for number in numbers.filter(|&number| map.contains(number)) {
            set.insert(number);
        }
        set
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.word(number / BITS) & bit(number) != 0
    }

    /// False if it was there. Takes memory up to the number: whoever inserts bounds it.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        let place = (number / BITS) as usize;
        if place >= self.words.len() {
            self.words.resize(place + 1, 0);
        }
        let is_new = !self.contains(number);
        if let Some(word) = self.words.get_mut(place) {
            *word |= bit(number);
        }
        self.len += usize::from(is_new);
        is_new
    }

    /// False if it was not there.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        let was_there = self.contains(number);
        if let Some(word) = self.words.get_mut((number / BITS) as usize) {
            *word &= !bit(number);
        }
        self.len -= usize::from(was_there);
        was_there
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bits of the numbers from `64 * place` on.
    pub(super) fn word(&self, place: u32) -> u64 {
        self.words.get(place as usize).copied().unwrap_or(0)
    }

    /// How many words there are.
    pub(super) fn words(&self) -> u32 {
        self.words.len() as u32
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.words()).flat_map(|place| numbers(place, self.word(place)))
    }
}

fn bit(number: u32) -> u64 {
    1 << (number % BITS)
}

/// The numbers whose bits are set in the word at this place.
pub(super) fn numbers(place: u32, mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lowest = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(place * BITS + lowest)
    })
}
