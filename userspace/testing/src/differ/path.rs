// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Paths to try: those of the tree, and what can be made of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use rustix::fs::llistxattr;

use crate::entry::names_in;
use crate::{ensure, Error, Result};

/// A path of the tree.
pub(super) struct Known {
    pub(super) path: PathBuf,
    pub(super) is_directory: bool,
    /// Of a regular file.
    pub(super) size: Option<u64>,
}

/// The paths of a tree.
pub(super) struct Paths {
    all: Vec<Known>,
    /// Indexes of what is below each entry of the root.
    groups: Vec<Vec<usize>>,
    /// Indexes of the regular files, the largest first.
    files: Vec<usize>,
    directories: Vec<usize>,
    /// Extended attributes, and indexes of what has them.
    xattrs: Vec<(usize, Vec<u8>)>,
}

impl Paths {
    /// All paths of a tree but the links that lead out of it, and what is in directories that may not
    /// be read.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let mut all = Vec::new();
        let mut groups: BTreeMap<OsString, Vec<usize>> = BTreeMap::new();
        let mut xattrs = Vec::new();
        let mut names = vec![0; 65536];
        let mut open = vec![PathBuf::new()];
        while let Some(path) = open.pop() {
            let full = root.join(&path);
            let Some(metadata) = unless_denied(fs::symlink_metadata(&full), &full)? else {
                continue;
            };
            if metadata.is_dir() {
                let names = unless_denied(names_in(&full), &full)?.unwrap_or_default();
                open.extend(names.into_iter().map(|name| path.join(name)));
            }
            if metadata.is_symlink() {
                let target = fs::read_link(&full).map_err(Error::io("read", &full))?;
                if target.is_absolute() {
                    continue;
                }
            }
            let length = llistxattr(&full, &mut names[..]).unwrap_or(0);
            let listed = names[..length].split(|&byte| byte == 0);
            for name in listed.filter(|name| !name.is_empty()) {
                xattrs.push((all.len(), name.to_vec()));
            }
            let group = path.iter().next().unwrap_or_default().to_owned();
            groups.entry(group).or_default().push(all.len());
            let path = if path.as_os_str().is_empty() {
                PathBuf::from(".")
            } else {
                path
            };
            all.push(Known {
                path,
                is_directory: metadata.is_dir(),
                size: metadata.is_file().then(|| metadata.size()),
            });
        }
        let numbers = |wanted: &dyn Fn(&Known) -> bool| -> Vec<usize> {
            (0..all.len())
                .filter(|&index| wanted(&all[index]))
                .collect()
        };
        let mut files = numbers(&|known| known.size.is_some());
        let directories = numbers(&|known| known.is_directory);
        files.sort_by_key(|&index| std::cmp::Reverse(all[index].size));
        ensure(!files.is_empty(), || {
            format!("{}: no file to read", root.display())
        })?;
        Ok(Paths {
            all,
            groups: groups.into_values().collect(),
            files,
            directories,
            xattrs,
        })
    }

    /// Any path, of each part of the tree as often as of the others.
    pub(super) fn any(&self, rng: &mut Rng) -> &Known {
        let group = &self.groups[rng.usize(..self.groups.len())];
        &self.all[group[rng.usize(..group.len())]]
    }

    /// A regular file; large ones have more places to go wrong in, small ones are many.
    pub(super) fn file(&self, rng: &mut Rng) -> &Known {
        let most = if rng.bool() { 30 } else { usize::MAX };
        let index = rng.usize(..self.files.len().min(most));
        &self.all[self.files[index]]
    }

    /// A directory.
    pub(super) fn directory(&self, rng: &mut Rng) -> &Known {
        &self.all[self.directories[rng.usize(..self.directories.len())]]
    }

    /// Something with an extended attribute, and the attribute's name, if there is any.
    pub(super) fn xattr(&self, rng: &mut Rng) -> Option<(&Known, OsString)> {
        let (index, name) = rng.choice(&self.xattrs)?;
        Some((&self.all[*index], OsString::from_vec(name.clone())))
    }

    /// A path as programs write them, right and wrong. It leads to nowhere outside of the tree.
    pub(super) fn spelled(&self, rng: &mut Rng) -> PathBuf {
        let path = self.any(rng).path.as_os_str().as_bytes().to_vec();
        let with = |end: &[u8]| [&path[..], end].concat();
        let bytes = match rng.u32(..24) {
            0 => with(b"/"),
            1 => with(b"/."),
            2 => with(b"/nothing"),
            3 => with(b"x"),
            4 => [b"./", &path[..]].concat(),
            5 => {
                let directory = self.directory(rng).path.as_os_str().as_bytes();
                // As many steps up as down.
                let depth = directory
                    .split(|&byte| byte == b'/')
                    .filter(|name| *name != b".");
                let up = b"../".repeat(depth.count());
                [directory, b"/", &up, &path].concat()
            }
            6 => with(&[b"/".as_slice(), &[b'n'; 256]].concat()),
            7 => with(&b"/.".repeat(2100)),
            8 => path[..path.len() - rng.usize(..path.len())].to_vec(),
            9 => path
                .iter()
                .flat_map(|&byte| [byte].repeat(if byte == b'/' { 2 } else { 1 }))
                .collect(),
            10 => Vec::new(),
            _ => path,
        };
        PathBuf::from(OsString::from_vec(bytes))
    }
}

fn unless_denied<T>(answer: io::Result<T>, path: &Path) -> Result<Option<T>> {
    match answer {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        answer => answer.map(Some).map_err(Error::io("read", path)),
    }
}
