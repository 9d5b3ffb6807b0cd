// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ioctls of `/dev/peerfs`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use peerfs_format::upcall::{
    FileReply, PlacesReply, IOCTL_ATTACH, IOCTL_REPLY_FILE, IOCTL_REPLY_PLACES, IOCTL_TYPE,
    IOCTL_USED, NO_DESCRIPTOR, USED_SIZE,
};
use peerfs_format::{Record, SLOTS_MAX};

/// The arguments as the kernel reads them: a number of this machine, and an encoded record.
type AttachArgument = [u8; 4];
type ReplyFileArgument = [u8; FileReply::SIZE];
type ReplyPlacesArgument = [u8; PlacesReply::SIZE];
/// And as the kernel writes it: one message, and whatever was behind it.
type UsedArgument = [u8; USED_SIZE];

mod raw {
    use super::{
        AttachArgument, ReplyFileArgument, ReplyPlacesArgument, UsedArgument, IOCTL_ATTACH,
        IOCTL_REPLY_FILE, IOCTL_REPLY_PLACES, IOCTL_TYPE, IOCTL_USED,
    };

    nix::ioctl_write_ptr!(attach, IOCTL_TYPE, IOCTL_ATTACH, AttachArgument);
    nix::ioctl_write_ptr!(reply_file, IOCTL_TYPE, IOCTL_REPLY_FILE, ReplyFileArgument);
    nix::ioctl_write_ptr!(
        reply_places,
        IOCTL_TYPE,
        IOCTL_REPLY_PLACES,
        ReplyPlacesArgument
    );
    nix::ioctl_read!(used, IOCTL_TYPE, IOCTL_USED, UsedArgument);
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
        descriptor: number(file),
    };
    let argument: ReplyFileArgument = encode(&reply);
    // SAFETY: As in `attach`: the descriptor is open, and the kernel only reads `argument`, which
    // lives until the call returns and has the size that the command's number states.
    unsafe { raw::reply_file(device.as_raw_fd(), &argument) }?;
    Ok(())
}

/// Answers request `id` with the pack's table of places, in which the chunks that were asked for now are, and with the
/// data files of some slots of it, by their numbers.
///
/// # Errors
/// As for [`reply_file`]; EINVAL if the request is not for chunks, or if there is no slot of such a number.
pub fn reply_places(
    device: BorrowedFd<'_>,
    id: u64,
    table: BorrowedFd<'_>,
    data_files: &[(u32, BorrowedFd<'_>)],
) -> io::Result<()> {
    let mut slots = [NO_DESCRIPTOR; SLOTS_MAX as usize];
    for (slot, file) in data_files {
        let place = slots.get_mut(*slot as usize);
        *place.ok_or(io::ErrorKind::InvalidInput)? = number(*file);
    }
    let reply = PlacesReply {
        id,
        table: number(table),
        slots,
    };
    let argument: ReplyPlacesArgument = encode(&reply);
    // SAFETY: As in `reply_file`.
    unsafe { raw::reply_places(device.as_raw_fd(), &argument) }?;
    Ok(())
}

/// Asks which chunks were read from the attached store since this was asked last; returns the message that says it
/// ([`used_chunks`](peerfs_format::upcall::used_chunks)), with zeros behind it.
///
/// # Errors
/// What the kernel says: ENOTTY if it does not know the question, ENOTCONN if no store is attached.
pub fn used(device: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut argument: UsedArgument = [0; USED_SIZE];
    // SAFETY: The descriptor is open, since it is borrowed. The command's number says that the kernel writes as many bytes
    // as `argument` has, which is not used otherwise until the call returns, and of which any are valid. A device that is
    // not peerfs's may understand the same number in its own way, but with the direction and the size in it, it too writes
    // no more.
    unsafe { raw::used(device.as_raw_fd(), &mut argument) }?;
    Ok(argument.to_vec())
}

/// The number of a descriptor, which is not negative as long as it is borrowed.
fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().unsigned_abs()
}

fn encode<const N: usize>(record: &impl Record) -> [u8; N] {
    let mut bytes = Vec::with_capacity(N);
    record.write_to(|piece| bytes.extend_from_slice(piece));
    bytes
        .try_into()
        .expect("a record is encoded as as many bytes as its SIZE says")
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
        let reply = |slot| {
            let slots = [(slot, store.as_fd())];
            reply_places(device.as_fd(), 1, store.as_fd(), &slots).unwrap_err()
        };
        assert_eq!(reply(63).raw_os_error(), Some(nix::libc::ENOTTY));
        assert_eq!(reply(64).kind(), io::ErrorKind::InvalidInput);
        let error = used(device.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTTY));
    }
}
