// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `mount.peerfs`: the helper that mount(8) calls for `-t peerfs` and for fstab.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use peerfs_store::printable;

use crate::error::Result;
use crate::failure::MOUNT_HELPER;
use crate::fuse::Stay;
use crate::mount::MountRequest;
use crate::mount_options::MountOptions;
use crate::output::Output;
use crate::warnings;

/// The exit statuses that mount(8) defines.
const USAGE: u8 = 1;
const MOUNT_FAILURE: u8 = 32;

/// Mount a peerfs image, for mount(8).
///
/// In /etc/fstab:
///
///   IMAGE  /mnt  peerfs  root_dir=/var/lib/peerfs,timeout=30  0  0
#[derive(Parser)]
#[command(name = "mount.peerfs", version)]
struct HelperArguments {
    /// A tag of the store, a digest, or another reference (Documentation/references.md); or anything, such as "none",
    /// if the options have manifest=.
    source: String,
    /// The directory to mount it on.
    mountpoint: PathBuf,
    /// Mount options, separated by commas; root_dir= and manifest= among them. A comma of a path is
    /// written \, there.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<OsString>,
    /// Ignore options that are not known.
    #[arg(short = 's')]
    sloppy: bool,
    /// Do everything but mount.
    #[arg(short = 'f')]
    fake: bool,
    /// For mount(8); there is nothing to leave out.
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Say what is mounted.
    #[arg(short = 'v')]
    verbose: bool,
    /// The type, for mount(8).
    #[arg(short = 't', value_name = "TYPE")]
    r#type: Option<String>,
}

/// The definition of its command line.
pub(crate) fn command() -> clap::Command {
    HelperArguments::command()
}

/// Runs the helper.
pub(crate) fn run(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match HelperArguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return MOUNT_HELPER.explain(&error, USAGE),
    };
    warnings::show(MOUNT_HELPER.name);
    match mount(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            MOUNT_HELPER.report(&error);
            ExitCode::from(MOUNT_FAILURE)
        }
    }
}

/// What the image was called before mount(8) took that for a path: it makes one of what is called as something in the
/// working directory is, which for systemd and fstab is the root directory. No image is called by an absolute path.
fn name_of_image(source: &str, working_directory: Option<&Path>) -> String {
    let below =
        working_directory.and_then(|directory| Path::new(source).strip_prefix(directory).ok());
    match below.and_then(Path::to_str) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => source.to_owned(),
    }
}

fn mount(arguments: &HelperArguments) -> Result<()> {
    let mut options = MountOptions::default();
    for list in &arguments.options {
        options.add(list)?;
    }
    if arguments.sloppy {
        options.others.retain(|(name, _)| name == "timeout");
    }
    let request = MountRequest {
        source: name_of_image(&arguments.source, std::env::current_dir().ok().as_deref()),
        root_dir: options
            .root_dir
            .take()
            .unwrap_or_else(|| PathBuf::from(peerfs_store::DEFAULT_ROOT_DIR)),
        mountpoint: arguments.mountpoint.clone(),
        options,
    };
    let manifest = request.manifest()?;
    if arguments.verbose {
        let mut output = Output::new();
        output.line(&format!("{manifest} on {}", printable(&request.mountpoint)))?;
        output.finish()?;
    }
    if arguments.fake {
        return request.check_mountpoint();
    }
    request.mount(Stay::Behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_may_be_called_as_a_directory_is() {
        let name = |source, directory| name_of_image(source, Some(Path::new(directory)));
        assert_eq!(name("/home", "/"), "home");
        assert_eq!(name("/srv/debian", "/srv"), "debian");
        assert_eq!(name("debian", "/"), "debian");
        // What is no image's name stays as it is, and is told so.
        assert_eq!(name("/etc/home", "/srv"), "/etc/home");
        assert_eq!(name("/srv", "/srv"), "/srv");
        assert_eq!(name_of_image("/home", None), "/home");
    }
}
