// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The order of a tree: a directory, what is in it but for subdirectories, then each of these. It is the order of
//! inodes and of their content in packs, so that a chunk which small files share is decoded once, and that of an
//! archive whose reader gives a directory its time when it leaves it.

use peerfs_format::{FileType, ROOT_INODE};
use peerfs_store::{ChunkReader, Error as StoreError, Image, Inode};

use crate::{Error, Result};

/// The paths of an image that are wanted, each with all that is below it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selection {
    /// From the root, without slashes at the ends; sorted. Empty: all of the image.
    paths: Vec<Vec<u8>>,
}

/// What a selection says of a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Choice {
    /// It is wanted.
    Wanted,
    /// It leads to something that is.
    Leading,
    /// It is not wanted.
    Other,
}

impl Selection {
    /// The selection of these paths, from the root whether or not they begin with a slash; of everything if there are
    /// none. Symbolic links of the image are not followed.
    ///
    /// # Errors
    /// [`Error::LeadsOut`] for one with `..`; [`StoreError::NoSuchFile`] and [`StoreError::NotADirectory`] if the image
    /// has none of it; those of reading metadata.
    pub fn new<R: ChunkReader>(image: &Image<R>, paths: &[Vec<u8>]) -> Result<Self> {
        let mut selected = Vec::with_capacity(paths.len());
        for path in paths {
            let names = path.split(|byte| *byte == b'/');
            let names: Vec<&[u8]> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
            let mut inode = image.root()?;
            for name in &names {
                if *name == b".." {
                    return Err(Error::LeadsOut(path.clone()));
                }
                if inode.file_type() != FileType::Directory {
                    return Err(StoreError::NotADirectory(path.clone()).into());
                }
                let entry = image.child(&inode, name)?;
                let entry = entry.ok_or_else(|| StoreError::NoSuchFile(path.clone()))?;
                inode = image.inode_of(&inode, &entry)?;
            }
            if names.is_empty() {
                return Ok(Selection::default());
            }
            selected.push(names.join(&b'/'));
        }
        selected.sort();
        Ok(Selection { paths: selected })
    }

    pub(crate) fn choice(&self, path: &[u8]) -> Choice {
        if self.paths.is_empty()
            || self
                .paths
                .binary_search_by(|one| one.as_slice().cmp(path))
                .is_ok()
        {
            return Choice::Wanted;
        }
        if path.is_empty() {
            return Choice::Leading;
        }
        let below = [path, b"/"].concat();
        let next = self.paths.partition_point(|one| *one < below);
        match self.paths.get(next) {
            Some(one) if one.starts_with(&below) => Choice::Leading,
            _ => Choice::Other,
        }
    }
}

/// A directory that a walk has come to.
pub(crate) struct Visited {
    /// From the root, without slashes at the ends; empty for the root itself.
    pub(crate) path: Vec<u8>,
    pub(crate) inode: Inode,
    /// Whether it is wanted itself, and does not only lead to what is.
    pub(crate) is_wanted: bool,
}

/// A step of a walk.
pub(crate) enum Step {
    /// Into a directory.
    Enter(Visited),
    /// Out of it, after all that is in it.
    Leave(Visited),
}

/// A directory that a walk comes to, or leaves.
struct Waiting {
    /// The length of the path of the directory that it is in.
    above: usize,
    name: Vec<u8>,
    inode: u64,
    is_wanted: bool,
    is_entered: bool,
}

/// A walk through the directories of an image. Whoever goes through it calls [`Walk::children`] for each directory that
/// it enters, or leaves out what is in it. Holds the names of directories that are still to come: the siblings of
/// those it is in. One path is held, however deep the tree is.
pub(crate) struct Walk<'a, R: ChunkReader> {
    image: &'a Image<R>,
    selection: &'a Selection,
    /// The directory that the last step led into or out of. What waits is in it, or in one on the way to it.
    path: Vec<u8>,
    waiting: Vec<Waiting>,
}

impl<'a, R: ChunkReader> Walk<'a, R> {
    pub(crate) fn new(image: &'a Image<R>, selection: &'a Selection) -> Self {
        Walk {
            image,
            selection,
            path: Vec::new(),
            waiting: vec![Waiting {
                above: 0,
                name: Vec::new(),
                inode: ROOT_INODE,
                is_wanted: selection.choice(b"") == Choice::Wanted,
                is_entered: false,
            }],
        }
    }

    /// The next step; None at the end.
    ///
    /// # Errors
    /// Those of reading metadata.
    pub(crate) fn next(&mut self) -> Result<Option<Step>> {
        let Some(waiting) = self.waiting.pop() else {
            return Ok(None);
        };
        self.path.truncate(waiting.above);
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&waiting.name);
        let visited = Visited {
            path: self.path.clone(),
            inode: self.image.inode(waiting.inode)?,
            is_wanted: waiting.is_wanted,
        };
        if waiting.is_entered {
            return Ok(Some(Step::Leave(visited)));
        }
        self.waiting.push(Waiting {
            is_entered: true,
            ..waiting
        });
        Ok(Some(Step::Enter(visited)))
    }

    /// Calls `each` with the name and inode of all that is wanted in a directory that was just entered, but for its
    /// subdirectories, which come next.
    ///
    /// # Errors
    /// That of `each`, and those of reading metadata.
    pub(crate) fn children(
        &mut self,
        directory: &Visited,
        mut each: impl FnMut(&[u8], Inode) -> Result<()>,
    ) -> Result<()> {
        let first = self.waiting.len();
        let (selection, waiting) = (self.selection, &mut self.waiting);
        let image = self.image;
        image.for_each_child(&directory.inode, |entry, inode| {
            let choice = match directory.is_wanted {
                true => Choice::Wanted,
                false => selection.choice(&join(&directory.path, &entry.name)),
            };
            match (inode.file_type() == FileType::Directory, choice) {
                (_, Choice::Other) | (false, Choice::Leading) => (),
                (false, Choice::Wanted) => each(&entry.name, inode)?,
                (true, choice) => waiting.push(Waiting {
                    above: directory.path.len(),
                    name: entry.name,
                    inode: entry.inode,
                    is_wanted: choice == Choice::Wanted,
                    is_entered: false,
                }),
            }
            Ok::<_, Error>(())
        })?;
        self.waiting.get_mut(first..).unwrap_or_default().reverse();
        Ok(())
    }
}

/// The path of a name in a directory.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        _ => [directory, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_of_whole_names() {
        let paths = [&b"etc/ssh"[..], b"usr/bin/cat"]
            .map(<[u8]>::to_vec)
            .to_vec();
        let selection = Selection { paths };
        for (path, choice) in [
            (&b""[..], Choice::Leading),
            (b"etc", Choice::Leading),
            (b"etc/ssh", Choice::Wanted),
            (b"etc/ss", Choice::Other),
            (b"etc/sshd", Choice::Other),
            (b"usr", Choice::Leading),
            (b"us", Choice::Other),
            (b"usr/bin/cat", Choice::Wanted),
            (b"zzz", Choice::Other),
        ] {
            assert_eq!(selection.choice(path), choice, "{}", path.escape_ascii());
        }
        assert_eq!(Selection::default().choice(b"anything"), Choice::Wanted);
    }
}
