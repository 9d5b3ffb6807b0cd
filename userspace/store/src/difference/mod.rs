// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What differs between two images, and what it takes to come from one to the other.

mod content;
mod transfer;

use peerfs_format::{FileType, ROOT_INODE};

use crate::{ChunkReader, Error, Image, Inode, Result};
use content::Contents;
pub use transfer::{transfer, Transfer};

/// A path of two images that is not the same in both.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// The path, from the root and with a slash before it.
    pub path: Vec<u8>,
    /// The type there: of the second image, unless it has no such path.
    pub file_type: FileType,
    /// What is different.
    pub change: Change,
}

/// What is different of a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// The second image alone has it.
    Added,
    /// The first image alone has it.
    Removed,
    /// Both have it, and these are different.
    Changed(Vec<Aspect>),
}

/// Something that a path has in an image.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Aspect {
    /// The type; nothing else is compared then.
    Type,
    /// The permission bits, with set-user-ID, set-group-ID and sticky.
    Mode,
    /// User and group.
    Owner,
    /// Of a regular file, the bytes.
    Size,
    /// Of a regular file, its content.
    Content,
    /// Of a symbolic link, where it leads.
    Target,
    /// Of a device, its numbers.
    Device,
    /// How many names it has, but of a directory.
    Links,
    /// Extended attributes.
    Xattrs,
    /// The modification time.
    Time,
}

/// What a comparison could not see.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Unseen {
    /// Files whose content is the same by the word of those who made the images only: it is stored in other chunks, and not
    /// all of these are here.
    pub files: u64,
}

/// Compares two images path by path, in the order of directories and names, and calls `each` with what differs. Reads
/// metadata, and of content no more than what is stored in other chunks though it should be the same. A claim about
/// content is believed if it says that it differs, but not, as far as it is here, that it is the same.
///
/// # Errors
/// That of `each`, and those of reading.
pub fn difference<A: ChunkReader, B: ChunkReader, E: From<Error>>(
    first: &Image<A>,
    second: &Image<B>,
    mut each: impl FnMut(Difference) -> Result<(), E>,
) -> Result<Unseen, E> {
    let mut contents = Contents::new(first, second);
    // What is still to be compared, the next one last. The number of an inode is followed only where it may be.
    let mut waiting = vec![Pair {
        path: b"/".to_vec(),
        first: Some(ROOT_INODE),
        second: Some(ROOT_INODE),
    }];
    while let Some(pair) = waiting.pop() {
        let read = |number: Option<u64>, image: &dyn Fn(u64) -> Result<Inode>| -> Result<_> {
            number.map(image).transpose()
        };
        let old = read(pair.first, &|number| first.inode(number))?;
        let new = read(pair.second, &|number| second.inode(number))?;
        let Some(file_type) = new.as_ref().or(old.as_ref()).map(Inode::file_type) else {
            continue;
        };
        let change = match (&old, &new) {
            (None, _) => Some(Change::Added),
            (_, None) => Some(Change::Removed),
            (Some(old), Some(new)) => Some(contents.aspects(old, new)?)
                .filter(|aspects| !aspects.is_empty())
                .map(Change::Changed),
        };
        let start = waiting.len();
        pair.add_children(children(first, old)?, children(second, new)?, &mut waiting);
        waiting.get_mut(start..).unwrap_or_default().reverse();
        if let Some(change) = change {
            let Pair { path, .. } = pair;
            each(Difference {
                path,
                file_type,
                change,
            })?;
        }
    }
    Ok(contents.unseen)
}

/// The inodes that a path stands for.
struct Pair {
    path: Vec<u8>,
    first: Option<u64>,
    second: Option<u64>,
}

impl Pair {
    /// Adds what is in a directory, by names, of which both lists are sorted.
    fn add_children(&self, old: Children, new: Children, waiting: &mut Vec<Pair>) {
        let separator: &[u8] = if self.path == b"/" { b"" } else { b"/" };
        let mut add = |name: &[u8], first, second| {
            let path = [&self.path, separator, name].concat();
            waiting.push(Pair {
                path,
                first,
                second,
            });
        };
        let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((old, _)), Some((new, _))) => old.cmp(new),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return,
            };
            let first = if order.is_le() { old.next() } else { None };
            let second = if order.is_ge() { new.next() } else { None };
            let name = first
                .as_ref()
                .or(second.as_ref())
                .map(|(name, _)| name.clone());
            let number = |child: Option<(Vec<u8>, u64)>| child.map(|(_, inode)| inode);
            add(&name.unwrap_or_default(), number(first), number(second));
        }
    }
}

/// Names and inodes.
type Children = Vec<(Vec<u8>, u64)>;

/// What is in a directory; nothing if it is none.
fn children<R: ChunkReader>(image: &Image<R>, directory: Option<Inode>) -> Result<Children> {
    let mut children = Vec::new();
    if let Some(directory) = directory.filter(|inode| inode.file_type() == FileType::Directory) {
        image.for_each_child(&directory, |entry, _| {
            children.push((entry.name, entry.inode));
            Ok::<_, Error>(())
        })?;
    }
    Ok(children)
}

impl<A: ChunkReader, B: ChunkReader> Contents<'_, A, B> {
    /// What of two inodes is different.
    fn aspects(&mut self, old: &Inode, new: &Inode) -> Result<Vec<Aspect>> {
        let (before, after) = (old.record(), new.record());
        if old.file_type() != new.file_type() {
            return Ok(vec![Aspect::Type]);
        }
        let mut aspects = Vec::new();
        let mut compare = |aspect, is_same: bool| {
            if !is_same {
                aspects.push(aspect);
            }
        };
        compare(Aspect::Mode, before.mode == after.mode);
        compare(
            Aspect::Owner,
            (before.uid, before.gid) == (after.uid, after.gid),
        );
        match old.file_type() {
            FileType::Regular => {
                compare(Aspect::Size, before.size == after.size);
                compare(Aspect::Content, self.is_same_content(old, new)?);
            }
            FileType::SymbolicLink => {
                compare(
                    Aspect::Target,
                    old.symlink_target()? == new.symlink_target()?,
                );
            }
            _ => compare(Aspect::Device, old.device() == new.device()),
        }
        if old.file_type() != FileType::Directory {
            compare(Aspect::Links, before.nlink == after.nlink);
        }
        compare(Aspect::Xattrs, old.xattrs()? == new.xattrs()?);
        let time = |inode: &Inode| {
            (
                inode.record().mtime_seconds,
                inode.record().mtime_nanoseconds,
            )
        };
        compare(Aspect::Time, time(old) == time(new));
        Ok(aspects)
    }
}
