// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Places that something is mounted on, by a process that may be gone, as through FUSE.

use std::path::Path;

use rustix::fs::{statx, AtFlags, StatxAttributes, StatxFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{unmount, UnmountFlags};

/// Whether something is mounted there whose server lives. What has lost its server is unmounted. Waits for a server that does
/// not answer.
pub fn is_mounted(path: &Path) -> bool {
    // The server must be asked: what the kernel has kept of it is good for long, also when that is gone.
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    match statx(CWD, path, flags, StatxFlags::TYPE) {
        Ok(found) => found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        // There may be one of another time under it.
        Err(Errno::NOTCONN) => detach(path) && is_mounted(path),
        Err(_) => false,
    }
}

/// Unmounts all that is mounted there. Who uses it goes on with it.
pub fn unmount_all(path: &Path) {
    while detach(path) {}
}

fn detach(path: &Path) -> bool {
    unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok()
}
