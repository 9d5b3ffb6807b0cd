// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Readers: what they get is right, or an error that says that it can't be had.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use peerfs_sys::mapping::SharedMapping;
use rustix::fs::{fadvise, Advice};
use rustix::io::Errno;

use super::content::{first_wrong, read_at};
use super::{Shared, TIMEOUT};
use crate::mounting::{mount_image, unmount_image};

/// The longest single read.
const LENGTH_MAX: usize = 300 * 1024;
const PAGE: usize = 4096;

/// The errors that say that something can't be had just now. EFAULT is what is said of a mapping's page.
const HONEST: [Errno; 7] = [
    Errno::IO,
    Errno::TIMEDOUT,
    Errno::HOSTUNREACH,
    Errno::NODATA,
    Errno::NOMEM,
    Errno::NFILE,
    Errno::FAULT,
];

fn is_honest(error: &io::Error) -> bool {
    HONEST
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Reads from a mount until it is over.
pub(super) fn stay(shared: &Shared<'_>, reader: usize, mount: &Path) {
    let mut rng = Rng::with_seed(shared.settings.seed ^ (reader as u64) << 32);
    while !shared.is_over() {
        if shared.settings.failing_allocations && rng.u32(..30) == 0 {
            let is_failing = if rng.u32(..3) == 0 { "1" } else { "0" };
            match fs::write("/proc/thread-self/make-it-fail", is_failing) {
                // Asking for it takes memory too: another time.
                Err(error) if !is_honest(&error) => {
                    shared.report(format!("can't have allocations failed: {error}"));
                }
                _ => (),
            }
        }
        look(shared, mount, &mut rng);
        shared.note_progress(reader);
    }
}

/// Mounts, reads for a while, and unmounts, until it is over.
pub(super) fn come_and_go(shared: &Shared<'_>, reader: usize) {
    let mut rng = Rng::with_seed(shared.settings.seed ^ (reader as u64) << 32);
    let mount = shared.settings.mounts.join(format!("reader-{reader}"));
    if let Err(error) = fs::create_dir_all(&mount) {
        return shared.report(format!("can't create {}: {error}", mount.display()));
    }
    while !shared.is_over() {
        let settings = shared.settings;
        match mount_image(&settings.store, &settings.manifest, &mount, TIMEOUT) {
            Ok(()) => {
                shared.mounts.fetch_add(1, Ordering::Relaxed);
                for _ in 0..rng.u32(..40) {
                    look(shared, &mount, &mut rng);
                    shared.note_progress(reader);
                    if shared.is_over() {
                        break;
                    }
                }
                if let Err(errno) = unmount_image(&mount) {
                    shared.report(format!("{} can't be unmounted: {errno}", mount.display()));
                }
            }
            Err(errno) if HONEST.contains(&errno) => {
                shared.refused_mounts.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
            Err(errno) => shared.report(format!("can't mount: {errno}")),
        }
        shared.note_progress(reader);
    }
}

/// One look at something.
fn look(shared: &Shared<'_>, mount: &Path, rng: &mut Rng) {
    let answer = if rng.u32(..8) == 0 {
        let path = mount.join(&shared.content.paths[rng.usize(..shared.content.paths.len())]);
        fs::symlink_metadata(&path).and_then(|metadata| {
            if metadata.is_dir() {
                for entry in fs::read_dir(&path)? {
                    entry?;
                }
            }
            Ok(None)
        })
    } else {
        let (path, bytes) = &shared.content.files[rng.usize(..shared.content.files.len())];
        let full = mount.join(path);
        read_somewhere(&full, bytes, rng).map(|wrong| wrong.map(|what| (path, what)))
    };
    match answer {
        Ok(None) => {
            shared.right.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some((path, what))) => shared.report(format!("{}: {what}", path.display())),
        Err(error) if is_honest(&error) => {
            shared.errors.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => shared.report(format!("a wrong error: {error}")),
    }
}

/// Reads some bytes in some way; what is wrong with them.
fn read_somewhere(path: &Path, expected: &[u8], rng: &mut Rng) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let offset = rng.usize(..=expected.len());
    let length = match rng.u32(..4) {
        0 => rng.usize(1..100),
        1 => expected.len().clamp(1, 8 * LENGTH_MAX),
        _ => rng.usize(1..LENGTH_MAX),
    };
    if rng.u32(..20) == 0 {
        let advice = [
            Advice::DontNeed,
            Advice::WillNeed,
            Advice::Random,
            Advice::Sequential,
        ];
        fadvise(&file, 0, None, advice[rng.usize(..advice.len())])?;
    }
    let (way, offset, found) = match rng.u32(..4) {
        0 if !expected.is_empty() => {
            let offset = offset.min(expected.len() - 1) / PAGE * PAGE;
            let length = length.min(expected.len() - offset);
            let mapping = SharedMapping::new(
                &file,
                offset as u64,
                NonZeroUsize::new(length).unwrap_or(NonZeroUsize::MIN),
            )?;
            // A page that is not to be had would end all of this with a signal.
            mapping.populate()?;
            let mut bytes = vec![0; length];
            mapping.read(0, &mut bytes);
            let wrong = first_wrong(expected, offset, length, &bytes);
            return Ok(wrong.map(|place| describe("mapped", offset, length, place)));
        }
        1 => ("from the beginning", 0, read_at(&file, 0, length)?),
        _ => ("read", offset, read_at(&file, offset, length)?),
    };
    let wrong = first_wrong(expected, offset, length, &found);
    Ok(wrong.map(|place| describe(way, offset, length, place)))
}

fn describe(way: &str, offset: usize, length: usize, place: usize) -> String {
    format!("{length} bytes from {offset}, {way}: wrong from byte {place} of these on")
}
