// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The records of a table that were used.

/// A mark for each record of a table.
pub(super) struct Marks {
    words: Vec<u64>,
    length: usize,
    marked: usize,
}

impl Marks {
    /// None of so many records is marked.
    pub(super) fn new(length: usize) -> Self {
        Marks {
            words: vec![0; length.div_ceil(64)],
            length,
            marked: 0,
        }
    }

    /// The number of records.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Adds so many records behind the others, none of them marked.
    pub(super) fn extend(&mut self, count: usize) {
        self.length += count;
        let words = self.length.div_ceil(64);
        self.words.reserve_exact(words - self.words.len());
        self.words.resize(words, 0);
    }

    /// The first record that is not marked.
    pub(super) fn first_unmarked(&self) -> Option<usize> {
        (0..self.length).find(|index| !self.is_marked(*index))
    }

    /// Marks a record; false if there is none, or it is marked already.
    pub(super) fn mark(&mut self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        match self.words.get_mut(index / 64) {
            Some(word) if index < self.length && *word & bit == 0 => {
                *word |= bit;
                self.marked += 1;
                true
            }
            _ => false,
        }
    }

    /// Marks a run of records; false if one of them is not there or marked already, and then some may be marked. So
    /// marking takes as long as there are records, whatever the runs.
    pub(super) fn mark_run(&mut self, first: u32, count: u32) -> bool {
        let first = first as usize;
        (first..first.saturating_add(count as usize)).all(|index| self.mark(index))
    }

    /// Whether a record is marked.
    pub(super) fn is_marked(&self, index: usize) -> bool {
        let word = self.words.get(index / 64).copied().unwrap_or_default();
        word & (1 << (index % 64)) != 0
    }

    /// Whether all records are marked.
    pub(super) fn are_all_marked(&self) -> bool {
        self.marked == self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_marked_once() {
        let mut marks = Marks::new(70);
        assert!(marks.mark_run(0, 64) && marks.mark_run(64, 0) && marks.mark_run(65, 5));
        assert!(!marks.are_all_marked() && !marks.is_marked(64) && marks.is_marked(69));
        assert!(!marks.mark_run(63, 1) && !marks.mark_run(70, 1) && !marks.mark(usize::MAX));
        assert_eq!(marks.first_unmarked(), Some(64));
        assert!(marks.mark(64) && marks.are_all_marked());
        assert_eq!(marks.first_unmarked(), None);
        marks.extend(100);
        assert!(!marks.mark(69) && marks.mark_run(70, 100) && !marks.mark(170));
        assert!(Marks::new(0).are_all_marked());
    }
}
