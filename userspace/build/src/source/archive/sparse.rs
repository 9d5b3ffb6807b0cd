// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where the data of sparse files is, as GNU tar writes it: in the header (old format), in extended headers (0.0 and
//! 0.1), or in front of the data (1.0).
//!
//! Source: GNU tar's manual, "Storing Sparse Files".

use super::header::Problem;

/// The most runs of data that a file may have.
const RUNS_MAX: usize = 1 << 20;
/// The most digits of a number in a map.
const DIGITS_MAX: usize = 20;

/// A run of data in a sparse file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Checks that runs follow one another within a file of `size` bytes, and that there are `stored` bytes for them. Those
/// without bytes, which tell how long a file is that ends with a hole, are left out.
pub(super) fn check_runs(runs: Vec<Run>, size: u64, stored: u64) -> Result<Vec<Run>, Problem> {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for run in &runs {
        if run.offset < end {
            return Err("its map of holes is not in order");
        }
        end = run.offset.saturating_add(run.length);
        if end > size {
            return Err("its map of holes goes beyond its end");
        }
        total += run.length;
    }
    if total != stored {
        return Err("its map of holes is for another number of bytes");
    }
    let mut runs = runs;
    runs.retain(|run| run.length > 0);
    Ok(runs)
}

/// Adds a run to a map, which has a limit.
pub(super) fn add_run(runs: &mut Vec<Run>, run: Run) -> Result<(), Problem> {
    if runs.len() >= RUNS_MAX {
        return Err("its map of holes is too long");
    }
    runs.push(run);
    Ok(())
}

/// Reads the map that is in front of the data in format 1.0: numbers, each on a line of its own, of which the first is
/// that of the runs.
#[derive(Default)]
pub(super) struct MapReader {
    digits: Vec<u8>,
    /// Numbers that are still to come, once the first has.
    expected: Option<usize>,
    offset: Option<u64>,
    runs: Vec<Run>,
}

impl MapReader {
    /// Takes the next bytes of it; true once it is complete: what is left of them is padding.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<bool, Problem> {
        const PROBLEM: Problem = "its map of holes has something that is no number";
        for &byte in bytes {
            if self.expected == Some(0) {
                return Ok(true);
            }
            if byte != b'\n' {
                self.digits.push(byte);
                if self.digits.len() > DIGITS_MAX {
                    return Err(PROBLEM);
                }
                continue;
            }
            let number = decimal(&self.digits).ok_or(PROBLEM)?;
            self.digits.clear();
            match (&mut self.expected, self.offset.take()) {
                (None, _) => {
                    let count = usize::try_from(number).ok();
                    let count = count.filter(|&count| count <= RUNS_MAX);
                    self.expected = Some(count.ok_or("its map of holes is too long")? * 2);
                }
                (Some(expected), None) => {
                    self.offset = Some(number);
                    *expected -= 1;
                }
                (Some(expected), Some(offset)) => {
                    *expected -= 1;
                    let length = number;
                    self.runs.push(Run { offset, length });
                }
            }
        }
        Ok(self.expected == Some(0))
    }

    /// The map that was read.
    pub(super) fn runs(self) -> Vec<Run> {
        self.runs
    }
}

/// A number of decimal digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: u64, length: u64) -> Run {
        Run { offset, length }
    }

    #[test]
    fn runs_are_in_order_and_within_the_file() {
        let check = |runs: &[Run], stored| check_runs(runs.to_vec(), 100, stored);
        assert_eq!(check(&[run(10, 5), run(100, 0)], 5), Ok(vec![run(10, 5)]));
        assert_eq!(check(&[], 0), Ok(vec![]));
        for (runs, stored) in [
            (&[run(10, 5), run(14, 5)][..], 10),
            (&[run(99, 2)], 2),
            (&[run(u64::MAX, 2)], 2),
            (&[run(0, 5)], 4),
        ] {
            assert!(check(runs, stored).is_err(), "{runs:?}");
        }
    }

    #[test]
    fn a_map_comes_in_pieces() {
        let map = b"2\n0\n512\n1024\n3\n";
        for cut in 0..map.len() {
            let mut reader = MapReader::default();
            assert!(!reader.push(&map[..cut]).unwrap());
            assert!(reader.push(&map[cut..]).unwrap());
            assert_eq!(reader.runs(), [run(0, 512), run(1024, 3)]);
        }
        assert!(MapReader::default().push(b"0\n\0\0").unwrap());
        for wrong in [&b"x\n"[..], b"\n", b"99999999999999999999999", b"1048577\n"] {
            assert!(MapReader::default().push(wrong).is_err());
        }
    }
}
