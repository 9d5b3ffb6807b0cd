// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs mount` and `peerfs umount`.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use peerfs_fetch::{check_stored, read_policy};
use peerfs_format::Digest;
use peerfs_store::{printable, printable_bytes, Reference, Store};
use rustix::fs::{open, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    unmount as unmount_at, FsMountFlags, FsOpenFlags, MoveMountFlags, UnmountFlags,
};

use crate::arguments::{MountArguments, UmountArguments};
use crate::error::{Error, Result};
use crate::fuse::{self, Stay};
use crate::mount_options::MountOptions;
use crate::names;
use crate::realm::{self, LentKey};

/// The most bytes of the kernel's log of a mount that are read.
const LOG_MAX: usize = 16 * 1024;

/// Mounts an image.
pub(crate) fn run(arguments: &MountArguments) -> Result<()> {
    let mut options = MountOptions::default();
    for list in &arguments.options {
        options.add(list)?;
    }
    if let Some(timeout) = arguments.timeout {
        let timeout = Some(timeout.to_string());
        options.others.push(("timeout".to_owned(), timeout));
    }
    options.fuse |= arguments.fuse;
    if let Some(socket) = &arguments.socket {
        options.socket.clone_from(socket);
    }
    let request = MountRequest {
        source: arguments.image.clone(),
        root_dir: options
            .root_dir
            .take()
            .unwrap_or_else(|| arguments.store.root_dir.clone()),
        mountpoint: arguments.mountpoint.clone(),
        options,
    };
    request.mount(match (arguments.foreground, arguments.announce) {
        (_, true) => Stay::Announced,
        (true, false) => Stay::Here,
        (false, false) => Stay::Behind,
    })
}

/// Unmounts an image.
pub(crate) fn unmount(arguments: &UmountArguments) -> Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if arguments.lazy {
        flags |= UnmountFlags::DETACH;
    }
    let unmounted = match unmount_at(&arguments.mountpoint, flags) {
        // Who may mount through FUSE may unmount so.
        Err(Errno::PERM) if fuse::unmount(&arguments.mountpoint, arguments.lazy) => Ok(()),
        unmounted => unmounted,
    };
    unmounted.map_err(|errno| Error::Unmount {
        mountpoint: arguments.mountpoint.clone(),
        hint: match errno {
            Errno::BUSY => " while it is in use (--lazy detaches it all the same)",
            Errno::INVAL => ", because nothing is mounted there",
            Errno::PERM => " (try as root)",
            _ => "",
        },
        source: errno.into(),
    })
}

/// A mount to be made.
pub(crate) struct MountRequest {
    /// A reference, or what is shown as the source if the options name the manifest.
    pub(crate) source: String,
    pub(crate) root_dir: PathBuf,
    pub(crate) mountpoint: PathBuf,
    pub(crate) options: MountOptions,
}

impl MountRequest {
    /// The digest of the manifest to mount.
    ///
    /// # Errors
    /// What the options or the source name is no reference, or not in the store; what a publisher's name stands for is not
    /// known.
    pub(crate) fn manifest(&self) -> Result<Digest> {
        let name = self.options.manifest.as_ref().unwrap_or(&self.source);
        let reference: Reference = name.parse()?;
        if let Reference::Published { .. } | Reference::Alias(_) = reference {
            return names::manifest(&self.options.socket, name);
        }
        let resolve = |store: Store| {
            let manifest = store.resolve(&reference)?;
            Ok((store, manifest))
        };
        match Store::open(&self.root_dir).and_then(resolve) {
            Ok((store, manifest)) => {
                check_policy(&store, &reference, &manifest)?;
                Ok(manifest)
            }
            Err(error) => match reference {
                // The kernel needs no index; it will tell what is wrong with the store.
                Reference::Digest(digest) => Ok(digest),
                _ => Err(error.into()),
            },
        }
    }

    /// Mounts the image: by the kernel's filesystem, or through FUSE if that is asked for or there is none.
    pub(crate) fn mount(&self, stay: Stay) -> Result<()> {
        let manifest = self.manifest()?;
        // Before an image is fetched that there is no place for.
        self.check_mountpoint()?;
        if self.options.fuse {
            return fuse::mount(self, manifest, stay);
        }
        let failed = |log: String, errno: Errno| self.failed(log, errno);
        let key = realm::of_mount(&self.options, &self.root_dir, &manifest)?;
        let _lent = key.as_ref().map(LentKey::lend).transpose()?;
        let context = match fsopen("peerfs", FsOpenFlags::FSOPEN_CLOEXEC) {
            // Also if this user may not load the module, or not mount: FUSE has a helper who may.
            Err(Errno::NODEV | Errno::PERM) if has_fuse() => {
                return fuse::mount(self, manifest, stay);
            }
            opened => opened.map_err(|errno| failed(open_hint(errno).to_owned(), errno))?,
        };
        // In /proc/mounts it means the same wherever one is. The kernel tells what is wrong with it.
        let root_dir = self.root_dir.canonicalize();
        let root_dir = root_dir.as_ref().unwrap_or(&self.root_dir);
        let configure = || -> rustix::io::Result<()> {
            fsconfig_set_string(&context, "source", self.source.as_str())?;
            fsconfig_set_string(&context, "root_dir", root_dir.as_path())?;
            fsconfig_set_string(&context, "manifest", manifest.to_string())?;
            for (name, value) in &self.options.others {
                match value {
                    Some(value) => fsconfig_set_string(&context, name, value)?,
                    None => fsconfig_set_flag(&context, name)?,
                }
            }
            fsconfig_create(&context)
        };
        configure().map_err(|errno| failed(kernel_log(context.as_fd()), errno))?;
        let attributes = self.options.attributes.0;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .and_then(|mount| {
                move_mount(
                    &mount,
                    "",
                    rustix::fs::CWD,
                    &self.mountpoint,
                    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
                )
            })
            .map_err(|errno| failed(attach_hint(errno).to_owned(), errno))
    }

    /// Fails if the mount point is nothing that an image can be mounted on.
    pub(crate) fn check_mountpoint(&self) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&self.mountpoint, flags, Mode::empty())
            .map(|_| ())
            .map_err(|errno| self.failed(attach_hint(errno).to_owned(), errno))
    }

    /// The error that a mount through FUSE failed.
    pub(crate) fn fuse_failed(&self, reason: String) -> Error {
        Error::Fuse(format!(
            "can't mount {} on {} through FUSE: {reason}",
            printable(&self.source),
            printable(&self.mountpoint),
        ))
    }

    fn failed(&self, log: String, errno: Errno) -> Error {
        Error::Mount {
            image: self.source.clone(),
            mountpoint: self.mountpoint.clone(),
            log,
            source: errno.into(),
        }
    }
}

/// Fails unless the policy allows an image of the store to be used as what a reference names.
pub(crate) fn check_policy(store: &Store, reference: &Reference, manifest: &Digest) -> Result<()> {
    let policy = read_policy(policy_file().as_deref())?;
    Ok(check_stored(store, &policy, reference, manifest)?)
}

/// The file of the policy, in the place of the usual one.
pub(crate) fn policy_file() -> Option<PathBuf> {
    std::env::var_os("PEERFS_POLICY").map(PathBuf::from)
}

/// Whether this kernel has FUSE, or may load it.
fn has_fuse() -> bool {
    Path::new("/dev/fuse").exists()
}

fn open_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NODEV => {
            "this kernel has neither peerfs nor FUSE; is the module built for it and installed?"
        }
        Errno::PERM => "only root may mount",
        Errno::NOSYS => "this kernel is too old for peerfs",
        _ => "the kernel refused to begin",
    }
}

fn attach_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "make that directory first",
        Errno::NOTDIR => "an image can be mounted on a directory only",
        _ => "it can't be attached there",
    }
}

/// The kernel's messages about a mount that failed.
pub(crate) fn kernel_log(context: BorrowedFd<'_>) -> String {
    let mut log = Vec::new();
    let mut message = [0; 1024];
    // Each read returns one message; ENODATA after the last one.
    while log.len() < LOG_MAX {
        match rustix::io::read(context, &mut message) {
            Ok(length) if length > 0 => {
                let text = message.get(..length).unwrap_or_default();
                // "e " error, "w " warning, "i " information.
                let text = text.get(2..).unwrap_or_default().trim_ascii_end();
                if !log.is_empty() {
                    log.extend_from_slice(b"; ");
                }
                log.extend_from_slice(text);
            }
            _ => break,
        }
    }
    if log.is_empty() {
        return "the kernel gives no reason; its log (dmesg) may".to_owned();
    }
    printable_bytes(&log).to_string()
}
