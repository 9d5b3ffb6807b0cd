// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image as a tar archive.

mod header;

use std::collections::HashMap;
use std::io::{self, Read, Write};

use peerfs_format::{pieces, FileType, Source};
use peerfs_store::{ChunkReader, Image, Inode};

use crate::walk::{join, Step, Walk};
use crate::{Error, Result, Selection, Stop};
use header::{Entry, Kind, BLOCK};

/// A file is written as a sparse one if its holes have so many bytes at least, and more than its data: not every
/// reader knows sparse files, and most zeros cost little.
const HOLES_MIN: u64 = 1024 * 1024;
static ZEROS: [u8; BLOCK] = [0; BLOCK];
/// The end of an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// For whom an archive is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Everybody.
    Archive,
    /// Those who unpack layers, to whom some names are not names of files.
    Layer,
}

/// Writes an image as a tar archive: POSIX pax with nanoseconds, extended attributes (`SCHILY.xattr.`), hard links, and
/// files that are mostly holes as GNU tar's sparse files. The same image makes the same bytes. Paths begin with no slash,
/// and the root is `./`. Sockets, for which tar has no type, are left out: `left_out` is told their paths.
///
/// # Errors
/// [`Error::Output`]; [`Error::Content`] and [`Error::Image`] if the image is not all here, or damaged; [`Error::Cancelled`].
pub fn write_tar<R: ChunkReader>(
    image: &Image<R>,
    output: &mut dyn Write,
    is_cancelled: fn() -> bool,
    left_out: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    write(image, Purpose::Archive, output, is_cancelled, left_out)
}

pub(crate) fn write<R: ChunkReader>(
    image: &Image<R>,
    purpose: Purpose,
    output: &mut dyn Write,
    is_cancelled: fn() -> bool,
    left_out: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    let mut archive = Archive {
        image,
        purpose,
        output,
        is_cancelled,
        left_out,
        first_names: HashMap::new(),
    };
    archive.tree()?;
    archive.put(&END)
}

/// Writes a file of root's, from 1970, with the content that `content` has.
pub(crate) fn write_member(
    output: &mut dyn Write,
    path: &[u8],
    length: u64,
    content: &mut dyn Read,
) -> io::Result<()> {
    let entry = Entry {
        path,
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: length,
        mtime: (0, 0),
        xattrs: &[],
    };
    output.write_all(&entry.encode())?;
    io::copy(content, output)?;
    output.write_all(padding(length))
}

/// What fills the last block up.
fn padding(length: u64) -> &'static [u8] {
    match (length % BLOCK as u64) as usize {
        0 => &[],
        behind => ZEROS.get(behind..).unwrap_or_default(),
    }
}

struct Archive<'a, R: ChunkReader> {
    image: &'a Image<R>,
    purpose: Purpose,
    output: &'a mut dyn Write,
    is_cancelled: fn() -> bool,
    left_out: &'a mut dyn FnMut(&[u8]),
    /// The first paths of inodes that have several.
    first_names: HashMap<u64, Vec<u8>>,
}

impl<R: ChunkReader> Archive<'_, R> {
    fn tree(&mut self) -> Result<()> {
        let everything = Selection::default();
        let mut walk = Walk::new(self.image, &everything);
        while let Some(step) = walk.next()? {
            let Step::Enter(directory) = step else {
                continue;
            };
            let name = match directory.path.as_slice() {
                b"" => b"./".to_vec(),
                path => [path, b"/"].concat(),
            };
            self.check_name(&directory.path)?;
            self.entry(&name, Kind::Directory, &directory.inode)?;
            walk.children(&directory, |name, inode| {
                self.file(join(&directory.path, name), &inode)
            })?;
        }
        Ok(())
    }

    /// Adds anything but a directory.
    fn file(&mut self, path: Vec<u8>, inode: &Inode) -> Result<()> {
        if (self.is_cancelled)() {
            return Err(Error::Cancelled);
        }
        self.check_name(&path)?;
        let (major, minor) = inode.device().unwrap_or_default();
        let target;
        let kind = match inode.file_type() {
            FileType::Socket => {
                (self.left_out)(&path);
                return Ok(());
            }
            FileType::SymbolicLink => {
                target = inode.symlink_target()?;
                Kind::SymbolicLink(&target)
            }
            FileType::CharacterDevice => Kind::CharacterDevice(major, minor),
            FileType::BlockDevice => Kind::BlockDevice(major, minor),
            FileType::Fifo => Kind::Fifo,
            FileType::Directory => Kind::Directory,
            FileType::Regular => Kind::File,
        };
        if inode.record().nlink > 1 {
            if let Some(first) = self.first_names.get(&inode.number()).cloned() {
                return self.entry(&path, Kind::HardLink(&first), inode);
            }
            self.first_names.insert(inode.number(), path.clone());
        }
        if kind != Kind::File {
            return self.entry(&path, kind, inode);
        }
        let runs = data_runs(inode)?;
        let data: u64 = runs.iter().map(|(_, length)| length).sum();
        let holes = inode.record().size.saturating_sub(data);
        let is_sparse = holes >= HOLES_MIN && holes > data;
        let (kind, length) = match is_sparse {
            true => (Kind::Sparse(&runs), data),
            false => (Kind::File, inode.record().size),
        };
        self.entry(&path, kind, inode)?;
        self.content(&path, inode, is_sparse)?;
        self.put(padding(length))
    }

    fn content(&mut self, path: &[u8], inode: &Inode, is_sparse: bool) -> Result<()> {
        let mut put = |part: &[u8]| match (self.is_cancelled)() {
            true => Err(Stop(Error::Cancelled)),
            false => self
                .output
                .write_all(part)
                .map_err(|error| Stop(Error::Output(error))),
        };
        let written = match is_sparse {
            true => self.image.read_data(inode, |_, part| put(part)),
            false => self.image.read(inode, 0, inode.record().size, put),
        };
        written.map_err(|stop: Stop| stop.of_file(path))
    }

    /// Adds an entry without its content.
    fn entry(&mut self, path: &[u8], kind: Kind<'_>, inode: &Inode) -> Result<()> {
        let record = inode.record();
        let is_link = matches!(kind, Kind::HardLink(_));
        // What a further name says of the inode nobody needs.
        let xattrs = if is_link { Vec::new() } else { inode.xattrs()? };
        let entry = Entry {
            path,
            kind,
            mode: record.mode & 0o7777,
            uid: record.uid,
            gid: record.gid,
            size: match kind {
                Kind::File | Kind::Sparse(_) => record.size,
                _ => 0,
            },
            mtime: (record.mtime_seconds, record.mtime_nanoseconds),
            xattrs: &xattrs,
        };
        self.put(&entry.encode())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(Error::Output)
    }

    /// Whoever unpacks a layer takes some names for orders to remove something.
    fn check_name(&self, path: &[u8]) -> Result<()> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        match self.purpose == Purpose::Layer && name.starts_with(b".wh.") {
            true => Err(Error::Whiteout(path.to_vec())),
            false => Ok(()),
        }
    }
}

/// Where in a file there is data: where each run begins, and its bytes.
fn data_runs(file: &Inode) -> Result<Vec<(u64, u64)>> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for piece in pieces(&file.extents()?, 0..file.record().size) {
        if piece.source == Source::Hole {
            continue;
        }
        match runs.last_mut() {
            Some((start, length)) if *start + *length == piece.file_offset => {
                *length += piece.length
            }
            _ => runs.push((piece.file_offset, piece.length)),
        }
    }
    Ok(runs)
}
