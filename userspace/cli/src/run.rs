// SPDX-License-Identifier: GPL-2.0 OR MIT

//! From the command line to an exit status.

use std::error::Error as _;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::error::{Error, Result};
use crate::{build, cat, documentation, list, mount, mount_helper, status, verify};

/// Runs the command that `arguments` (the program's name first) ask for.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "mount.peerfs") {
        return mount_helper::run(arguments);
    }
    // Exits by itself, with status 2, if the arguments are wrong.
    let arguments = Arguments::parse_from(arguments);
    match dispatch(&arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report("peerfs", &error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &Command) -> Result<()> {
    match command {
        Command::Build(arguments) => build::run(arguments),
        Command::Mount(arguments) => mount::run(arguments),
        Command::Umount(arguments) => mount::unmount(arguments),
        Command::Ls(arguments) => list::run(arguments),
        Command::Cat(arguments) => cat::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Completions { shell } => documentation::completions(*shell),
        Command::Man { directory } => documentation::man_pages(directory),
    }
}

/// Prints an error and its causes as one line.
pub(crate) fn report(program: &str, error: &Error) {
    if error.is_broken_pipe() {
        return;
    }
    let mut line = format!("{program}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{line}");
}
