// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The manifest: the blob whose digest is given at mount.

use crate::message::{check_absent, read_message};
use crate::{
    peerfs_capnp, Digest, Error, FileType, InodeRecord, Result, Table, FORMAT_VERSION,
    KNOWN_INCOMPATIBLE_FEATURES, METADATA_MAX, ROOT_INODE,
};

const WHAT: &str = "manifest";

/// A manifest. It is as long for an image of any size: all that a mount needs is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// The incompatible features that the image has, all of them known.
    pub features: u64,
    /// Inodes of the image, at least 1.
    pub inode_count: u64,
    /// Bytes that regular files hold, holes not counted.
    pub content_bytes: u64,
    /// Bytes of all packs as stored.
    pub stored_bytes: u64,
    /// The root directory, as its shard has it.
    pub root: InodeRecord,
    /// SHA-256 of the blob table.
    pub blob_table: Digest,
    /// Bytes of the blob table: 1 to `METADATA_MAX`.
    pub blob_table_length: u32,
}

impl Manifest {
    /// Checks and reads a manifest.
    pub fn parse(blob: &[u8]) -> Result<Self> {
        if blob.len() as u64 > METADATA_MAX {
            return Err(Error::TooLarge("METADATA_MAX"));
        }
        let message = read_message(blob, WHAT)?;
        let fields: peerfs_capnp::manifest::Reader<'_> =
            message.get_root().map_err(|_| Error::Malformed(WHAT))?;
        if fields.get_format_version() != FORMAT_VERSION {
            return Err(Error::UnsupportedVersion(fields.get_format_version()));
        }
        let features = fields.get_incompatible_features();
        let unknown = features & !KNOWN_INCOMPATIBLE_FEATURES;
        if unknown != 0 {
            return Err(Error::UnsupportedFeatures(unknown));
        }
        if u64::from(fields.get_blob_table_length()) > METADATA_MAX {
            return Err(Error::TooLarge("METADATA_MAX"));
        }
        if fields.get_blob_table_length() == 0 || fields.get_inode_count() == 0 {
            return Err(Error::Malformed(WHAT));
        }
        check_absent(fields.get_key_id(), "key id of an image without encryption")?;
        check_absent(fields.get_envelope(), "key of an image without encryption")?;
        check_trace(fields.get_trace())?;
        Ok(Manifest {
            features,
            inode_count: fields.get_inode_count(),
            content_bytes: fields.get_content_bytes(),
            stored_bytes: fields.get_stored_bytes(),
            root: root_record(fields.get_root())?,
            blob_table: blob_table_digest(fields.get_blob_table())?,
            blob_table_length: fields.get_blob_table_length(),
        })
    }
}

/// Nobody reads a trace yet: that it is a digest is what those rely on who will.
fn check_trace(data: capnp::Result<&[u8]>) -> Result<()> {
    match data.map(<[u8]>::len) {
        Ok(0 | Digest::SIZE) => Ok(()),
        _ => Err(Error::Malformed("trace's digest")),
    }
}

fn root_record(data: capnp::Result<&[u8]>) -> Result<InodeRecord> {
    const ROOT: Error = Error::Malformed("root directory");
    let table = Table::<InodeRecord>::new(data.map_err(|_| ROOT)?, "root directory")?;
    let record = table.get(0).ok_or(ROOT)?.checked()?;
    match record.file_type() {
        Some(FileType::Directory) if table.len() == 1 && record.link == ROOT_INODE => Ok(record),
        _ => Err(ROOT),
    }
}

fn blob_table_digest(data: capnp::Result<&[u8]>) -> Result<Digest> {
    data.ok()
        .and_then(|bytes| bytes.try_into().ok())
        .map(Digest)
        .ok_or(Error::Malformed("blob table's digest"))
}
