// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Extended attributes: reading them, and keeping equal sets once.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use peerfs_format::{is_xattr_name, Record, XattrRecord, SYMLINK_MAX};
use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::shard_plan::INODE_MAX;
use crate::{Error, Result};

/// The longest list of names and the longest value that Linux allows, in bytes.
const LINUX_MAX: usize = 64 * 1024;

/// What an inode may have too much of.
pub(crate) const TOO_LARGE: &str = "bytes of extended attributes";

/// Extended attributes of an inode: full names and values, sorted by name.
pub(crate) type XattrSet = Vec<(Vec<u8>, Vec<u8>)>;

/// Names a set in [`XattrSets`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct XattrSetId(u32);

/// The different sets of a tree. Their numbers depend on the order of the threads and do not get
/// into the image.
#[derive(Default)]
pub(crate) struct XattrSets {
    sets: Mutex<Sets>,
}

#[derive(Default)]
struct Sets {
    ids: HashMap<Arc<XattrSet>, XattrSetId>,
    list: Vec<Arc<XattrSet>>,
}

impl XattrSets {
    /// Keeps a set; None for the empty one.
    pub(crate) fn add(&self, set: XattrSet) -> Option<XattrSetId> {
        if set.is_empty() {
            return None;
        }
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = sets.ids.get(&set) {
            return Some(*id);
        }
        // As many as inodes at most, whose number fits.
        let id = XattrSetId(sets.list.len() as u32);
        let set = Arc::new(set);
        sets.list.push(set.clone());
        sets.ids.insert(set, id);
        Some(id)
    }

    /// A set that was added.
    pub(crate) fn get(&self, id: XattrSetId) -> Arc<XattrSet> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.list.get(id.0 as usize).cloned().unwrap_or_default()
    }
}

/// The extended attributes of an open file or directory; `path` is for messages.
pub(crate) fn of_descriptor(file: BorrowedFd<'_>, path: &Path) -> Result<XattrSet> {
    read(
        path,
        |buffer| flistxattr(file, buffer),
        |name, buffer| fgetxattr(file, name, buffer),
    )
}

/// The extended attributes of something at `path` that can't be opened itself, such as a symbolic
/// link or a device: the entry `name` of an open directory.
pub(crate) fn of_entry(directory: BorrowedFd<'_>, name: &[u8], path: &Path) -> Result<XattrSet> {
    // Linux had no call that takes the directory before 6.13, and paths have a limit: the same as
    // that of symbolic links' targets.
    let mut place = path.as_os_str().as_bytes().to_vec();
    if place.len() > SYMLINK_MAX {
        place = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        place.extend_from_slice(name);
    }
    read(
        path,
        |buffer| llistxattr(place.as_slice(), buffer),
        |name, buffer| lgetxattr(place.as_slice(), name, buffer),
    )
}

fn read(
    path: &Path,
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<XattrSet> {
    // Most files have none, and few have many. (rustix does not ask for a length with an empty
    // buffer.)
    let mut short = [0; 1024];
    let mut long = Vec::new();
    let names: &mut [u8] = match list(&mut short) {
        Ok(length) => short.get_mut(..length).unwrap_or_default(),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            long.resize(LINUX_MAX, 0);
            let length =
                list(&mut long).map_err(Error::tree("list the extended attributes of", path))?;
            long.get_mut(..length).unwrap_or_default()
        }
        Err(errno) => return Err(Error::tree("list the extended attributes of", path)(errno)),
    };
    let mut set = Vec::new();
    let mut bytes = 0;
    // Others, such as btrfs.compression, say how the tree is stored.
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| is_xattr_name(name))
    {
        let mut value = vec![0; LINUX_MAX];
        match get(name, &mut value) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => return Err(Error::Changed(path.to_owned())),
            Err(errno) => return Err(Error::tree("read the extended attributes of", path)(errno)),
        }
        value.shrink_to_fit();
        bytes += XattrRecord::SIZE + name.len() + value.len();
        if bytes > INODE_MAX {
            return Err(Error::TooLarge {
                what: TOO_LARGE,
                path: path.to_owned(),
                count: bytes as u64,
                limit: INODE_MAX as u64,
            });
        }
        set.push((name.to_vec(), value));
    }
    set.sort();
    Ok(set)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{fsetxattr, XattrFlags};

    use super::*;

    #[test]
    fn finds_few_and_many() {
        // In the build's own folder: /tmp may be of a kind that has no user attributes.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("file");
        let file = std::fs::File::create(&path).unwrap();
        assert_eq!(of_descriptor(file.as_fd(), &path).unwrap(), []);
        let expected: XattrSet = (100..160)
            .map(|number| {
                let name = format!("user.a name that makes the list long {number}");
                fsetxattr(&file, &name, b"value", XattrFlags::empty()).unwrap();
                (name.into_bytes(), b"value".to_vec())
            })
            .collect();
        assert_eq!(of_descriptor(file.as_fd(), &path).unwrap(), expected);
        fsetxattr(&file, "user.empty", b"", XattrFlags::empty()).unwrap();
        assert_eq!(of_descriptor(file.as_fd(), &path).unwrap().len(), 61);
    }
}
