// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The same system calls on two trees with the same content, in a random order that a seed decides:
//! every answer must be the same, error or not.
//!
//! Not compared is what a filesystem may choose: the order of a directory's entries, its size and
//! positions, inode numbers (which must correspond, though), allocated blocks, and how much of a
//! run of zeros is called a hole.

mod answer;
mod operation;
mod path;
mod plan;
mod reading;
mod side;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::fs::{statvfs, StatVfsMountFlags};

use crate::{ensure, Error, Result};
use answer::Answer;
use plan::Plan;
use side::Side;

/// Files that are open at a time.
const SLOTS: usize = 12;

/// The options of a run.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// The one tree; what it answers is right.
    expected: PathBuf,
    /// The other tree.
    found: PathBuf,
    /// Decides everything.
    #[arg(long)]
    seed: u64,
    /// The most operations.
    #[arg(long, default_value_t = u64::MAX)]
    operations: u64,
    /// Ends after so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Drops the kernel's caches now and then: root only.
    #[arg(long)]
    drop_caches: bool,
}

/// A file as stat(2) names it: device and number.
type FileId = (u64, u64);

/// Inode numbers are a filesystem's own business, but the same file must always have the same one, and
/// another one another.
#[derive(Default)]
struct Numbers {
    forward: HashMap<FileId, FileId>,
    backward: HashMap<FileId, FileId>,
}

impl Numbers {
    fn correspond(&mut self, expected: FileId, found: FileId) -> bool {
        *self.forward.entry(expected).or_insert(found) == found
            && *self.backward.entry(found).or_insert(expected) == expected
    }
}

/// Compares two trees, both on read-only filesystems, until the first difference.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    for root in [&settings.expected, &settings.found] {
        let statistics = statvfs(root).map_err(Error::io::<rustix::io::Errno>("statfs", root))?;
        ensure(
            statistics.f_flag.contains(StatVfsMountFlags::RDONLY),
            || {
                format!(
                    "{}: changes are attempted, so mount it read-only",
                    root.display()
                )
            },
        )?;
    }
    let mut rng = Rng::with_seed(settings.seed);
    let mut plan = Plan::new(&settings.expected)?;
    let mut expected = Side::open(&settings.expected)?;
    let mut found = Side::open(&settings.found)?;
    let mut numbers = Numbers::default();
    let mut counts: HashMap<&'static str, (u64, u64)> = HashMap::new();
    let deadline = Instant::now() + Duration::from_secs(settings.seconds);
    let mut number = 0;
    while number < settings.operations && Instant::now() < deadline {
        if settings.drop_caches && rng.u32(..250) == 0 {
            let switch = Path::new("/proc/sys/vm/drop_caches");
            std::fs::write(switch, rng.u32(1..4).to_string())
                .map_err(Error::io("write", switch))?;
        }
        let operation = plan.choose(&mut rng);
        let answers = (expected.perform(&operation), found.perform(&operation));
        let agree = match (&answers.0, &answers.1) {
            (Ok(Answer::Status(one)), Ok(Answer::Status(other))) => {
                one == other && numbers.correspond(one.id, other.id)
            }
            (Ok(Answer::Place(_) | Answer::Refused), _)
            | (_, Ok(Answer::Place(_) | Answer::Refused)) => {
                expected.tolerates(&operation, &answers.0, &answers.1)
            }
            (one, other) => one == other,
        };
        ensure(agree, || {
            format!(
                "seed {}, operation {number}: {operation:?}{}\n  expected {}\n  found    {}",
                settings.seed,
                plan.context(&operation),
                answer::describe(&answers.0),
                answer::describe_difference(&answers.0, &answers.1),
            )
        })?;
        let count = counts.entry(operation.name()).or_default();
        count.0 += 1;
        count.1 += u64::from(answers.0.is_err());
        plan.note(&operation, &answers.0);
        number += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable();
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(name, (all, errors))| format!("{name} {all} ({errors})"))
        .collect();
    println!(
        "seed {}: {number} operations with the same answers (errors): {}",
        settings.seed,
        counts.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_correspond() {
        let mut numbers = Numbers::default();
        assert!(numbers.correspond((1, 1), (2, 9)));
        assert!(numbers.correspond((1, 1), (2, 9)));
        assert!(!numbers.correspond((1, 2), (2, 9)));
        assert!(!numbers.correspond((1, 1), (2, 8)));
    }
}
