// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the files of a snapshot take.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::record::Usage;

/// Bytes of a unit of `st_blocks`.
const BLOCK: u64 = 512;

/// Adds up what lies below a directory, with it. What goes away meanwhile does not count.
///
/// # Errors
/// What the system says.
pub(crate) fn of_directory(directory: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut add = |metadata: &fs::Metadata| {
        // A file of many names is there once.
        if metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino()) {
            return;
        }
        usage.size = usage
            .size
            .saturating_add(metadata.blocks().saturating_mul(BLOCK));
        usage.inodes += 1;
    };
    add(&fs::symlink_metadata(directory)?);
    let mut directories: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let Some(entries) = unless_gone(fs::read_dir(&directory))? else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            let Some(metadata) = unless_gone(entry.metadata())? else {
                continue;
            };
            add(&metadata);
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(usage)
}

fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_two_names_counts_once() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("a/b")).unwrap();
        fs::write(tree.path().join("a/b/file"), [1; 10_000]).unwrap();
        fs::hard_link(tree.path().join("a/b/file"), tree.path().join("link")).unwrap();
        let usage = of_directory(tree.path()).unwrap();
        assert_eq!(usage.inodes, 4);
        assert!((10_000..60_000).contains(&usage.size), "{usage:?}");
    }
}
