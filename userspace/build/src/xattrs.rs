// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Extended attributes: reading them, and keeping equal sets once.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use peerfs_format::SYMLINK_MAX;
use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::{Error, Result};

/// The longest list of names and the longest value that Linux allows, in bytes.
const LINUX_MAX: usize = 64 * 1024;

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
    // Asks for the length only; most files have none.
    match list(&mut []) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        _ => (),
    }
    let mut names = vec![0; LINUX_MAX];
    let length = list(&mut names).map_err(Error::tree("list the extended attributes of", path))?;
    let names = names.get(..length).unwrap_or_default();
    let mut set = Vec::new();
    for name in names.split(|&byte| byte == 0) {
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0; LINUX_MAX];
        match get(name, &mut value) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => return Err(Error::Changed(path.to_owned())),
            Err(errno) => return Err(Error::tree("read the extended attributes of", path)(errno)),
        }
        value.shrink_to_fit();
        set.push((name.to_vec(), value));
    }
    set.sort();
    Ok(set)
}
