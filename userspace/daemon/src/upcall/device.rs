// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The open device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{read, write};
use peerfs_format::upcall::{write_message, Failure, Operation};
use peerfs_format::Record;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

/// What is done with the device by ioctl, and so only with the real one.
pub trait Ioctls: Send + Sync + 'static {
    /// Attaches the store whose directory is open as `store`.
    ///
    /// # Errors
    /// What the kernel says.
    fn attach(&self, device: BorrowedFd<'_>, store: BorrowedFd<'_>) -> io::Result<()>;

    /// Answers request `id` with the file in which what was asked for is.
    ///
    /// # Errors
    /// What the kernel says.
    fn reply_file(&self, device: BorrowedFd<'_>, id: u64, file: BorrowedFd<'_>) -> io::Result<()>;

    /// Answers request `id` with a table of places and the data files that its slots name.
    ///
    /// # Errors
    /// What the kernel says: ENOENT if nobody waits for it any more.
    fn reply_places(
        &self,
        device: BorrowedFd<'_>,
        id: u64,
        table: BorrowedFd<'_>,
        slots: &[(u32, BorrowedFd<'_>)],
    ) -> io::Result<()>;

    /// Asks which chunks were read from the store since this was asked last: the message that says it.
    ///
    /// # Errors
    /// What the kernel says: ENOTTY if it does not know the question.
    fn used(&self, device: BorrowedFd<'_>) -> io::Result<Vec<u8>>;
}

/// The ioctls of the kernel module.
#[derive(Clone, Copy, Debug)]
pub struct KernelIoctls;

impl Ioctls for KernelIoctls {
    fn attach(&self, device: BorrowedFd<'_>, store: BorrowedFd<'_>) -> io::Result<()> {
        peerfs_sys::ioctl::attach(device, store)
    }

    fn reply_file(&self, device: BorrowedFd<'_>, id: u64, file: BorrowedFd<'_>) -> io::Result<()> {
        peerfs_sys::ioctl::reply_file(device, id, file)
    }

    fn reply_places(
        &self,
        device: BorrowedFd<'_>,
        id: u64,
        table: BorrowedFd<'_>,
        slots: &[(u32, BorrowedFd<'_>)],
    ) -> io::Result<()> {
        peerfs_sys::ioctl::reply_places(device, id, table, slots)
    }

    fn used(&self, device: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        peerfs_sys::ioctl::used(device)
    }
}

/// An open `/dev/peerfs`, or what a test has in its place.
pub struct Device<I> {
    descriptor: AsyncFd<OwnedFd>,
    ioctls: I,
}

impl Device<KernelIoctls> {
    /// Opens the device. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system says: not found as long as the module is not loaded.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Device::new(open(path, flags, Mode::empty())?, KernelIoctls)
    }
}

impl<I: Ioctls> Device<I> {
    /// A device over a descriptor in non-blocking mode that keeps the borders of messages. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub fn new(descriptor: OwnedFd, ioctls: I) -> io::Result<Self> {
        Ok(Device {
            descriptor: peerfs_sys::readiness::readable(descriptor)?,
            ioctls,
        })
    }

    /// Attaches the store whose directory is open as `store`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach(&self, store: BorrowedFd<'_>) -> io::Result<()> {
        self.ioctls.attach(self.descriptor.get_ref().as_fd(), store)
    }

    /// Waits for requests and reads as many whole ones as fit; returns their bytes, 0 if the
    /// kernel is gone. No request is lost when the wait is cancelled.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.descriptor
            .async_io(Interest::READABLE, |descriptor| {
                Ok(read(descriptor, buffer)?)
            })
            .await
    }

    /// Answers request `id` with the file in which what was asked for is. The kernel takes a reply
    /// at once, so that there is nothing to wait for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reply_file(&self, id: u64, file: BorrowedFd<'_>) -> io::Result<()> {
        let device = self.descriptor.get_ref().as_fd();
        self.ioctls.reply_file(device, id, file)
    }

    /// Answers request `id` with a table of places and the data files that its slots name.
    ///
    /// # Errors
    /// What the kernel says: ENOENT if nobody waits for it any more.
    pub fn reply_places(
        &self,
        id: u64,
        table: BorrowedFd<'_>,
        slots: &[(u32, BorrowedFd<'_>)],
    ) -> io::Result<()> {
        let device = self.descriptor.get_ref().as_fd();
        self.ioctls.reply_places(device, id, table, slots)
    }

    /// Asks which chunks were read from the store since this was asked last: the message that says it.
    ///
    /// # Errors
    /// What the kernel says: ENOTTY if it does not know the question.
    pub fn used(&self) -> io::Result<Vec<u8>> {
        self.ioctls.used(self.descriptor.get_ref().as_fd())
    }

    /// Answers request `id` with a failure.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reply_failure(&self, id: u64, failure: Failure) -> io::Result<()> {
        let mut payload = Vec::with_capacity(Failure::SIZE);
        failure.write_to(|bytes| payload.extend_from_slice(bytes));
        let mut message = Vec::new();
        write_message(Operation::Failed, id, &payload, |bytes| {
            message.extend_from_slice(bytes);
        });
        write(self.descriptor.get_ref(), &message)?;
        Ok(())
    }
}
