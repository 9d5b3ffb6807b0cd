// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The memory that a build of many files takes. Run by hand, by itself, since it looks at the whole process:
//!
//!     cargo test -p peerfs-build --lib many_files -- --ignored --nocapture

use std::path::Path;
use std::sync::Arc;

use peerfs_store::Store;

use crate::source::{Kind, Metadata};
use crate::tree::{Tree, TreeWriter};
use crate::{
    build, Compression, FileReader, Options, Progress, ReadQueue, Result, SourceFile, TreeSource,
    XattrSet,
};

const FILES: u32 = 5_000_000;
const FILES_OF_A_DIRECTORY: u32 = 1000;
const SIZE: u64 = 100;
/// What a build may take, however many files there are.
const MEMORY_MAX: u64 = 256 << 20;

struct ManyFiles;

/// A file whose bytes are its number's.
struct Numbered(u32);

impl SourceFile for Numbered {
    type Reader = Self;

    fn size(&self) -> u64 {
        SIZE
    }

    fn open(self) -> Result<Self> {
        Ok(self)
    }
}

impl FileReader for Numbered {
    fn read_at(&mut self, buffer: &mut [u8], _offset: u64) -> Result<()> {
        let mut state = u64::from(self.0) << 32 | 1;
        for byte in buffer {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        Ok(())
    }

    fn finish(self) -> Result<XattrSet> {
        Ok(XattrSet::default())
    }
}

impl TreeSource for ManyFiles {
    type File = Numbered;

    fn path(&self) -> &Path {
        Path::new("generated")
    }

    fn walk(self, queue: &mut ReadQueue<'_, Numbered>) -> Result<Tree> {
        let metadata = Metadata::default();
        let mut writer = TreeWriter::new(&metadata, queue.scratch());
        let fail = |_| crate::Error::Changed("generated".into());
        let mut directories = Vec::new();
        for number in 0..FILES / FILES_OF_A_DIRECTORY {
            let name = format!("directory-{number:05}");
            let added = writer.add(1, name.as_bytes(), &metadata, &Kind::Directory, None);
            directories.push(added.map_err(fail)?);
        }
        writer.end_directory(1, None);
        for (directory, inode) in (0..).zip(directories) {
            for file in 0..FILES_OF_A_DIRECTORY {
                let number = directory * FILES_OF_A_DIRECTORY + file;
                let queued = queue.add(Numbered(number))?;
                let name = format!("file-{file:06}");
                let added = writer.add_file(name.as_bytes(), &metadata, queued);
                added.map_err(fail)?;
            }
            writer.end_directory(inode, None);
        }
        println!("when all are found: {} MiB", memory("VmRSS:") >> 20);
        Ok(writer.finish())
    }
}

/// Bytes of memory of this process.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() << 10
}

#[test]
#[ignore = "takes minutes, and looks at the memory of the whole process"]
fn what_a_build_takes_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::create(&folder.path().join("store")).unwrap());
    let options = Options {
        compression: Compression::None,
        ..Options::default()
    };
    let image = build(ManyFiles, &store, &options, &Progress::default()).unwrap();
    assert_eq!(
        image.inode_count,
        u64::from(1 + FILES + FILES / FILES_OF_A_DIRECTORY)
    );
    let taken = memory("VmHWM:");
    println!("at most: {} MiB", taken >> 20);
    assert!(taken <= MEMORY_MAX, "{taken}");
}
