// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a container sees: its image, and over it what it writes.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use peerfs_sys::mount_point::unmount_all;
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags,
};

use super::state::{Container, Record};
use crate::error::{Error, Result};
use crate::fuse::Stay;
use crate::mount::{kernel_log, MountRequest};
use crate::mount_options::MountOptions;
use crate::rootless::is_in_user_namespace;

/// The folders of a container that something is mounted on, in the order of unmounting.
const MOUNT_POINTS: [&str; 2] = ["rootfs", "image"];

/// Mounted files of a container.
pub(super) struct Files {
    folder: PathBuf,
    root: PathBuf,
}

impl Files {
    /// Mounts them: the image, and overlayfs over it.
    pub(super) fn mount(
        container: &Container,
        record: &Record,
        options: &[OsString],
    ) -> Result<Self> {
        // Of one that was killed.
        unmount_rest(container.bundle());
        let image = container.part("image")?;
        let mut mount_options = MountOptions::default();
        for list in options {
            mount_options.add(list)?;
        }
        mount_options.socket.clone_from(&record.socket);
        let request = MountRequest {
            source: record.manifest.clone(),
            root_dir: record.root_dir.clone(),
            mountpoint: image.clone(),
            options: mount_options,
        };
        let files = Files {
            folder: container.bundle().to_owned(),
            root: container.part("rootfs")?,
        };
        request.mount(Stay::Behind)?;
        let over = || {
            let is_new = !container.bundle().join("upper").exists();
            let upper = container.part("upper")?;
            // Otherwise the container may have changed them.
            if is_new {
                be_like(&image, &upper).map_err(|source| Error::Write {
                    path: upper.clone(),
                    source,
                })?;
            }
            mount_overlay(&image, &upper, &container.part("work")?, &files.root)
        };
        match over() {
            Ok(()) => Ok(files),
            Err(error) => {
                unmount_rest(&files.folder);
                Err(error)
            }
        }
    }

    /// The root directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Unmounts all of it.
    pub(super) fn unmount(self) -> Result<()> {
        for name in MOUNT_POINTS {
            let mountpoint = self.folder.join(name);
            // Somebody may look at it right now, and may go on.
            match unmount(&mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // Somebody else was faster.
                Ok(()) | Err(Errno::INVAL) => (),
                Err(errno) => {
                    return Err(Error::Unmount {
                        mountpoint,
                        hint: "",
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Unmounts what a process that was killed has left of a container.
pub(super) fn unmount_rest(folder: &Path) {
    for name in MOUNT_POINTS {
        unmount_all(&folder.join(name));
    }
}

/// The root directory of overlayfs has the owner and mode of the upper one.
fn be_like(image: &Path, upper: &Path) -> io::Result<()> {
    let like = fs::metadata(image)?;
    chown(upper, Some(like.uid()), Some(like.gid()))?;
    fs::set_permissions(upper, fs::Permissions::from_mode(like.mode() & 0o7777))
}

fn mount_overlay(lower: &Path, upper: &Path, work: &Path, root: &Path) -> Result<()> {
    let failed = |log: String, source: io::Error| Error::Mount {
        image: "overlayfs".to_owned(),
        mountpoint: root.to_owned(),
        log,
        source,
    };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
        failed(
            "this kernel has no overlayfs (`modprobe overlay`)".to_owned(),
            errno.into(),
        )
    })?;
    let configure = || -> rustix::io::Result<()> {
        fsconfig_set_string(&context, "source", "overlay")?;
        fsconfig_set_string(&context, "lowerdir", lower)?;
        fsconfig_set_string(&context, "upperdir", upper)?;
        fsconfig_set_string(&context, "workdir", work)?;
        // Directories and files are whole in the upper layer in each case, so that anything can read it.
        if is_in_user_namespace() {
            fsconfig_set_flag(&context, "userxattr")?;
        } else {
            fsconfig_set_string(&context, "redirect_dir", "off")?;
            fsconfig_set_string(&context, "metacopy", "off")?;
        }
        fsconfig_create(&context)
    };
    configure()
        .map_err(|errno| failed(kernel_log(std::os::fd::AsFd::as_fd(&context)), errno.into()))?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .and_then(|mount| {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mount, "", rustix::fs::CWD, root, flags)
    })
    .map_err(|errno| failed("it can't be attached there".to_owned(), errno.into()))
}
