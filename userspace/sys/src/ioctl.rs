// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ioctls of `/dev/peerfs`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use peerfs_format::upcall::{FileReply, IOCTL_ATTACH, IOCTL_REPLY_FILE, IOCTL_TYPE};
use peerfs_format::Record;

/// The arguments as the kernel reads them: a number of this machine, and an encoded record.
type AttachArgument = [u8; 4];
type ReplyFileArgument = [u8; FileReply::SIZE];

mod raw {
    use super::{AttachArgument, ReplyFileArgument, IOCTL_ATTACH, IOCTL_REPLY_FILE, IOCTL_TYPE};

    nix::ioctl_write_ptr!(attach, IOCTL_TYPE, IOCTL_ATTACH, AttachArgument);
    nix::ioctl_write_ptr!(reply_file, IOCTL_TYPE, IOCTL_REPLY_FILE, ReplyFileArgument);
}

/// Attaches the store whose directory is open as `store` to an open `/dev/peerfs`: from now on it
/// is given the store's requests.
///
/// # Errors
/// What the kernel says: ENOTTY if `device` is something else, ENOTDIR if `store` is no directory.
pub fn attach(device: BorrowedFd<'_>, store: BorrowedFd<'_>) -> io::Result<()> {
    let argument: AttachArgument = store.as_raw_fd().to_ne_bytes();
    // SAFETY: The descriptor is open, since it is borrowed. The command's number says that the
    // kernel reads as many bytes as `argument` has, which lives until the call returns. A device
    // that is not peerfs's may understand the same number in its own way, but with the direction
    // and the size in it, it too only reads these bytes.
    unsafe { raw::attach(device.as_raw_fd(), &argument) }?;
    Ok(())
}

/// Answers request `id` with the file in which what was asked for now is.
///
/// # Errors
/// What the kernel says: ENOENT if the request is not pending (any more), ENOTCONN if no store is
/// attached, EBADF if `file` is not open for reading.
pub fn reply_file(device: BorrowedFd<'_>, id: u64, file: BorrowedFd<'_>) -> io::Result<()> {
    let reply = FileReply {
        id,
        // A borrowed descriptor is not negative.
        descriptor: file.as_raw_fd().unsigned_abs(),
    };
    let mut argument = Vec::with_capacity(FileReply::SIZE);
    reply.write_to(|bytes| argument.extend_from_slice(bytes));
    let argument: ReplyFileArgument = argument
        .try_into()
        .expect("a record is encoded as as many bytes as its SIZE says");
    // SAFETY: As in `attach`: the descriptor is open, and the kernel only reads `argument`, which
    // lives until the call returns and has the size that the command's number states.
    unsafe { raw::reply_file(device.as_raw_fd(), &argument) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn another_device_refuses() {
        let device = File::open("/dev/null").unwrap();
        let store = File::open("/").unwrap();
        let error = attach(device.as_fd(), store.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTTY));
        let error = reply_file(device.as_fd(), 1, store.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTTY));
    }
}
