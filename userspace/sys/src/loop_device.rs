// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Loop devices, through which a file is mounted.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;

/// Others that take the free device first, at most.
const ATTEMPTS: usize = 64;
/// `struct loop_config` of linux/loop.h: the descriptor comes first, and the flags after the first 52 bytes of
/// `struct loop_info64`, which begins at byte 8.
type Configuration = [u8; 304];
const FLAGS: usize = 8 + 52;
/// `LO_FLAGS_READ_ONLY` and `LO_FLAGS_AUTOCLEAR`.
const READ_ONLY_AND_AUTOCLEAR: u32 = 1 | 4;

mod raw {
    // The numbers are from a time before ones that say what is read.
    nix::ioctl_none_bad!(get_free, 0x4c82);
    nix::ioctl_write_ptr_bad!(configure, 0x4c0a, super::Configuration);
}

/// A loop device that reads a file. It is given back when nobody has it open or mounted any more, whatever ends this
/// process.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// Keeps it.
    _device: File,
}

impl LoopDevice {
    /// A device over a file.
    ///
    /// # Errors
    /// What the system says: only root may, and containers often have none.
    pub fn new(file: BorrowedFd<'_>) -> io::Result<Self> {
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        let mut configuration: Configuration = [0; 304];
        configuration[..4].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
        configuration[FLAGS..FLAGS + 4].copy_from_slice(&READ_ONLY_AND_AUTOCLEAR.to_ne_bytes());
        for _ in 0..ATTEMPTS {
            // SAFETY: The descriptor is open, and the command has no argument.
            let number = unsafe { raw::get_free(control.as_raw_fd()) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = File::open(&path)?;
            // SAFETY: The descriptor is open. The kernel reads a loop_config, whose bytes these are, and which lives until
            // the call returns; the descriptor in it is borrowed.
            match unsafe { raw::configure(device.as_raw_fd(), &configuration) } {
                Ok(_) => {
                    return Ok(LoopDevice {
                        path,
                        _device: device,
                    })
                }
                Err(Errno::EBUSY) => (),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Its place in /dev.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}
