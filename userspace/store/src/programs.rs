// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The architecture that the programs of an image are for.

use peerfs_format::{FileType, ROOT_INODE};
use peerfs_oci::Architecture;

use crate::{ChunkReader, Image, Result};

/// The most programs that are looked at: each may take the decoding of a chunk.
const PROGRAMS_MAX: usize = 256;
/// The most executable files that are, most of which may be scripts.
const EXECUTABLES_MAX: usize = 4096;

/// The bits of a mode that let somebody execute a file.
const EXECUTABLE: u32 = 0o111;

impl<R: ChunkReader> Image<R> {
    /// The architecture that most programs of the image are for, of the first ones in the order of inodes. Depends on
    /// the image alone.
    ///
    /// # Errors
    /// Those of [`Image::read`]: the programs that are looked at must be there.
    pub fn architecture(&self) -> Result<Architecture> {
        let mut programs = Vec::new();
        let mut executables = 0;
        for number in ROOT_INODE..ROOT_INODE.saturating_add(self.manifest().inode_count) {
            let inode = self.inode(number)?;
            let is_candidate = inode.file_type() == FileType::Regular
                && inode.mode() & EXECUTABLE != 0
                && inode.record().size >= Architecture::ELF_HEADER as u64;
            if !is_candidate {
                continue;
            }
            let mut header = Vec::new();
            self.read(&inode, 0, Architecture::ELF_HEADER as u64, |part| {
                header.extend_from_slice(part);
                Result::Ok(())
            })?;
            programs.extend(Architecture::of_elf(&header));
            executables += 1;
            if programs.len() >= PROGRAMS_MAX || executables >= EXECUTABLES_MAX {
                break;
            }
        }
        Ok(Architecture::of_most(programs))
    }
}
