// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mounting and unmounting, without a program for each.

use std::ffi::CString;
use std::path::Path;
use std::thread;
use std::time::Duration;

use peerfs_format::Digest;
use rustix::io::Errno;
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};

/// Mounts an image; a reader waits for what is missing for `timeout` seconds.
pub(crate) fn mount_image(
    store: &Path,
    manifest: &Digest,
    directory: &Path,
    timeout: u32,
) -> Result<(), Errno> {
    let store = store.display();
    let options = format!("root_dir={store},manifest={manifest},timeout={timeout}");
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::RDONLY;
    mount("none", directory, "peerfs", flags, options.as_c_str())
}

/// Unmounts, not lazily: whatever was done to it, nothing may stay in use. What is being killed may
/// need a moment to let go.
pub(crate) fn unmount_image(directory: &Path) -> Result<(), Errno> {
    for _ in 0..100 {
        match unmount(directory, UnmountFlags::empty()) {
            Err(Errno::BUSY) => thread::sleep(Duration::from_millis(50)),
            answer => return answer,
        }
    }
    Err(Errno::BUSY)
}
