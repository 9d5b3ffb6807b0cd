// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Puts one mount into the place of another, with no moment in which there is none.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{statx, AtFlags, StatxAttributes, StatxFlags, CWD};
use rustix::io::{Errno, Result};
use rustix::mount::{move_mount, open_tree, unmount, MoveMountFlags, OpenTreeFlags, UnmountFlags};

/// move_mount(2): beneath what is mounted there, since Linux 6.5.
const BENEATH: MoveMountFlags = MoveMountFlags::from_bits_retain(0x200);

/// statx(2): a mount's number, which no later one has, since Linux 6.8. Before that another one may have it later.
const UNIQUE_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// A mount, as the kernel tells it from others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct MountId {
    id: u64,
    device: (u32, u32),
}

/// What goes of what is mounted at the place that changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Before {
    /// Nothing.
    Nothing,
    /// This mount. It stays open for who uses it.
    Mount(MountId),
    /// Whatever is the upper one.
    Any,
}

/// Mounts at `place` what is mounted at `staging`, where it stays, too. Who has looked up a file of what was mounted
/// before goes on with it; who looks up something finds the one or the other. Returns the new mount.
///
/// # Errors
/// What the kernel says; [`Errno::BUSY`] if somebody else has mounted something there in between.
pub(super) fn put(staging: &Path, place: &Path, before: Before) -> Result<MountId> {
    // Not moved: what is mounted where others see it too can't be.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(CWD, staging, flags)?;
    let (made, _) = identify(clone.as_fd(), Path::new(""), AtFlags::EMPTY_PATH)?;
    let goes = match (before, mount_at(place)?) {
        (Before::Nothing, _) | (_, None) => false,
        (Before::Any, Some(_)) => true,
        (Before::Mount(ours), Some(there)) if ours == there => true,
        // It is not ours to take away.
        (Before::Mount(_), Some(_)) => return Err(Errno::BUSY),
    };
    let beneath = match goes {
        true => BENEATH,
        false => MoveMountFlags::empty(),
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | beneath;
    move_mount(&clone, "", CWD, place, flags)?;
    if goes {
        detach(place)?;
    }
    Ok(made)
}

/// The upper one of what is mounted there; None if nothing is.
///
/// # Errors
/// What the kernel says.
pub(super) fn mount_at(place: &Path) -> Result<Option<MountId>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let (mount, is_root) = identify(CWD, place, flags)?;
    Ok(is_root.then_some(mount))
}

/// The mount that something is in, and whether it is its root. Who serves it is not asked.
fn identify(folder: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> Result<(MountId, bool)> {
    let flags = flags | AtFlags::STATX_DONT_SYNC;
    let found = statx(folder, path, flags, StatxFlags::MNT_ID | UNIQUE_ID)?;
    let mount = MountId {
        id: found.stx_mnt_id,
        device: (found.stx_dev_major, found.stx_dev_minor),
    };
    let is_root = found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok((mount, is_root))
}

/// Takes away the upper one of what is mounted there; who uses it goes on with it.
///
/// # Errors
/// What the kernel says.
pub(super) fn detach(place: &Path) -> Result<()> {
    unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

/// What may help after an error of [`put`].
pub(super) fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM => "only root may mount",
        Errno::BUSY => "somebody has mounted something else there",
        Errno::INVAL => {
            "one mount can't be put beneath the other there, for which Linux 6.5 or newer is needed"
        }
        _ => "it can't be put there",
    }
}
