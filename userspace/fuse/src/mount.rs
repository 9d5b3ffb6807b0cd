// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mounts.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use peerfs_format::Digest;
use peerfs_store::{RealmKey, Store};
use rustix::fs::{open, statx, AtFlags, Mode, OFlags, StatxFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags,
};
use rustix::process::{getgid, getuid};

use crate::daemon::Daemon;
use crate::filesystem::ImageFilesystem;
use crate::served::Served;

/// The type that mounts have in the kernel's list.
const SUBTYPE: &str = "peerfs";
/// The most threads that take requests.
const THREADS_MAX: usize = 8;
/// What the kernel reads ahead, in KiB, if it may be told.
const READAHEAD_KIB: &str = "1024";
/// How often it is looked whether a mount is gone, or is to go.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What is mounted, and how.
pub struct Options {
    /// The store, which a daemon may fill.
    pub root_dir: PathBuf,
    /// The image's manifest.
    pub manifest: Digest,
    /// The key of its realm, if it is encrypted.
    pub key: Option<RealmKey>,
    /// The directory to mount it on.
    pub mountpoint: PathBuf,
    /// Where the daemon that fills the store listens.
    pub socket: PathBuf,
    /// How long a reader waits for what is missing.
    pub timeout: Duration,
    /// Attributes that the kernel knows of every mount.
    pub attributes: MountAttrFlags,
    /// Whether others than the mounter may read it. For root they may in any case.
    pub allow_other: bool,
}

/// Why an image can't be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The store can't be used.
    #[error("cannot use the store")]
    Store(#[from] peerfs_store::Error),
    /// What a mount reads first is not here, and could not be fetched.
    #[error("the image's manifest or blob table is not here and could not be fetched")]
    Image(#[source] Errno),
    /// It is encrypted, and its key was not given.
    #[error("cannot read the image; name the file that has the key with -o key=FILE")]
    Key(#[source] peerfs_store::Error),
    /// The kernel has no FUSE, or this user may not use it.
    #[error("cannot open /dev/fuse{}", hint(*.0))]
    Device(#[source] Errno),
    /// The kernel refuses the mount.
    #[error("cannot mount it")]
    Kernel(#[source] Errno),
    /// fusermount3 refuses the mount.
    #[error("fusermount3 can't mount it; is the package fuse3 installed?")]
    Helper(#[source] io::Error),
    /// The first words between the kernel and this program were not understood.
    #[error("the kernel's FUSE and this program do not understand each other")]
    Session(#[source] io::Error),
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => ": this kernel has no FUSE (`modprobe fuse`)",
        Errno::ACCESS | Errno::PERM => ": this user may not use it",
        _ => "",
    }
}

/// A mount that is served by threads of this process.
pub struct Mount {
    session: BackgroundSession,
}

impl Mount {
    /// Mounts an image.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn new(options: &Options) -> Result<Self, MountError> {
        let store = Arc::new(Store::open(&options.root_dir)?);
        let daemon = Daemon::new(&options.socket, options.timeout);
        let served = Served::open(store, options.manifest, options.key.as_slice(), daemon)
            .map_err(MountError::Image)?;
        served.check_key().map_err(MountError::Key)?;
        let served = Arc::new(served);
        served.tell_uses();
        let filesystem = ImageFilesystem::new(served);
        let fuse = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let fuse = fuse.map_err(MountError::Device)?;
        let session = match attach(options, &fuse) {
            Ok(Attached { mount, acl }) => {
                let config = config(options, acl);
                // The kernel's first words are answered before anybody can come.
                let session = Session::from_fd(filesystem, fuse, acl, config);
                let session = session.map_err(MountError::Session)?;
                show(&mount, &options.mountpoint).map_err(MountError::Kernel)?;
                session
            }
            // An ordinary user has somebody who may.
            Err(Errno::PERM) => {
                drop(fuse);
                let acl = match options.allow_other {
                    true => SessionACL::All,
                    false => SessionACL::Owner,
                };
                let session = Session::new(filesystem, &options.mountpoint, &config(options, acl));
                session.map_err(MountError::Helper)?
            }
            Err(errno) => return Err(MountError::Kernel(errno)),
        };
        let session = session.spawn().map_err(MountError::Session)?;
        read_ahead_more(&options.mountpoint);
        Ok(Mount { session })
    }

    /// Serves the mount until somebody unmounts it, or `is_over` says so: then nobody finds it any more, and it is served
    /// until nobody uses it any more.
    ///
    /// # Errors
    /// If the kernel does not talk to this program any more, or keeps the mount.
    pub fn serve(self, mountpoint: &Path, is_over: impl Fn() -> bool) -> io::Result<()> {
        while !self.session.guard.is_finished() {
            if is_over() {
                let flags = rustix::mount::UnmountFlags::DETACH;
                match rustix::mount::unmount(mountpoint, flags) {
                    // Only the helper may.
                    Err(Errno::PERM) => return self.session.umount_and_join(),
                    result => result?,
                }
                break;
            }
            thread::sleep(LOOK_INTERVAL);
        }
        self.session.join()
    }
}

/// A mount that is not yet anywhere, and who may read it.
struct Attached {
    mount: OwnedFd,
    acl: SessionACL,
}

/// What a mount is called in the kernel's list: the image, and the store of which it is a root. Bytes of the path that would be
/// told apart there are written as `%` and two digits.
fn source(options: &Options) -> String {
    let root_dir = options.root_dir.canonicalize();
    let root_dir = root_dir.as_ref().unwrap_or(&options.root_dir);
    let mut source = format!("{}@", options.manifest);
    for &byte in root_dir.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'_' | b'-' | b'+' | b':' => source.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => source.push(byte.into()),
            _ => source.push_str(&format!("%{byte:02x}")),
        }
    }
    source
}

/// Has the kernel make a mount of the device.
fn attach(options: &Options, fuse: &OwnedFd) -> rustix::io::Result<Attached> {
    let root_mode = File::open(&options.mountpoint).and_then(|directory| directory.metadata());
    let root_mode = root_mode.map_or(0o40_000, |metadata| metadata.mode());
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source(options))?;
    fsconfig_set_string(&context, "subtype", SUBTYPE)?;
    fsconfig_set_string(&context, "fd", fuse.as_raw_fd().to_string())?;
    fsconfig_set_string(&context, "rootmode", format!("{root_mode:o}"))?;
    fsconfig_set_string(&context, "user_id", getuid().as_raw().to_string())?;
    fsconfig_set_string(&context, "group_id", getgid().as_raw().to_string())?;
    fsconfig_set_flag(&context, "default_permissions")?;
    fsconfig_set_flag(&context, "allow_other")?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    Ok(Attached {
        mount: fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.attributes)?,
        acl: SessionACL::All,
    })
}

/// Puts a mount where it can be seen.
fn show(mount: &OwnedFd, mountpoint: &Path) -> rustix::io::Result<()> {
    move_mount(
        mount,
        "",
        CWD,
        mountpoint,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

fn config(options: &Options, acl: SessionACL) -> Config {
    let mut config = Config::default();
    let attribute = |flag, option| options.attributes.contains(flag).then_some(option);
    config.mount_options = [
        Some(MountOption::RO),
        Some(MountOption::DefaultPermissions),
        Some(MountOption::FSName(source(options))),
        Some(MountOption::Subtype(SUBTYPE.to_owned())),
        attribute(MountAttrFlags::MOUNT_ATTR_NOEXEC, MountOption::NoExec),
        attribute(MountAttrFlags::MOUNT_ATTR_NOATIME, MountOption::NoAtime),
    ]
    .into_iter()
    .flatten()
    .collect();
    config.acl = acl;
    let threads = thread::available_parallelism().map_or(1, usize::from) + 1;
    config.n_threads = Some(threads.min(THREADS_MAX));
    config.clone_fd = true;
    config
}

/// Has the kernel read ahead as much as one request can bring; it is root's to say. What it does without is slower.
fn read_ahead_more(mountpoint: &Path) {
    // What the kernel knows without asking us: were this process killed while it waits for itself, it would wait for ever.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let Ok(found) = statx(CWD, mountpoint, flags, StatxFlags::empty()) else {
        return;
    };
    let (major, minor) = (found.stx_dev_major, found.stx_dev_minor);
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&file, READAHEAD_KIB) {
        tracing::debug!(file, %error, "the kernel reads ahead less than it could");
    }
}
