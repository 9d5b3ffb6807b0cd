// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The inodes of an image of PuzzleFS, in its metadata.

use capnp::message::{Reader, ReaderOptions};
use capnp::serialize::BufferSegments;
use capnp::struct_list;
use peerfs_format::{Digest, ROOT_INODE};

use super::chunks::Piece;
use crate::puzzlefs_capnp::{dir_entry, file_chunk, inode, rootfs};
use crate::source::{DeviceNumber, Flaw, Kind, Metadata};
use crate::xattrs::XattrSet;

/// The version of the metadata that is understood.
const VERSION: u64 = 3;

const DAMAGED: Flaw = Flaw::Refused("the image's metadata is damaged");

pub(super) type Message<'a> = Reader<BufferSegments<&'a [u8]>>;

/// Reads metadata as a message. It may be walked over a few times: no part of it is a part of many others.
pub(super) fn read_message(metadata: &[u8]) -> Result<Message<'_>, Flaw> {
    let options = ReaderOptions {
        // In words of 8 bytes.
        traversal_limit_in_words: Some(metadata.len() / 2 + 1024),
        nesting_limit: 16,
    };
    let segments = BufferSegments::new(metadata, options);
    let segments = segments.map_err(|_| DAMAGED)?;
    Ok(Reader::new(segments, options))
}

/// All inodes of an image.
pub(super) struct Inodes<'a> {
    layers: Vec<struct_list::Reader<'a, inode::Owned>>,
    /// Each inode of the image by its number: where it is in the topmost layer that has it.
    places: Vec<Place>,
}

struct Place {
    number: u64,
    layer: u32,
    index: u32,
}

/// An inode.
pub(super) struct Inode<'a> {
    pub(super) metadata: Metadata,
    pub(super) xattrs: XattrSet,
    pub(super) kind: InodeKind<'a>,
}

/// What an inode is, and what only that has.
pub(super) enum InodeKind<'a> {
    Directory(struct_list::Reader<'a, dir_entry::Owned>),
    Regular(Vec<Piece>),
    Other(Kind),
    /// The entries that lead to it are none.
    Removed,
}

impl<'a> Inodes<'a> {
    pub(super) fn new(message: &'a Message<'_>) -> Result<Self, Flaw> {
        let rootfs = message.get_root::<rootfs::Reader<'_>>();
        let rootfs = rootfs.map_err(|_| DAMAGED)?;
        if rootfs.get_manifest_version() != VERSION {
            return Err(Flaw::Refused(
                "the image is of another version of PuzzleFS than 0.2, whose images are read",
            ));
        }
        let mut layers = Vec::new();
        let mut places = Vec::new();
        for layer in rootfs.get_metadatas().map_err(|_| DAMAGED)? {
            let inodes = layer.get_inodes().map_err(|_| DAMAGED)?;
            let number = layers.len() as u32;
            places.extend(inodes.iter().zip(0..).map(|(inode, index)| Place {
                number: inode.get_ino(),
                layer: number,
                index,
            }));
            layers.push(inodes);
        }
        places.sort_by_key(|place| (place.number, place.layer));
        places.dedup_by_key(|place| place.number);
        Ok(Inodes { layers, places })
    }

    /// Bytes of memory that they take.
    pub(super) fn memory(&self) -> u64 {
        size_of_val(self.places.as_slice()) as u64
    }

    /// An inode by its number.
    pub(super) fn get(&self, number: u64) -> Result<Inode<'a>, Flaw> {
        let found = self
            .places
            .binary_search_by_key(&number, |place| place.number);
        let place = found.ok().and_then(|index| self.places.get(index));
        let place = place.ok_or(Flaw::Refused(match number {
            ROOT_INODE => "the image has no root",
            _ => "there is no inode of its number",
        }))?;
        let layer = self.layers.get(place.layer as usize).ok_or(DAMAGED)?;
        let inode = layer.try_get(place.index).ok_or(DAMAGED)?;
        let additional = inode.get_additional().map_err(|_| DAMAGED)?;
        let mut xattrs = XattrSet::default();
        for xattr in additional.get_xattrs().map_err(|_| DAMAGED)? {
            let (key, value) = (xattr.get_key(), xattr.get_val());
            let (key, value) = key.and_then(|key| Ok((key, value?))).map_err(|_| DAMAGED)?;
            if key.contains(&0) {
                return Err(Flaw::Refused("the name of an extended attribute has a NUL"));
            }
            xattrs.add(key, value.to_vec())?;
        }
        let kind = match inode.get_mode().which().map_err(|_| DAMAGED)? {
            inode::mode::Which::Dir(directory) => {
                let entries = directory.and_then(|directory| directory.get_entries());
                InodeKind::Directory(entries.map_err(|_| DAMAGED)?)
            }
            inode::mode::Which::File(chunks) => {
                InodeKind::Regular(pieces(chunks.map_err(|_| DAMAGED)?)?)
            }
            inode::mode::Which::Lnk(()) => {
                let target = additional.get_symlink_target().map_err(|_| DAMAGED)?;
                InodeKind::Other(Kind::SymbolicLink(target.to_vec()))
            }
            inode::mode::Which::Chr(number) => {
                let number = number.map_err(|_| DAMAGED)?;
                let number = device(number.get_major(), number.get_minor())?;
                InodeKind::Other(Kind::CharacterDevice(number))
            }
            inode::mode::Which::Blk(number) => {
                let number = number.map_err(|_| DAMAGED)?;
                let number = device(number.get_major(), number.get_minor())?;
                InodeKind::Other(Kind::BlockDevice(number))
            }
            inode::mode::Which::Fifo(()) => InodeKind::Other(Kind::Fifo),
            inode::mode::Which::Sock(()) => InodeKind::Other(Kind::Socket),
            inode::mode::Which::Wht(()) => InodeKind::Removed,
            inode::mode::Which::Unknown(()) => {
                return Err(Flaw::Refused("the image does not say what it is"))
            }
        };
        let permissions = match kind {
            // Linux has no others.
            InodeKind::Other(Kind::SymbolicLink(_)) => 0o777,
            _ => inode.get_permissions().into(),
        };
        Ok(Inode {
            metadata: Metadata {
                permissions,
                uid: inode.get_uid(),
                gid: inode.get_gid(),
                ..Metadata::default()
            },
            xattrs,
            kind,
        })
    }

    /// The entries of a directory, sorted by name: names and inode numbers.
    pub(super) fn entries(
        &self,
        list: struct_list::Reader<'a, dir_entry::Owned>,
    ) -> Result<Vec<(&'a [u8], u64)>, Flaw> {
        let entries = list
            .iter()
            .map(|entry| Ok((entry.get_name()?, entry.get_ino())));
        let entries: capnp::Result<Vec<_>> = entries.collect();
        let mut entries = entries.map_err(|_| DAMAGED)?;
        entries.sort_unstable();
        let is_twice =
            |pair: &[(&[u8], u64)]| matches!(pair, [(one, _), (other, _)] if one == other);
        match entries.windows(2).any(is_twice) {
            true => Err(Flaw::Refused("the directory has two entries of one name")),
            false => Ok(entries),
        }
    }
}

/// Where the content of a file is.
fn pieces(chunks: struct_list::Reader<'_, file_chunk::Owned>) -> Result<Vec<Piece>, Flaw> {
    let mut size = 0_u64;
    let mut pieces = Vec::new();
    for chunk in chunks {
        let blob = chunk.get_blob().map_err(|_| DAMAGED)?;
        let digest = blob.get_digest().map_err(|_| DAMAGED)?;
        let length = chunk.get_len();
        let end = size.checked_add(length);
        size = end.filter(|end| *end <= i64::MAX as u64).ok_or(DAMAGED)?;
        pieces.push(Piece {
            digest: Digest(digest.try_into().map_err(|_| DAMAGED)?),
            offset: blob.get_offset(),
            length,
            is_compressed: blob.get_compressed(),
        });
    }
    Ok(pieces)
}

fn device(major: u64, minor: u64) -> Result<DeviceNumber, Flaw> {
    let number = |number: u64| {
        u32::try_from(number).map_err(|_| Flaw::Refused("its device number is too large"))
    };
    Ok(DeviceNumber {
        major: number(major)?,
        minor: number(minor)?,
    })
}
