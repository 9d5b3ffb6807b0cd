// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The program that makes containers: any that has the command line of runc.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use peerfs_store::{printable, Architecture};
use peerfs_sys::interrupt;
use rustix::event::{poll, PollFd, PollFlags};
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use serde::Deserialize;

use crate::error::{Error, Result};

/// Those that are looked for.
const KNOWN: [&str; 2] = ["runc", "crun"];
/// What images of WebAssembly modules are for.
const WASM: [&str; 2] = ["wasm", "wasm32"];
/// What a shell adds to the number of a signal.
const SIGNALLED: i32 = 128;

/// The file of a container with the number of its first process, which the runtime writes when that has begun. It is there as
/// long as nobody has seen the end of it.
const PROCESS: &str = "pid";
/// What a terminal sends to all that it has in the foreground.
const OF_TERMINAL: [Signal; 2] = [Signal::INT, Signal::HUP];

/// A container runtime.
pub(super) struct Runtime {
    program: PathBuf,
}

/// What is read of a runtime's `state`.
#[derive(Deserialize)]
struct State {
    status: String,
}

impl Runtime {
    /// The one that a container was made by.
    pub(super) fn of(program: &Path) -> Self {
        Runtime {
            program: program.to_owned(),
        }
    }

    /// What it is called.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Whether the program of a container runs whose `peerfs run` was killed. One that has ended is forgotten.
    ///
    /// # Errors
    /// [`Error::Run`] if the runtime can't be asked.
    pub(super) fn still_runs(&self, bundle: &Path, name: &str) -> Result<bool> {
        if !bundle.join(PROCESS).exists() {
            return Ok(false);
        }
        let mut state = Command::new(&self.program);
        state
            .arg("state")
            .arg(container_id(name))
            .stdin(Stdio::null());
        let state = state.output().map_err(|source| self.failed(&source))?;
        // It knows of none any more, as after a start of the machine.
        let Ok(State { status }) = serde_json::from_slice(&state.stdout) else {
            return Ok(false);
        };
        if status != "stopped" {
            return Ok(true);
        }
        let mut delete = Command::new(&self.program);
        delete
            .arg("delete")
            .arg(container_id(name))
            .stdin(Stdio::null());
        delete.output().map_err(|source| self.failed(&source))?;
        Ok(false)
    }

    /// The one that is named, or one that is installed.
    ///
    /// # Errors
    /// [`Error::Run`] if there is none.
    pub(super) fn find(named: Option<&Path>) -> Result<Self> {
        if let Some(program) = named {
            return Ok(Runtime {
                program: program.to_owned(),
            });
        }
        let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .collect();
        let found = KNOWN.iter().find_map(|name| {
            let mut programs = folders.iter().map(|folder| folder.join(name));
            programs.find(|program| program.is_file())
        });
        let program = found.ok_or_else(|| {
            Error::Run(
                "there is no container runtime; install runc or crun, or name one with --runtime"
                    .to_owned(),
            )
        })?;
        Ok(Runtime { program })
    }

    /// Fails if it can't run programs for such a machine. WebAssembly takes a crun that was built with it.
    pub(super) fn check(&self, architecture: Option<&Architecture>) -> Result<()> {
        let is_wasm =
            architecture.is_some_and(|architecture| WASM.contains(&architecture.as_str()));
        if !is_wasm {
            return Ok(());
        }
        let version = Command::new(&self.program)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        let version = version.map_err(|source| self.failed(&source))?;
        if String::from_utf8_lossy(&version.stdout).contains("+WASM") {
            return Ok(());
        }
        Err(Error::Run(format!(
            "the image is of WebAssembly, which {} cannot run; name a crun that was built with it (`crun --version` says +WASM) with --runtime",
            printable(&self.program)
        )))
    }

    /// Runs a container to its end. Returns its program's exit status; of one that a signal ended that of a shell.
    ///
    /// # Errors
    /// [`Error::Cancelled`] or [`Error::Run`], all if its program has not begun.
    pub(super) fn run(&self, bundle: &Path, name: &str, reads_input: bool) -> Result<u8> {
        // What is mounted is unmounted by this process afterwards, whoever wants it to end.
        let _ = interrupt::watch();
        if interrupt::is_requested() {
            return Err(Error::Cancelled);
        }
        let process = bundle.join(PROCESS);
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--bundle").arg(bundle);
        command.arg("--pid-file").arg(&process);
        command.arg(container_id(name));
        if !reads_input {
            command.stdin(Stdio::null());
        }
        let child = command.spawn().map_err(|source| self.failed(&source))?;
        let status = wait(child).map_err(|source| self.failed(&source))?;
        if fs::remove_file(&process).is_err() {
            // It has said why.
            return Err(Error::Run(format!(
                "{} could not make the container",
                printable(&self.program)
            )));
        }
        let code = status
            .code()
            .or(status.signal().map(|signal| SIGNALLED + signal));
        Ok(code
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(u8::MAX))
    }

    fn failed(&self, source: &io::Error) -> Error {
        Error::Run(format!("cannot run {}: {source}", printable(&self.program)))
    }
}

/// Waits for the runtime, and passes on to it, and so to the container's program, what tells this process to end.
fn wait(mut child: Child) -> io::Result<ExitStatus> {
    let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(descriptor) = number.and_then(|number| pidfd_open(number, PidfdFlags::empty()).ok())
    else {
        return child.wait();
    };
    loop {
        // A signal interrupts this; the time is for one that came just before.
        let second = rustix::time::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let mut watched = [PollFd::new(&descriptor, PollFlags::IN)];
        let ready = poll(&mut watched, Some(&second));
        if let Some(signal) = interrupt::take().and_then(Signal::from_named_raw) {
            // The next one, too.
            let _ = interrupt::watch();
            if !(OF_TERMINAL.contains(&signal) && has_terminal()) {
                let _ = pidfd_send_signal(&descriptor, signal);
            }
        }
        match ready {
            Ok(0) | Err(rustix::io::Errno::INTR) => (),
            // It has ended, or nobody can say when.
            _ => return child.wait(),
        }
    }
}

/// Whether a terminal belongs to this process: what it sends, it sends to the runtime as well.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// What the runtime calls it: others may have containers of the same name.
fn container_id(name: &str) -> String {
    format!("peerfs-{name}")
}
