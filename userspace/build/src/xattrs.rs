// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Extended attributes: sets of them, equal ones kept once.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use peerfs_format::{is_xattr_name, Record, XattrRecord, XATTR_NAMES_MAX, XATTR_VALUE_MAX};

use crate::shard_plan::INODE_MAX;
use crate::source::Flaw;
use crate::Result;

/// A thing of which an inode may have too much.
pub(crate) const TOO_LARGE: &str = "bytes of extended attributes";

/// Extended attributes of an inode.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct XattrSet {
    /// Values by full names.
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of the names, each with a NUL.
    name_bytes: usize,
    /// Bytes that they take in a shard.
    bytes: usize,
}

impl XattrSet {
    /// Adds an attribute with its full name, such as `user.comment`, or replaces its value. One with a name that
    /// images don't hold is left out: such as `btrfs.compression`, they say how a tree is stored. `path` is that
    /// of the file, for the message.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) if the value, all names or the whole set is longer than an image
    /// can hold; the set is as before then.
    ///
    /// # Example
    /// ```
    /// use std::path::Path;
    ///
    /// use peerfs_build::XattrSet;
    ///
    /// # fn main() -> peerfs_build::Result<()> {
    /// let path = Path::new("archive/file");
    /// let mut set = XattrSet::default();
    /// set.insert(b"user.comment", b"hello".to_vec(), path)?;
    /// set.insert(b"btrfs.compression", b"zstd".to_vec(), path)?;
    /// let mut same = XattrSet::default();
    /// same.insert(b"user.comment", b"hello".to_vec(), path)?;
    /// assert_eq!(set, same);
    /// assert!(set.insert(b"user.long", vec![0; 65_537], path).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn insert(&mut self, name: &[u8], value: Vec<u8>, path: &Path) -> Result<()> {
        self.add(name, value)
            .map_err(|flaw| flaw.of(path.to_owned()))
    }

    /// As [`insert`](XattrSet::insert), for who names the file.
    pub(crate) fn add(&mut self, name: &[u8], value: Vec<u8>) -> std::result::Result<(), Flaw> {
        if !is_xattr_name(name) {
            return Ok(());
        }
        let within = |what, count: usize, limit: usize| {
            if count <= limit {
                return Ok(count);
            }
            Err(Flaw::TooLarge {
                what,
                count: count as u64,
                limit: limit as u64,
            })
        };
        within(
            "bytes in an extended attribute",
            value.len(),
            XATTR_VALUE_MAX,
        )?;
        match self.values.get_mut(name) {
            Some(old) => {
                self.bytes = within(TOO_LARGE, self.bytes - old.len() + value.len(), INODE_MAX)?;
                *old = value;
            }
            None => {
                let name_bytes = self.name_bytes + name.len() + 1;
                let bytes = self.bytes + XattrRecord::SIZE + name.len() + value.len();
                within(
                    "bytes in the names of extended attributes",
                    name_bytes,
                    XATTR_NAMES_MAX,
                )?;
                self.bytes = within(TOO_LARGE, bytes, INODE_MAX)?;
                self.name_bytes = name_bytes;
                self.values.insert(name.to_vec(), value);
            }
        }
        Ok(())
    }

    /// Bytes that they take in a shard.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Full names and values, sorted by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let values = self.values.iter();
        values.map(|(name, value)| (name.as_slice(), value.as_slice()))
    }
}

/// Names a set in [`XattrSets`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct XattrSetId(u32);

impl XattrSetId {
    /// A number that stands for a set, or for none.
    pub(crate) fn encode(set: Option<Self>) -> u32 {
        set.map_or(u32::MAX, |set| set.0)
    }

    /// What a number stands for.
    pub(crate) fn decode(number: u32) -> Option<Self> {
        (number != u32::MAX).then_some(XattrSetId(number))
    }
}

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
        if set.values.is_empty() {
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
