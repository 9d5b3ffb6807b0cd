// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The content of the tree's files, in memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::pread;

use crate::entry::walk;
use crate::{ensure, Error, Result};

/// The regular files, each with its bytes, and the other paths.
pub(super) struct Content {
    pub(super) files: Vec<(PathBuf, Vec<u8>)>,
    pub(super) paths: Vec<PathBuf>,
}

impl Content {
    pub(super) fn read(tree: &Path) -> Result<Self> {
        let paths = walk(tree).map_err(Error::io("read", tree))?;
        let mut files = Vec::new();
        for path in &paths {
            let full = tree.join(path);
            let metadata = fs::symlink_metadata(&full).map_err(Error::io("read", &full))?;
            if metadata.is_file() {
                let bytes = fs::read(&full).map_err(Error::io("read", &full))?;
                files.push((path.clone(), bytes));
            }
        }
        ensure(!files.is_empty(), || format!("{}: no file", tree.display()))?;
        Ok(Content { files, paths })
    }

    /// Every file must be there and right.
    pub(super) fn check_all(&self, mount: &Path) -> Result<()> {
        for (path, bytes) in &self.files {
            let full = mount.join(path);
            let found = fs::read(&full).map_err(Error::io("read", &full))?;
            ensure(found == *bytes, || {
                format!("{}: wrong in the end", path.display())
            })?;
        }
        Ok(())
    }
}

/// The place at which something else was read than the file has; `None` if it is right, which a short read is not
/// before the file's end.
pub(super) fn first_wrong(
    expected: &[u8],
    offset: usize,
    wanted: usize,
    found: &[u8],
) -> Option<usize> {
    let expected = expected.get(offset..).unwrap_or_default();
    let expected = &expected[..expected.len().min(wanted)];
    let common = expected
        .iter()
        .zip(found)
        .position(|(one, other)| one != other);
    common.or((expected.len() != found.len()).then(|| expected.len().min(found.len())))
}

/// Reads until `length` bytes are there or the file ends.
pub(super) fn read_at(file: &File, offset: usize, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        match pread(file, &mut bytes[done..], (offset + done) as u64)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found() {
        assert_eq!(first_wrong(b"abcdef", 2, 3, b"cde"), None);
        assert_eq!(first_wrong(b"abcdef", 2, 100, b"cdef"), None);
        assert_eq!(first_wrong(b"abcdef", 9, 3, b""), None);
        assert_eq!(first_wrong(b"abcdef", 2, 3, b"cdx"), Some(2));
        assert_eq!(first_wrong(b"abcdef", 2, 3, b"cd"), Some(2));
        assert_eq!(first_wrong(b"abcdef", 5, 3, b"fg"), Some(1));
    }
}
