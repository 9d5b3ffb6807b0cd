// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A file in memory, for the tests: programs and libraries are read like this.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc::{c_void, off_t};
use nix::sys::mman::{madvise, mlock, mmap, munlock, munmap, MapFlags, MmapAdvise, ProtFlags};

/// What a program may tell the kernel of how it will use a mapping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MappingAdvice {
    /// Nothing in particular.
    Normal,
    /// In no order.
    Random,
    /// From its beginning to its end.
    Sequential,
    /// Soon.
    WillNeed,
    /// Not soon: the pages are unmapped.
    DontNeed,
}

/// A range of this process's memory that a file is mapped to.
struct Mapped {
    address: NonNull<c_void>,
    length: NonZeroUsize,
}

impl Mapped {
    fn new(
        file: &File,
        offset: u64,
        length: NonZeroUsize,
        protection: ProtFlags,
        flags: MapFlags,
    ) -> io::Result<Self> {
        let offset = off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: The kernel chooses an unused range of addresses, so nothing that exists changes.
        let address = unsafe { mmap(None, length, protection, flags, file, offset) }?;
        Ok(Mapped { address, length })
    }

    /// Copies the mapping from `place` on into `buffer`, as far as both reach; how many bytes.
    fn read(&self, place: usize, buffer: &mut [u8]) -> usize {
        let count = self.length.get().saturating_sub(place).min(buffer.len());
        if count > 0 {
            // SAFETY: `place + count` is at most the mapping's length, and the mapping lives as long
            // as `self` and is readable. `buffer` has at least `count` bytes, and is not part of the
            // mapping, to which no reference is ever given out.
            unsafe {
                let from = self.address.as_ptr().cast::<u8>().add(place);
                std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), count);
            }
        }
        count
    }

    fn advise(&self, advice: MmapAdvise) -> io::Result<()> {
        // SAFETY: The range is the one that was mapped, to which there are no references. None of the
        // advices that are given here changes what is read from a mapping of a file.
        unsafe { madvise(self.address, self.length.get(), advice) }?;
        Ok(())
    }
}

/// How often it is tried to take a mapping away while there is no memory for it.
const UNMAP_TRIES: usize = 100;

impl Drop for Mapped {
    fn drop(&mut self) {
        // Taking a mapping away needs a little memory. What stays keeps its file, and that file's mount,
        // in use.
        for _ in 0..UNMAP_TRIES {
            // SAFETY: The range is the one that was mapped, and nobody has a reference to it.
            match unsafe { munmap(self.address, self.length.get()) } {
                Err(Errno::ENOMEM) => std::thread::yield_now(),
                _ => return,
            }
        }
    }
}

/// A MAP_PRIVATE mapping of a part of a file. A page that cannot be read ends the process with
/// SIGBUS, as it does for a program.
pub struct PrivateMapping(Mapped);

impl PrivateMapping {
    /// Maps `length` bytes of a file from `offset` on, which must be a multiple of the page size.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn new(file: &File, offset: u64, length: NonZeroUsize) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        Mapped::new(file, offset, length, protection, MapFlags::MAP_PRIVATE).map(PrivateMapping)
    }

    /// Copies the mapping from `place` on into `buffer`, as far as both reach; how many bytes.
    pub fn read(&self, place: usize, buffer: &mut [u8]) -> usize {
        self.0.read(place, buffer)
    }

    /// Changes a byte of the mapping, and so of nothing else; false if it is not that long.
    pub fn write(&mut self, place: usize, byte: u8) -> bool {
        if place >= self.0.length.get() {
            return false;
        }
        // SAFETY: `place` is within the mapping, which is writable, lives as long as `self` and to
        // which there are no references.
        unsafe { self.0.address.as_ptr().cast::<u8>().add(place).write(byte) };
        true
    }
}

/// A MAP_SHARED mapping of a part of a file, for reading.
pub struct SharedMapping(Mapped);

impl SharedMapping {
    /// Maps `length` bytes of a file from `offset` on, which must be a multiple of the page size.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn new(file: &File, offset: u64, length: NonZeroUsize) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ;
        Mapped::new(file, offset, length, protection, MapFlags::MAP_SHARED).map(SharedMapping)
    }

    /// Copies the mapping from `place` on into `buffer`, as far as both reach; how many bytes. A page
    /// that cannot be read ends the process with SIGBUS: [`SharedMapping::populate`] asks first.
    pub fn read(&self, place: usize, buffer: &mut [u8]) -> usize {
        self.0.read(place, buffer)
    }

    /// Reads all pages in.
    ///
    /// # Errors
    /// EFAULT if a page cannot be read, whatever the reason.
    pub fn populate(&self) -> io::Result<()> {
        self.0.advise(MmapAdvise::MADV_POPULATE_READ)
    }

    /// Tells the kernel how the mapping will be used.
    ///
    /// # Errors
    /// What madvise(2) says.
    pub fn advise(&self, advice: MappingAdvice) -> io::Result<()> {
        self.0.advise(match advice {
            MappingAdvice::Normal => MmapAdvise::MADV_NORMAL,
            MappingAdvice::Random => MmapAdvise::MADV_RANDOM,
            MappingAdvice::Sequential => MmapAdvise::MADV_SEQUENTIAL,
            MappingAdvice::WillNeed => MmapAdvise::MADV_WILLNEED,
            MappingAdvice::DontNeed => MmapAdvise::MADV_DONTNEED,
        })
    }

    /// Locks the pages in memory, which reads them in, and unlocks them again.
    ///
    /// # Errors
    /// What mlock(2) says.
    pub fn lock_and_unlock(&self) -> io::Result<()> {
        // SAFETY: The range is the one that was mapped; locking it changes nothing that is read.
        unsafe { mlock(self.0.address, self.0.length.get()) }?;
        // SAFETY: As above.
        unsafe { munlock(self.0.address, self.0.length.get()) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with the ten digits.
    struct Digits(std::path::PathBuf);

    impl Digits {
        fn new(name: &str) -> (Self, File) {
            let path = std::env::temp_dir().join(format!("peerfs-{name}-{}", std::process::id()));
            std::fs::write(&path, b"0123456789").unwrap();
            let file = File::open(&path).unwrap();
            (Digits(path), file)
        }
    }

    impl Drop for Digits {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).unwrap();
        }
    }

    #[test]
    fn a_mapping_is_private() {
        let (digits, file) = Digits::new("private-mapping");
        let mut mapping = PrivateMapping::new(&file, 0, NonZeroUsize::new(10).unwrap()).unwrap();
        let mut bytes = [0; 20];
        assert_eq!(mapping.read(4, &mut bytes), 6);
        assert_eq!(&bytes[..6], b"456789");
        assert!(mapping.write(9, b'x'));
        assert!(!mapping.write(10, b'x'));
        assert_eq!(mapping.read(8, &mut bytes), 2);
        assert_eq!(&bytes[..2], b"8x");
        assert_eq!(mapping.read(11, &mut bytes), 0);
        assert_eq!(std::fs::read(&digits.0).unwrap(), b"0123456789");
    }

    #[test]
    fn a_shared_mapping_says_which_pages_there_are() {
        let (_digits, file) = Digits::new("shared-mapping");
        let mapping = SharedMapping::new(&file, 0, NonZeroUsize::new(10).unwrap()).unwrap();
        mapping.advise(MappingAdvice::Random).unwrap();
        mapping.populate().unwrap();
        mapping.lock_and_unlock().unwrap();
        let mut bytes = [0; 3];
        assert_eq!(mapping.read(8, &mut bytes), 2);
        assert_eq!(&bytes[..2], b"89");
        let behind = SharedMapping::new(&file, 4096, NonZeroUsize::new(10).unwrap()).unwrap();
        let error = behind.populate().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EFAULT));
    }
}
