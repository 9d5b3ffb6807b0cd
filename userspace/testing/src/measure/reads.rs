// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reads of one file.

use std::fs::File;
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use super::{drain, Measured};
use crate::{ensure, Error, Result};

/// As coreutils' cat reads.
const SEQUENTIAL: usize = 128 << 10;
const PAGE: u64 = 4096;

/// Reads `path` from its begin to its end.
pub(super) fn sequential(path: &Path) -> Result<Measured> {
    let mut buffer = vec![0; SEQUENTIAL];
    let began = Instant::now();
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let bytes = drain(&mut file, &mut buffer).map_err(Error::io("read", path))?;
    Ok(Measured {
        time: began.elapsed(),
        bytes,
    })
}

/// `reads` reads of a page by `threads` threads, each with a file description of its own. The same
/// seed means the same places.
pub(super) fn random(path: &Path, threads: NonZeroU32, reads: u32, seed: u64) -> Result<Measured> {
    let length = path.metadata().map_err(Error::io("stat", path))?.len();
    let pages = length / PAGE;
    ensure(pages > 0, || format!("{} is too small", path.display()))?;
    let each = reads / threads;
    // The clock starts when all threads do.
    let start = Barrier::new(threads.get() as usize + 1);
    let (time, results) = thread::scope(|scope| {
        let readers: Vec<_> = (0..threads.get())
            .map(|number| {
                let start = &start;
                scope.spawn(move || {
                    let file = File::open(path);
                    let mut buffer = [0; PAGE as usize];
                    let mut random = fastrand::Rng::with_seed(seed + u64::from(number));
                    start.wait();
                    let file = file?;
                    (0..each).try_for_each(|_| {
                        file.read_exact_at(&mut buffer, random.u64(..pages) * PAGE)
                    })
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let results: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        (began.elapsed(), results)
    });
    for result in results {
        result
            .map_err(|_| Error::Finding("a reader panicked".into()))?
            .map_err(Error::io("read", path))?;
    }
    Ok(Measured {
        time,
        bytes: u64::from(each) * u64::from(threads.get()) * PAGE,
    })
}
