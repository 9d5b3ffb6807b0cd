// SPDX-License-Identifier: GPL-2.0 OR MIT

//! All that a path of a tree is, as a line of text: two trees are the same if their lines are.

use std::fmt::{self, Write as _};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor, seek, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// Files above this size are hashed as the pieces that are data, each with its place, so that a
/// sparse file of many gigabytes can be compared.
const WHOLE_MAX: u64 = 64 * 1024 * 1024;

/// Everything about a path of a tree. Directories have no size and no sparseness here: that is the
/// filesystem's own business.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    kind: char,
    mode: u32,
    uid: u32,
    gid: u32,
    size: Option<u64>,
    mtime: (i64, i64),
    nlink: u64,
    device: (u32, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    target: Option<PathBuf>,
    content: Option<[u8; 32]>,
}

impl Entry {
    /// Reads everything about a path, its content included.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        let kind = kind_of(&metadata);
        Ok(Entry {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: (kind != 'd').then_some(metadata.size()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            nlink: metadata.nlink(),
            device: (major(metadata.rdev()), minor(metadata.rdev())),
            xattrs: xattrs(path)?,
            target: if kind == 'l' {
                Some(fs::read_link(path)?)
            } else {
                None
            },
            content: if kind == 'f' {
                Some(content_digest(&File::open(path)?, metadata.size())?)
            } else {
                None
            },
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mode={:04o}", self.kind, self.mode)?;
        write!(f, " uid={} gid={} nlink={}", self.uid, self.gid, self.nlink)?;
        if let Some(size) = self.size {
            write!(f, " size={size}")?;
        }
        write!(f, " mtime={}.{:09}", self.mtime.0, self.mtime.1)?;
        if matches!(self.kind, 'c' | 'b') {
            write!(f, " device={}:{}", self.device.0, self.device.1)?;
        }
        for (name, value) in &self.xattrs {
            write!(f, " xattr:{}={}", escape(name), hex(value))?;
        }
        if let Some(target) = &self.target {
            write!(f, " target={}", escape(target.as_os_str().as_bytes()))?;
        }
        if let Some(content) = &self.content {
            write!(f, " sha256={}", hex(content))?;
        }
        Ok(())
    }
}

fn kind_of(metadata: &Metadata) -> char {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => 'd',
        () if kind.is_file() => 'f',
        () if kind.is_symlink() => 'l',
        () if kind.is_char_device() => 'c',
        () if kind.is_block_device() => 'b',
        () if kind.is_fifo() => 'p',
        () if kind.is_socket() => 's',
        () => '?',
    }
}

/// The xattrs of a path, links not followed, sorted by name.
fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        // Not every source filesystem has them.
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    names.truncate(length);
    let mut found = Vec::new();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

fn content_digest(mut file: &File, size: u64) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    if size <= WHOLE_MAX {
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(hasher.finalize().into());
            }
            hasher.update(&buffer[..count]);
        }
    }
    for (start, end) in data_segments(file)? {
        hasher.update(start.to_le_bytes());
        hasher.update(end.to_le_bytes());
        let mut position = start;
        while position < end {
            let wanted = buffer.len().min((end - position) as usize);
            let count = rustix::io::pread(file, &mut buffer[..wanted], position)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&buffer[..count]);
            position += count as u64;
        }
    }
    Ok(hasher.finalize().into())
}

/// The pieces of a file that are data, as SEEK_DATA and SEEK_HOLE say: begin and end of each.
pub(crate) fn data_segments(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let mut segments = Vec::new();
    let mut position = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(segments),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        if start < position || end <= start {
            return Err(io::Error::other(format!(
                "SEEK_DATA({position}) says {start}, SEEK_HOLE({start}) says {end}"
            )));
        }
        segments.push((start, end));
        position = end;
    }
}

/// All paths of a tree relative to its root, the root ("") first, in the order of their bytes within
/// a directory.
pub(crate) fn walk(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let full = root.join(&path);
        if fs::symlink_metadata(&full)?.is_dir() {
            let mut names = names_in(&full)?;
            names.reverse();
            open.extend(names.into_iter().map(|name| path.join(name)));
        }
        found.push(path);
    }
    Ok(found)
}

/// The names in a directory, sorted.
pub(crate) fn names_in(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names: Vec<_> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Printable ASCII without spaces: bytes that are not become `\xNN`.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'\\' {
            text.push(byte.into());
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The bytes that [`escape`] was given; None if it cannot have been.
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once("\\x") {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(escaped.get(..2)?, 16).ok()?);
        rest = escaped.get(2..)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Prints a line for each path of a tree.
pub(crate) fn print_manifest(root: &Path) -> crate::Result<()> {
    let failed = |path: &Path| crate::Error::io("read", path);
    for path in walk(root).map_err(failed(root))? {
        let full = root.join(&path);
        let entry = Entry::read(&full).map_err(failed(&full))?;
        println!("{} {entry}", escape(path_bytes(&path)));
    }
    Ok(())
}

/// The bytes of a relative path; a dot for the root.
fn path_bytes(path: &Path) -> &[u8] {
    match path.as_os_str().as_bytes() {
        b"" => b".",
        bytes => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_escaping() {
        let name = b" a\\x41\n\xff\\".as_slice();
        let escaped = escape(name);
        assert!(escaped.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(unescape(&escaped).as_deref(), Some(name));
        assert_eq!(unescape("\\xz0"), None);
    }

    #[test]
    fn a_changed_byte_and_a_changed_hole_change_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![7; 100_000]).unwrap();
        let line = |path: &Path| Entry::read(path).unwrap().content;
        let before = line(&path);
        let mut bytes = fs::read(&path).unwrap();
        bytes[99_999] = 8;
        fs::write(&path, bytes).unwrap();
        assert_ne!(before, line(&path));
    }
}
