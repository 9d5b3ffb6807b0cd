// SPDX-License-Identifier: GPL-2.0 OR MIT

//! From the command line to an exit status.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use peerfs_sys::interrupt;

use crate::arguments::{Arguments, Command};
use crate::error::{Error, Result};
use crate::failure::PEERFS;
use crate::{
    build, cat, collect, container, diff, doctor, documentation, du, events, export, extract,
    images, import, inspect, list, mount, mount_helper, mounts, names, peers, pins, podman, pull,
    pull_on, push, signatures, status, top, trace, verify, warnings,
};

/// The exit status for a wrong command line.
const MISUSED: u8 = 2;
/// That for what did not go well.
const FAILED: u8 = 1;
/// That of a comparison that could not be made, as diff(1) has it: 1 says that there is a difference.
const NOT_COMPARED: u8 = 2;
/// That of a container that could not be made, as podman(1) and docker(1) have it.
const NOT_RUN: u8 = 125;

/// Runs the command that `arguments` (the program's name first) ask for.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "mount.peerfs") {
        return mount_helper::run(arguments);
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return PEERFS.explain(&error, MISUSED),
    };
    warnings::show(PEERFS.name);
    match dispatch(&arguments.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            if error.is_cancelled() {
                // Does not return, unless nobody interrupted it.
                interrupt::end();
            }
            PEERFS.report(&error);
            ExitCode::from(status(&arguments.command, &error))
        }
    }
}

/// The exit status of a command that has failed.
fn status(command: &Command, error: &Error) -> u8 {
    match (command, error) {
        (_, Error::Different) => FAILED,
        (Command::Diff(_), _) => NOT_COMPARED,
        (Command::Run(_), _) => NOT_RUN,
        _ => FAILED,
    }
}

/// Does what is asked; returns the exit status.
fn dispatch(command: &Command) -> Result<u8> {
    if let Command::Run(arguments) = command {
        return container::run(arguments);
    }
    do_simply(command).map(|()| 0)
}

/// Does what either goes well or not.
fn do_simply(command: &Command) -> Result<()> {
    match command {
        Command::Build(arguments) => build::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Convert(arguments) => import::convert::run(arguments),
        Command::Mount(arguments) => mount::run(arguments),
        Command::Umount(arguments) => mount::unmount(arguments),
        Command::Ls(arguments) => list::run(arguments),
        Command::Cat(arguments) => cat::run(arguments),
        Command::Diff(arguments) => diff::run(arguments),
        Command::Extract(arguments) => extract::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Images(arguments) => images::list(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Tag(arguments) => images::tag(arguments),
        Command::Untag(arguments) => images::untag(arguments),
        Command::Rm(arguments) => images::remove(arguments),
        Command::Du(arguments) => du::run(arguments),
        Command::Gc(arguments) => collect::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Pull(arguments) if !arguments.on.is_empty() => pull_on::run(arguments),
        Command::Pull(arguments) => pull::run(arguments),
        Command::Push(arguments) => push::run(arguments),
        Command::Key(arguments) => names::key::run(arguments),
        Command::Member(arguments) => names::member::run(arguments),
        Command::Publish(arguments) => names::publish::run(arguments),
        Command::PublishLayers(arguments) => names::layers::run(arguments),
        Command::Names(arguments) => names::history::names(arguments),
        Command::History(arguments) => names::history::history(arguments),
        Command::Rollback(arguments) => names::history::roll_back(arguments),
        Command::Follow(arguments) => names::follow::run(arguments),
        Command::Replicas(arguments) => names::replicas::run(arguments),
        Command::Sign(arguments) => signatures::sign(arguments),
        Command::VerifySignature(arguments) => signatures::verify(arguments),
        Command::Pin(arguments) => pins::pin(arguments),
        Command::Unpin(arguments) => pins::unpin(arguments),
        Command::Warm(arguments) => trace::warm(arguments),
        Command::Trace(arguments) => trace::run(arguments),
        Command::Run(_) => Ok(()),
        Command::Commit(arguments) => container::commit(arguments),
        Command::Containers(arguments) => container::containers(arguments),
        Command::Podman(arguments) => podman::run(arguments),
        Command::Mounts(arguments) => mounts::run(arguments),
        Command::Peers(arguments) => peers::list(arguments),
        Command::Unban(arguments) => peers::unban(arguments),
        Command::Top(arguments) => top::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Events(arguments) => events::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Completions { shell } => documentation::completions(*shell),
        Command::Man { directory } => documentation::man_pages(directory),
    }
}
