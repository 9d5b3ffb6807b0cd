// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs ls`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::str::from_utf8;
use std::sync::Arc;

use clap::Args;
use peerfs_format::FileType;
use peerfs_store::{Image, Inode, Reference, Store};
use serde::Serialize;
use time::OffsetDateTime;

use crate::arguments::StoreArguments;
use crate::error::{Error, Result};
use crate::output::Output;
use crate::realm::ReadingKeys;

/// List files of an image, from the store alone.
#[derive(Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    keys: ReadingKeys,
    /// Show modes, owners, sizes and times (UTC).
    #[arg(short)]
    long: bool,
    /// Go into subdirectories.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Show a directory itself, not what is in it.
    #[arg(short, long, conflicts_with = "recursive")]
    directory: bool,
    /// Print all that is known of each file, as a line of JSON.
    #[arg(long)]
    json: bool,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// What to list; by default the root.
    #[arg(default_value = "/")]
    path: OsString,
}

/// The output of `--json` for a file.
#[derive(Serialize)]
struct FileInfo {
    /// From the root of the image; bytes that are not UTF-8 are replaced.
    path: String,
    /// The path in hexadecimal, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    inode: u64,
    r#type: &'static str,
    /// As in `st_mode`, in octal.
    mode: String,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    /// Bytes that are not in holes.
    allocated: u64,
    mtime_seconds: i64,
    mtime_nanoseconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    /// In hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
    /// The publisher's claim about the content (Documentation/format.md); nobody has verified it.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_content_digest: Option<String>,
    /// Values in hexadecimal, of attributes whose names are UTF-8.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    /// Names and values in hexadecimal, of the others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs_hex: BTreeMap<String, String>,
}

/// Lists files of an image.
pub(crate) fn run(arguments: &ListArguments) -> Result<()> {
    let store = Arc::new(Store::open(&arguments.store.root_dir)?);
    let manifest = store.resolve(&arguments.image)?;
    let keys = arguments.keys.read(&store, &[manifest])?;
    let image = Image::open_with(store, &manifest, &keys)?;
    let path = arguments.path.as_bytes();
    let inode = image.lookup(path, true)?;
    let mut listing = Listing {
        image,
        arguments,
        output: Output::new(),
    };
    if inode.file_type() == FileType::Directory && !arguments.directory {
        listing.directories(&inode, path)?;
    } else {
        file(arguments, &mut listing.output, &inode, path)?;
    }
    listing.output.finish()
}

struct Listing<'a> {
    image: Image,
    arguments: &'a ListArguments,
    output: Output,
}

impl Listing<'_> {
    /// Lists a directory and, if that was asked for, what is below it; paths begin with `prefix`.
    fn directories(&mut self, top: &Inode, prefix: &[u8]) -> Result<()> {
        let prefix = match prefix {
            b"/" | b"" => Vec::new(),
            other => other.strip_suffix(b"/").unwrap_or(other).to_vec(),
        };
        // A path from the top, and its inode; the next one last. That of a directory is in one place only.
        let mut waiting = vec![(Vec::new(), top.number())];
        while let Some((path, number)) = waiting.pop() {
            let directory = self.image.inode(number)?;
            let place = Place {
                prefix: &prefix,
                path: &path,
            };
            let subdirectories = self.directory(&directory, place)?;
            waiting.extend(subdirectories.into_iter().rev());
        }
        Ok(())
    }

    /// Lists a directory, and returns the subdirectories that are to be listed too.
    fn directory(&mut self, directory: &Inode, place: Place<'_>) -> Result<Vec<(Vec<u8>, u64)>> {
        let Listing {
            image,
            arguments,
            output,
        } = self;
        let mut subdirectories = Vec::new();
        if !(arguments.long || arguments.json || arguments.recursive) {
            image.for_each_entry(directory, |entry| -> Result<()> {
                output.name(&place.shown(&entry.name))?;
                output.bytes(b"\n")
            })?;
            return Ok(subdirectories);
        }
        image.for_each_child(directory, |entry, inode| {
            let shown = place.shown(&entry.name);
            if arguments.json {
                file(arguments, output, &inode, &place.full(&shown))?;
            } else {
                file(arguments, output, &inode, &shown)?;
            }
            if arguments.recursive && inode.file_type() == FileType::Directory {
                subdirectories.push((shown, entry.inode));
            }
            Ok::<_, Error>(())
        })?;
        Ok(subdirectories)
    }
}

/// The place of a directory.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The path that was asked for.
    prefix: &'a [u8],
    /// The path from there.
    path: &'a [u8],
}

impl Place<'_> {
    /// The path by which a name in it is shown.
    fn shown(self, name: &[u8]) -> Vec<u8> {
        let separator: &[u8] = if self.path.is_empty() { b"" } else { b"/" };
        [self.path, separator, name].concat()
    }

    /// The path from the image's root of what is shown so.
    fn full(self, shown: &[u8]) -> Vec<u8> {
        [self.prefix, b"/", shown].concat()
    }
}

/// Prints what a file is.
fn file(arguments: &ListArguments, output: &mut Output, inode: &Inode, path: &[u8]) -> Result<()> {
    if arguments.json {
        return output.json(&file_info(inode, path)?);
    }
    if arguments.long {
        let record = inode.record();
        let size = match inode.device() {
            Some((major, minor)) => format!("{major}, {minor}"),
            None => record.size.to_string(),
        };
        output.bytes(
            format!(
                "{} {:>3} {:>5} {:>5} {size:>10} {} ",
                mode_text(inode.file_type(), inode.mode()),
                record.nlink,
                record.uid,
                record.gid,
                time_text(record.mtime_seconds),
            )
            .as_bytes(),
        )?;
    }
    output.name(path)?;
    if arguments.long && inode.file_type() == FileType::SymbolicLink {
        output.bytes(b" -> ")?;
        output.name(&inode.symlink_target()?)?;
    }
    output.bytes(b"\n")
}

fn file_info(inode: &Inode, path: &[u8]) -> Result<FileInfo> {
    let record = inode.record();
    let is_regular = inode.file_type() == FileType::Regular;
    let is_link = inode.file_type() == FileType::SymbolicLink;
    let (mut xattrs, mut xattrs_hex) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in inode.xattrs()? {
        match String::from_utf8(name) {
            Ok(name) => xattrs.insert(name, hex(&value)),
            Err(error) => xattrs_hex.insert(hex(error.as_bytes()), hex(&value)),
        };
    }
    Ok(FileInfo {
        path: String::from_utf8_lossy(path).into_owned(),
        path_hex: from_utf8(path).is_err().then(|| hex(path)),
        inode: inode.number(),
        r#type: type_name(inode.file_type()),
        mode: format!("{:o}", record.mode),
        uid: record.uid,
        gid: record.gid,
        nlink: record.nlink,
        size: record.size,
        allocated: record.allocated,
        mtime_seconds: record.mtime_seconds,
        mtime_nanoseconds: record.mtime_nanoseconds,
        device: inode.device(),
        target_hex: is_link
            .then(|| inode.symlink_target())
            .transpose()?
            .map(|target| hex(&target)),
        claimed_content_digest: is_regular
            .then(|| inode.content_digest().ok())
            .flatten()
            .map(|digest| digest.to_string()),
        xattrs,
        xattrs_hex,
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Fifo => "fifo",
        FileType::CharacterDevice => "character_device",
        FileType::Directory => "directory",
        FileType::BlockDevice => "block_device",
        FileType::Regular => "file",
        FileType::SymbolicLink => "symlink",
        FileType::Socket => "socket",
    }
}

/// `drwxr-xr-x`, as ls(1) writes it.
fn mode_text(file_type: FileType, mode: u32) -> String {
    let mut text = String::from(match file_type {
        FileType::Fifo => "p",
        FileType::CharacterDevice => "c",
        FileType::Directory => "d",
        FileType::BlockDevice => "b",
        FileType::Regular => "-",
        FileType::SymbolicLink => "l",
        FileType::Socket => "s",
    });
    let classes = [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')];
    for (shift, special, letter) in classes {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// `2026-11-22 10:30`, in UTC; seconds since 1970 if the year has more than four digits.
fn time_text(seconds: i64) -> String {
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(time) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute()
        ),
        Err(_) => seconds.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_those_of_ls() {
        assert_eq!(mode_text(FileType::Directory, 0o41755), "drwxr-xr-t");
        assert_eq!(mode_text(FileType::Regular, 0o106641), "-rwSr-S--x");
        assert_eq!(mode_text(FileType::Socket, 0o146777 & !0o1), "srwsrwsrw-");
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(time_text(0), "1970-01-01 00:00");
        assert_eq!(time_text(-1), "1969-12-31 23:59");
        assert_eq!(time_text(i64::MAX), i64::MAX.to_string());
    }
}
