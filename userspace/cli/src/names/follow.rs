// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs follow`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use peerfs_control::{NameStatus, Reply, Request};
use peerfs_store::printable;
use peerfs_sys::interrupt;
use peerfs_text::Causes;
use rustix::io::Errno;
use rustix::process::{kill_process_group, Pid, Signal};

use super::switch::{self, Before, MountId};
use super::time_text::parse_span;
use crate::arguments::{DaemonArguments, StoreArguments};
use crate::conversation::{ask, Conversation};
use crate::error::{Error, Result};
use crate::fuse::Stay;
use crate::mount::MountRequest;
use crate::mount_options::MountOptions;
use crate::output::{tell, Output};
use crate::pull;

/// How long it is waited before an image that could not be mounted is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How long it is waited for a daemon that has ended.
const DAEMON_PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether a check has ended.
const TICK: Duration = Duration::from_millis(20);

/// Keep an image mounted as a name changes what it stands for.
///
/// Mounts what NAME stands for, and stays. When something newer is published its image is mounted beneath the one that is there,
/// which is then detached: nobody finds nothing in between, and files that are open stay what they were. Prints the sequence
/// and the digest of each image when it is mounted. Ends, and unmounts it, after Ctrl-C or SIGTERM. Needs Linux 6.5 or
/// newer, and root.
#[derive(Args)]
pub(crate) struct FollowArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Mount options, as for `peerfs mount`.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<std::ffi::OsString>,
    /// Mount through FUSE, also where the kernel has peerfs.
    #[arg(long)]
    fuse: bool,
    /// A command for sh(1) that says, before an image takes the place of another one, whether it may: it finds it in the
    /// directory $PEERFS_ROOT, and its digest in $PEERFS_IMAGE. If it fails, the name is rolled back on this machine to the image that is mounted.
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString)]
    check: Option<String>,
    /// How long that may take.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = parse_span)]
    check_timeout: Duration,
    /// Take the place of what is mounted on MOUNTPOINT, such as what an earlier one has left that was killed.
    #[arg(long)]
    replace: bool,
    /// The name: KEY/NAME, or an alias.
    #[arg(value_name = "NAME")]
    name: String,
    /// The directory to mount it on.
    #[arg(value_hint = ValueHint::DirPath)]
    mountpoint: PathBuf,
}

/// Follows a name.
pub(crate) fn run(arguments: &FollowArguments) -> Result<()> {
    interrupt::watch().map_err(Error::Runtime)?;
    let mut options = MountOptions::default();
    for list in &arguments.options {
        options.add(list)?;
    }
    options.fuse |= arguments.fuse;
    options.socket.clone_from(&arguments.daemon.socket);
    let mut follower = Follower {
        arguments,
        options,
        mounted: None,
        retry_at: None,
    };
    let followed = match follower.follow() {
        Err(Error::Cancelled) => Ok(()),
        followed => followed,
    };
    if let Some(mounted) = &follower.mounted {
        unmount(&arguments.mountpoint, mounted.mount)?;
    }
    followed
}

/// Takes away what this command has mounted, and nothing else.
fn unmount(mountpoint: &Path, mount: MountId) -> Result<()> {
    let failed = |hint: &'static str, errno: Errno| Error::Unmount {
        mountpoint: mountpoint.to_owned(),
        hint,
        source: errno.into(),
    };
    match switch::mount_at(mountpoint) {
        Ok(Some(there)) if there == mount => (),
        // Somebody has unmounted it.
        Ok(None) | Err(Errno::NOENT) => return Ok(()),
        Ok(Some(_)) => {
            let hint = ", because somebody has mounted something else over it";
            return Err(failed(hint, Errno::BUSY));
        }
        Err(errno) => return Err(failed("", errno)),
    }
    switch::detach(mountpoint).map_err(|errno| failed("", errno))
}

/// What is mounted.
struct Mounted {
    image: String,
    sequence: u64,
    generation: Option<u64>,
    mount: MountId,
}

struct Follower<'a> {
    arguments: &'a FollowArguments,
    options: MountOptions,
    mounted: Option<Mounted>,
    /// When what could not be done is tried again.
    retry_at: Option<Instant>,
}

/// Whether an image may be mounted.
#[derive(Debug, Eq, PartialEq)]
enum Health<T = ()> {
    Good(T),
    Refused,
}

impl Follower<'_> {
    /// Follows until somebody wants it to end.
    fn follow(&mut self) -> Result<()> {
        let request = Request::Follow {
            name: self.arguments.name.clone(),
        };
        let socket = &self.arguments.daemon.socket;
        let mut conversation = Conversation::open(socket, &request)?.may_be_silent();
        let mut last = None;
        loop {
            let retry_at = self.retry_at;
            let is_due = || retry_at.is_some_and(|at| Instant::now() >= at);
            match conversation.next(|| interrupt::is_requested() || is_due()) {
                _ if interrupt::is_requested() => return Ok(()),
                Ok(Some(Reply::Name(status))) => last = Some(status),
                Ok(Some(Reply::Error(problem))) if self.mounted.is_none() => {
                    return Err(Error::Refused(problem))
                }
                Ok(Some(Reply::Error(problem))) => {
                    tell(&format!(
                        "peerfs: {}; what is mounted stays",
                        printable(&problem)
                    ));
                    pause(RETRY)?;
                    conversation = self.reopen(&request)?;
                    continue;
                }
                Ok(Some(_)) => return Err(Error::UnexpectedReply),
                Ok(None) => (),
                Err(_) => {
                    // What is mounted stays, whatever becomes of the daemon.
                    tell(
                        "peerfs: peerfsd has ended; what is mounted stays until it is there again",
                    );
                    conversation = self.reopen(&request)?;
                    continue;
                }
            }
            if let Some(status) = &last {
                self.retry_at = None;
                self.take(status)?;
            }
        }
    }

    fn reopen(&self, request: &Request) -> Result<Conversation> {
        loop {
            pause(DAEMON_PAUSE)?;
            if let Ok(opened) = Conversation::open(&self.arguments.daemon.socket, request) {
                return Ok(opened.may_be_silent());
            }
        }
    }

    /// Mounts what the name stands for, unless it is mounted. What can't be mounted is tried again.
    fn take(&mut self, status: &NameStatus) -> Result<()> {
        let (Some(image), Some(sequence)) = (&status.image, status.sequence) else {
            let problem = status.problem.as_deref().unwrap_or("it stands for nothing");
            tell(&format!(
                "peerfs: {}; what is mounted stays",
                printable(problem)
            ));
            return Ok(());
        };
        if let Some(mounted) = self
            .mounted
            .as_mut()
            .filter(|mounted| mounted.image == *image)
        {
            mounted.sequence = sequence;
            mounted.generation = status.generation;
            return Ok(());
        }
        match self.switch_to(image) {
            Ok(Health::Good(mount)) => {
                self.mounted = Some(Mounted {
                    image: image.clone(),
                    sequence,
                    generation: status.generation,
                    mount,
                });
                let mut output = Output::new();
                output.line(&format!("{sequence} {image}"))?;
                output.finish()
            }
            Ok(Health::Refused) => self.refuse(image, sequence),
            Err(Error::Cancelled) => Ok(()),
            Err(error) => {
                tell(&format!(
                    "peerfs: {}; tried again in a while",
                    Causes(&error)
                ));
                self.retry_at = Some(Instant::now() + RETRY);
                Ok(())
            }
        }
    }

    /// The check has refused an image.
    fn refuse(&mut self, image: &str, sequence: u64) -> Result<()> {
        let problem = format!("the check has refused image {image} (record {sequence})");
        let Some(mounted) = &self.mounted else {
            return Err(Error::Run(problem));
        };
        tell(&format!(
            "peerfs: {problem}; record {} stays until there is a newer one",
            mounted.sequence
        ));
        let request = Request::Rollback {
            name: self.arguments.name.clone(),
            sequence: Some(mounted.sequence),
            generation: mounted.generation,
            image: Some(mounted.image.clone()),
            time: None,
            // There may be a newer one by now, of which nobody knows that it is no better.
            refused: Some(image.to_owned()),
        };
        if let Err(error) = ask(&self.arguments.daemon.socket, &request) {
            tell(&format!(
                "peerfs: the name can't be rolled back: {}; tried again in a while",
                Causes(&error)
            ));
            self.retry_at = Some(Instant::now() + RETRY);
        }
        Ok(())
    }

    fn switch_to(&self, image: &str) -> Result<Health<MountId>> {
        let arguments = self.arguments;
        // So that nobody waits for it at the mount point.
        let manifest = pull::lazily(&arguments.daemon.socket, image)?;
        let folder = tempfile::Builder::new().prefix("peerfs-follow-").tempdir();
        let folder = folder.map_err(Error::Runtime)?;
        let staging = folder.path();
        let mut options = self.options.clone();
        options.manifest = Some(manifest.to_string());
        let root_dir = options.root_dir.take();
        let request = MountRequest {
            source: arguments.name.clone(),
            root_dir: root_dir.unwrap_or_else(|| arguments.store.root_dir.clone()),
            mountpoint: staging.to_owned(),
            options,
        };
        request.mount(Stay::Behind)?;
        let _staged = Staged(staging);
        if self.check(image, staging)? == Health::Refused {
            return Ok(Health::Refused);
        }
        let before = match &self.mounted {
            Some(mounted) => Before::Mount(mounted.mount),
            None if arguments.replace => Before::Any,
            None => Before::Nothing,
        };
        let put = switch::put(staging, &arguments.mountpoint, before);
        let mount = put.map_err(|errno| Error::Mount {
            image: image.to_owned(),
            mountpoint: arguments.mountpoint.clone(),
            log: switch::hint(errno).to_owned(),
            source: errno.into(),
        })?;
        Ok(Health::Good(mount))
    }

    /// Asks the check whether the image at `root` may be used.
    fn check(&self, image: &str, root: &Path) -> Result<Health> {
        let Some(command) = &self.arguments.check else {
            return Ok(Health::Good(()));
        };
        let mut check = Command::new("sh");
        check.arg("-c").arg(command).stdin(Stdio::null());
        check.env("PEERFS_ROOT", root).env("PEERFS_IMAGE", image);
        check.env("PEERFS_NAME", &self.arguments.name);
        // So that all of it can be ended.
        check.process_group(0);
        // What it says is the user's to see, apart from what this command prints.
        check.stdout(Stdio::from(std::io::stderr()));
        let started = check.spawn().map_err(|source| Error::Program {
            program: "sh",
            package: "dash",
            source,
        });
        wait_for(started?, self.arguments.check_timeout)
    }
}

/// Waits.
///
/// # Errors
/// [`Error::Cancelled`] as soon as somebody wants the command to end.
fn pause(span: Duration) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < span {
        if interrupt::is_requested() {
            return Err(Error::Cancelled);
        }
        thread::sleep(TICK);
    }
    Ok(())
}

fn wait_for(mut check: Child, patience: Duration) -> Result<Health> {
    let begun = Instant::now();
    loop {
        let ended = check.try_wait().map_err(Error::Runtime)?;
        match ended {
            Some(status) if status.success() => return Ok(Health::Good(())),
            Some(_) => return Ok(Health::Refused),
            None if interrupt::is_requested() || begun.elapsed() >= patience => {
                // With what it has started. If there is nothing any more, nothing is left to do.
                let _ = kill_process_group(Pid::from_child(&check), Signal::KILL);
                check.wait().map_err(Error::Runtime)?;
                return match interrupt::is_requested() {
                    true => Err(Error::Cancelled),
                    false => Ok(Health::Refused),
                };
            }
            None => thread::sleep(TICK),
        }
    }
}

/// A mount that is taken away again when it is dropped.
struct Staged<'a>(&'a Path);

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // If nothing is there any more, nothing is left.
        let _ = switch::detach(self.0);
    }
}
