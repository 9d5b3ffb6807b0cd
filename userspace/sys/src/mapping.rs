// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A file in memory, for the tests: programs and libraries are read like this.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::libc::{c_void, off_t};
use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};

/// A MAP_PRIVATE mapping of a part of a file. A page that cannot be read ends the process with
/// SIGBUS, as it does for a program.
pub struct PrivateMapping {
    address: NonNull<c_void>,
    length: NonZeroUsize,
}

impl PrivateMapping {
    /// Maps `length` bytes of a file from `offset` on, which must be a multiple of the page size.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn new(file: &File, offset: u64, length: NonZeroUsize) -> io::Result<Self> {
        let offset = off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: The kernel chooses an unused range of addresses, so nothing that exists changes.
        let address = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
                file,
                offset,
            )
        }?;
        Ok(PrivateMapping { address, length })
    }

    /// Copies the mapping from `place` on into `buffer`, as far as both reach; how many bytes.
    pub fn read(&self, place: usize, buffer: &mut [u8]) -> usize {
        let count = self.length.get().saturating_sub(place).min(buffer.len());
        if count > 0 {
            // SAFETY: `place + count` is at most the mapping's length, and the mapping lives as long
            // as `self`. `buffer` has at least `count` bytes, and is not part of the mapping, to
            // which no reference is ever given out.
            unsafe {
                let from = self.address.as_ptr().cast::<u8>().add(place);
                std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), count);
            }
        }
        count
    }

    /// Changes a byte of the mapping, and so of nothing else; false if it is not that long.
    pub fn write(&mut self, place: usize, byte: u8) -> bool {
        if place >= self.length.get() {
            return false;
        }
        // SAFETY: `place` is within the mapping, which is writable, lives as long as `self` and to
        // which there are no references.
        unsafe { self.address.as_ptr().cast::<u8>().add(place).write(byte) };
        true
    }
}

impl Drop for PrivateMapping {
    fn drop(&mut self) {
        // SAFETY: The range is the one that was mapped, and nobody has a reference to it. It fails
        // only for a range that is none.
        let _ = unsafe { munmap(self.address, self.length.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_private() {
        let path = std::env::temp_dir().join(format!("peerfs-mapping-{}", std::process::id()));
        std::fs::write(&path, b"0123456789").unwrap();
        let file = File::open(&path).unwrap();
        let mut mapping = PrivateMapping::new(&file, 0, NonZeroUsize::new(10).unwrap()).unwrap();
        let mut bytes = [0; 20];
        assert_eq!(mapping.read(4, &mut bytes), 6);
        assert_eq!(&bytes[..6], b"456789");
        assert!(mapping.write(9, b'x'));
        assert!(!mapping.write(10, b'x'));
        assert_eq!(mapping.read(8, &mut bytes), 2);
        assert_eq!(&bytes[..2], b"8x");
        assert_eq!(mapping.read(11, &mut bytes), 0);
        assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
        std::fs::remove_file(&path).unwrap();
    }
}
