// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The disturbances of the readers.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use peerfs_format::{PLACES_HEADER_SIZE, PLACE_SIZE};
use rustix::fs::{fallocate, FallocateFlags};

use super::service::{Behaviours, Service};
use super::Shared;
use crate::{Error, Result};

const ACTIONS: [(&str, Action); 9] = [
    ("caches dropped", Director::drop_caches),
    ("places of chunks emptied", Director::empty_place),
    ("entries of tables changed", Director::change_places),
    ("data files and tables removed", Director::remove_data_file),
    ("metadata removed", Director::remove_metadata),
    ("daemons restarted", Director::restart),
    ("liars", Director::lie),
    ("times without a daemon", Director::be_absent),
    ("readers killed", Director::kill_reader),
];

type Action = fn(&mut Director, &Shared<'_>, &Path) -> Result<()>;

/// Decides what happens when.
pub(super) struct Director {
    rng: Rng,
    pub(super) service: Service,
    taken: [u64; ACTIONS.len()],
}

impl Director {
    pub(super) fn new(rng: Rng, service: Service) -> Self {
        Director {
            rng,
            service,
            taken: [0; ACTIONS.len()],
        }
    }

    /// Does things until the time is over.
    pub(super) fn direct(&mut self, shared: &Shared<'_>, mount: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(shared.settings.seconds);
        while Instant::now() < deadline && !shared.is_over.load(Ordering::Relaxed) {
            // What has not been done yet comes first, so that a short run has it all.
            let number = match self.taken.iter().position(|taken| *taken == 0) {
                Some(number) if self.rng.bool() => number,
                _ => self.rng.usize(..ACTIONS.len()),
            };
            self.taken[number] += 1;
            ACTIONS[number].1(self, shared, mount)?;
            thread::sleep(Duration::from_millis(self.rng.u64(..150)));
            if let Some(reader) = shared.stuck() {
                // Not reported by a return alone: whoever hangs would be waited for.
                eprintln!("peerfs-testing: reader {reader} hangs");
                shared.report(format!("reader {reader} hangs"));
            }
        }
        Ok(())
    }

    pub(super) fn did_everything(&self) -> bool {
        self.taken.iter().all(|taken| *taken > 0)
    }

    pub(super) fn summary(&self) -> String {
        let counts = ACTIONS.iter().zip(self.taken);
        let counts: Vec<_> = counts
            .map(|((name, _), taken)| format!("{name} {taken}"))
            .collect();
        counts.join(", ")
    }

    fn drop_caches(&mut self, _: &Shared<'_>, _: &Path) -> Result<()> {
        let switch = Path::new("/proc/sys/vm/drop_caches");
        fs::write(switch, self.rng.u32(1..4).to_string()).map_err(Error::io("write", switch))
    }

    /// A file in a folder of the store, if there is one.
    fn any_file(&mut self, folder: &Path) -> Result<Option<PathBuf>> {
        let mut found = Vec::new();
        // It may not be there yet.
        let entries = fs::read_dir(folder).into_iter().flatten();
        for entry in entries {
            found.push(entry.map_err(Error::io("read", folder))?.path());
        }
        found.sort();
        Ok(self.rng.choice(&found).cloned())
    }

    /// A file that has chunks.
    fn any_data_file(&mut self, shared: &Shared<'_>) -> Result<Option<PathBuf>> {
        let folder = if self.rng.bool() { "partial" } else { "loose" };
        self.any_file(&shared.settings.store.join(folder))
    }

    /// The bytes of some chunks are gone, and the table does not know.
    fn empty_place(&mut self, shared: &Shared<'_>, _: &Path) -> Result<()> {
        if let Some(path) = self.any_data_file(shared)? {
            let changing = || Error::io::<std::io::Error>("change", &path);
            let file = OpenOptions::new()
                .write(true)
                .open(&path)
                .map_err(changing())?;
            let length = file.metadata().map_err(changing())?.len().max(1);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let start = self.rng.u64(..length);
            let count = self.rng.u64(1..=length);
            fallocate(&file, flags, start, count).map_err(|errno| changing()(errno.into()))?;
        }
        Ok(())
    }

    /// The table does not know of some chunks whose bytes are there, or says that they are elsewhere.
    fn change_places(&mut self, shared: &Shared<'_>, _: &Path) -> Result<()> {
        let places = shared.settings.store.join("places");
        if let Some(path) = self.any_file(&places)? {
            let changing = || Error::io("change", &path);
            let file = OpenOptions::new()
                .write(true)
                .open(&path)
                .map_err(changing())?;
            let length = file.metadata().map_err(changing())?.len();
            let entries = length.saturating_sub(PLACES_HEADER_SIZE as u64) / PLACE_SIZE as u64;
            if entries > 0 {
                let entry = self.rng.u64(..entries);
                let place = PLACES_HEADER_SIZE as u64 + entry * PLACE_SIZE as u64;
                let other = if self.rng.bool() { 0 } else { self.rng.u64(..) };
                file.write_all_at(&other.to_le_bytes(), place)
                    .map_err(changing())?;
            }
        }
        Ok(())
    }

    /// Open files stay open; the daemon begins a new file.
    fn remove_data_file(&mut self, shared: &Shared<'_>, _: &Path) -> Result<()> {
        let places = shared.settings.store.join("places");
        let found = match self.rng.bool() {
            true => self.any_data_file(shared)?,
            false => self.any_file(&places)?,
        };
        if let Some(path) = found {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    fn remove_metadata(&mut self, shared: &Shared<'_>, _: &Path) -> Result<()> {
        let blobs = shared.settings.store.join("blobs/sha256");
        if let Some(path) = self.any_file(&blobs)? {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    fn restart(&mut self, _: &Shared<'_>, _: &Path) -> Result<()> {
        self.service.start(Behaviours::any_honest(&mut self.rng))
    }

    fn lie(&mut self, _: &Shared<'_>, _: &Path) -> Result<()> {
        self.service.start(Behaviours::any_liar(&mut self.rng))?;
        thread::sleep(Duration::from_millis(self.rng.u64(50..500)));
        self.service.start(Behaviours::any_honest(&mut self.rng))
    }

    fn be_absent(&mut self, _: &Shared<'_>, _: &Path) -> Result<()> {
        self.service.stop();
        thread::sleep(Duration::from_millis(self.rng.u64(..300)));
        self.service.start(Behaviours::any_honest(&mut self.rng))
    }

    /// Another process that reads, killed in the middle of it.
    fn kill_reader(&mut self, _: &Shared<'_>, mount: &Path) -> Result<()> {
        let program = std::env::current_exe().map_err(Error::io("find", Path::new("myself")))?;
        let mut reader = Command::new(&program)
            .arg("manifest")
            .arg(mount)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::io("start", &program))?;
        thread::sleep(Duration::from_millis(self.rng.u64(..400)));
        // It may have ended by itself.
        let _ = reader.kill();
        let _ = reader.wait();
        Ok(())
    }
}
