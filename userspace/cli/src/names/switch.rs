// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Puts one mount into the place of another, with no moment in which there is none.

use std::path::Path;

use rustix::fs::CWD;
use rustix::io::{Errno, Result};
use rustix::mount::{move_mount, open_tree, unmount, MoveMountFlags, OpenTreeFlags, UnmountFlags};

/// move_mount(2): beneath what is mounted there, since Linux 6.5.
const BENEATH: MoveMountFlags = MoveMountFlags::from_bits_retain(0x200);

/// What is mounted at the place that changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Before {
    /// Nothing that goes.
    Nothing,
    /// A mount that goes, and stays open for who uses it.
    Mount,
}

/// Mounts at `place` what is mounted at `staging`, and takes it away there. Who has looked up a file of what was mounted
/// before goes on with it; who looks up something finds the one or the other.
///
/// # Errors
/// What the kernel says. All is as before then, but for what is mounted at `staging`.
pub(super) fn put(staging: &Path, place: &Path, before: Before) -> Result<()> {
    // Not moved: what is mounted where others see it too can't be.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(CWD, staging, flags)?;
    let beneath = match before {
        Before::Nothing => MoveMountFlags::empty(),
        Before::Mount => BENEATH,
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | beneath;
    move_mount(&clone, "", CWD, place, flags)?;
    if before == Before::Mount {
        detach(place)?;
    }
    detach(staging)
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
        Errno::INVAL => {
            "one mount can't be put beneath the other there, for which Linux 6.5 or newer is needed"
        }
        _ => "it can't be put there",
    }
}
