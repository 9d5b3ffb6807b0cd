// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mounts through FUSE: by a process that stays.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{absolute, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use peerfs_format::Digest;
use peerfs_fuse::{Mount, Options};
use peerfs_sys::interrupt;
use peerfs_text::Causes;
use rustix::process::setsid;

use crate::error::{Error, Result};
use crate::mount::MountRequest;
use crate::mount_options::MountOptions;
use crate::realm;

/// What the process that stays says when others can use the mount.
const READY: &str = "mounted";
/// The most bytes of its last words that are read.
const WORDS_MAX: u64 = 16 * 1024;
/// How long a reader waits, as with the kernel's own filesystem.
const TIMEOUT: u32 = 30;

/// How an image is mounted through FUSE.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stay {
    /// By another process, which stays when this one has ended.
    Behind,
    /// By this one, until the mount is gone.
    Here,
    /// By this one, which says on its standard output when it is mounted, and is alone from then on.
    Announced,
}

/// Mounts an image through FUSE.
pub(crate) fn mount(request: &MountRequest, manifest: Digest, stay: Stay) -> Result<()> {
    match stay {
        Stay::Behind => leave_behind(request, manifest),
        Stay::Here | Stay::Announced => serve(request, manifest, stay == Stay::Announced),
    }
}

/// Has FUSE's helper unmount what this user has mounted; whether it did.
pub(crate) fn unmount(mountpoint: &Path, is_lazy: bool) -> bool {
    Command::new("fusermount3")
        .args(if is_lazy { &["-u", "-z"][..] } else { &["-u"] })
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Starts the process that stays, and waits until it has mounted the image.
fn leave_behind(request: &MountRequest, manifest: Digest) -> Result<()> {
    let failed = |reason: String| request.fuse_failed(reason);
    let own = |error: std::io::Error| failed(format!("cannot start another process: {error}"));
    let program = std::env::current_exe().map_err(own)?;
    let mut options = request.options.clone();
    options.socket = absolute(&options.socket).map_err(own)?;
    options.key = options.key.map(absolute).transpose().map_err(own)?;
    options.identity = options.identity.map(absolute).transpose().map_err(own)?;
    // It keeps no directory in use.
    let mut child = Command::new(program)
        .args(["mount", "--fuse", "--announce", "--root-dir"])
        .arg(absolute(&request.root_dir).map_err(own)?)
        .arg("-o")
        .arg(options.to_text())
        .arg(manifest.to_string())
        .arg(request.mountpoint.canonicalize().map_err(own)?)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(own)?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        // What is not said is no success.
        let _ = BufReader::new(output.take(WORDS_MAX)).read_line(&mut said);
    }
    if said.trim_end() == READY {
        return Ok(());
    }
    let mut reason = String::new();
    if let Some(errors) = child.stderr.take() {
        let _ = errors.take(WORDS_MAX).read_to_string(&mut reason);
    }
    let _ = child.wait();
    let reason = reason.trim_end().rsplit("peerfs: ").next();
    Err(failed(reason.unwrap_or_default().to_owned()))
}

/// Mounts the image and serves it.
fn serve(request: &MountRequest, manifest: Digest, announces: bool) -> Result<()> {
    let FuseOptions {
        timeout,
        socket,
        allow_other,
    } = FuseOptions::of(&request.options)?;
    let options = Options {
        root_dir: request.root_dir.clone(),
        manifest,
        key: realm::of_mount(&request.options, &request.root_dir, &manifest)?,
        mountpoint: request.mountpoint.clone(),
        socket,
        timeout: Duration::from_secs(timeout.into()),
        attributes: request.options.attributes.0,
        allow_other,
    };
    let failed = |error: &dyn std::error::Error| Error::Fuse(Causes(error).to_string());
    let mount = Mount::new(&options).map_err(|error| failed(&error))?;
    interrupt::watch().map_err(|error| failed(&error))?;
    if announces {
        // Who has started it may go away. Not before it is mounted: whom autofs asks for a mount it knows by the process
        // group. It fails if there is a session already.
        let _ = setsid();
        announce().map_err(|error| failed(&error))?;
    }
    let served = mount.serve(&request.mountpoint, interrupt::is_requested);
    served.map_err(|error| failed(&error))
}

/// Says that it is mounted, and says nothing more.
fn announce() -> std::io::Result<()> {
    println!("{READY}");
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}

/// The options that the kernel's own filesystem knows, and those that only a mount through FUSE has.
struct FuseOptions {
    timeout: u32,
    socket: PathBuf,
    allow_other: bool,
}

impl FuseOptions {
    fn of(options: &MountOptions) -> Result<Self> {
        let mut found = FuseOptions {
            timeout: TIMEOUT,
            socket: options.socket.clone(),
            allow_other: false,
        };
        for (name, value) in &options.others {
            match (name.as_str(), value.as_deref()) {
                ("timeout", Some(value)) => {
                    let problem =
                        || Error::MountOption(format!("timeout={value} is no number of seconds"));
                    found.timeout = value.parse().map_err(|_| problem())?;
                }
                ("allow_other", None) => found.allow_other = true,
                // The daemon's to know; through FUSE it is not told.
                ("workload", Some(_)) => (),
                (name, _) => {
                    let problem = format!("a mount through FUSE knows no option {name}");
                    return Err(Error::MountOption(problem));
                }
            }
        }
        Ok(found)
    }
}
