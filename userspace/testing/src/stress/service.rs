// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The daemon of the mounted store: one at a time, of every character.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::{ensure, Error, Result};

/// The behaviours of a daemon, in the words of the command line.
#[derive(Clone, Copy)]
pub(super) struct Behaviours {
    name: &'static str,
    /// Milliseconds before each answer.
    delay: u32,
}

const LIARS: [&str; 10] = [
    "wrong-data",
    "wrong-length",
    "other",
    "wrong-places",
    "other-table",
    "no-slots",
    "nothing",
    "fail",
    "silent",
    "wrong-id",
];

impl Behaviours {
    pub(super) fn honest() -> Self {
        Behaviours {
            name: "honest",
            delay: 0,
        }
    }

    /// Does what it should, in one of the two ways, perhaps slowly.
    pub(super) fn any_honest(rng: &mut Rng) -> Self {
        Behaviours {
            name: if rng.bool() { "honest" } else { "loose" },
            delay: if rng.bool() { 0 } else { rng.u32(1..20) },
        }
    }

    pub(super) fn any_liar(rng: &mut Rng) -> Self {
        Behaviours {
            name: LIARS[rng.usize(..LIARS.len())],
            delay: 0,
        }
    }
}

/// The one daemon.
pub(super) struct Service {
    store: PathBuf,
    pristine: PathBuf,
    daemon: Option<Child>,
}

impl Service {
    pub(super) fn new(store: &Path, pristine: &Path) -> Self {
        Service {
            store: store.to_owned(),
            pristine: pristine.to_owned(),
            daemon: None,
        }
    }

    /// Kills the daemon, in the middle of whatever it does.
    pub(super) fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // It may have ended by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Starts another daemon instead.
    pub(super) fn start(&mut self, behaviours: Behaviours) -> Result<()> {
        self.stop();
        let program = std::env::current_exe().map_err(Error::io("find", Path::new("myself")))?;
        let ready = self.store.join("tmp/ready");
        let _ = fs::remove_file(&ready);
        let child = Command::new(&program)
            .args(["daemon", "--behaviour", behaviours.name])
            .args(["--delay", &behaviours.delay.to_string()])
            .args(["--root-dir".as_ref(), self.store.as_os_str()])
            .args(["--source".as_ref(), self.pristine.as_os_str()])
            .args(["--ready".as_ref(), ready.as_os_str()])
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::io("start", &program))?;
        self.daemon = Some(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !ready.exists() {
            ensure(Instant::now() < deadline, || {
                "the daemon does not come up".to_owned()
            })?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}
