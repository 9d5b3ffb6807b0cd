// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The program that makes containers: any that has the command line of runc.

use std::env;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use peerfs_store::{printable, Architecture};
use peerfs_sys::interrupt;

use crate::error::{Error, Result};

/// Those that are looked for.
const KNOWN: [&str; 2] = ["runc", "crun"];
/// What images of WebAssembly modules are for.
const WASM: [&str; 2] = ["wasm", "wasm32"];
/// What a shell adds to the number of a signal.
const SIGNALLED: i32 = 128;

/// A container runtime.
pub(super) struct Runtime {
    program: PathBuf,
}

impl Runtime {
    /// The one that is named, or one that is installed.
    ///
    /// # Errors
    /// [`Error::Container`] if there is none.
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
    pub(super) fn run(&self, bundle: &Path, name: &str, reads_input: bool) -> Result<u8> {
        // It passes on what it gets, Ctrl-C too; what is mounted is unmounted by this process afterwards.
        let _ = interrupt::watch();
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .arg("--bundle")
            .arg(bundle)
            .arg(container_id(name));
        if !reads_input {
            command.stdin(Stdio::null());
        }
        let status = command.status().map_err(|source| self.failed(&source))?;
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

/// What the runtime calls it: others may have containers of the same name.
fn container_id(name: &str) -> String {
    format!("peerfs-{name}")
}
