// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The manifest: the blob whose digest is given at mount.

use crate::encryption::{self, Cipher, Iv, KeyId};
use crate::message::{check_absent, read_message};
use crate::{
    peerfs_capnp, Digest, Error, FileType, InodeRecord, Record, Result, Table, FEATURE_ENCRYPTION,
    FORMAT_VERSION, KNOWN_INCOMPATIBLE_FEATURES, METADATA_MAX, ROOT_INODE,
};

const WHAT: &str = "manifest";
const ROOT: &str = "root directory";

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
    pub root: Root,
    /// SHA-256 of the blob table.
    pub blob_table: Digest,
    /// Bytes of the blob table: 1 to `METADATA_MAX`.
    pub blob_table_length: u32,
}

/// The root directory's record in a manifest: what an image is, encrypted or not, shows by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Root {
    /// Of an image that everybody can read.
    Plain(InodeRecord),
    /// Of one that takes a key.
    Encrypted(EncryptedRoot),
}

/// The root directory's record of an encrypted image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EncryptedRoot {
    /// The key of the image's realm.
    pub key_id: KeyId,
    /// The initialization vector, and the record encrypted.
    pub record: [u8; EncryptedRoot::SIZE],
}

impl EncryptedRoot {
    /// Bytes of the vector and the record.
    pub const SIZE: usize = Iv::SIZE + InodeRecord::SIZE;

    /// The record, if it is valid.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decrypt(&self, cipher: &impl Cipher) -> Result<InodeRecord> {
        let mut bytes = self.record;
        root_record(encryption::decrypt(&mut bytes, cipher, ROOT)?)
    }
}

impl Manifest {
    /// The key of the image's realm, if it is encrypted.
    pub fn key_id(&self) -> Option<KeyId> {
        match &self.root {
            Root::Plain(_) => None,
            Root::Encrypted(root) => Some(root.key_id),
        }
    }

    /// Whether the image is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.key_id().is_some()
    }

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
        let root = match features & FEATURE_ENCRYPTION {
            0 => {
                check_absent(fields.get_key_id(), "key id of an image without encryption")?;
                check_absent(fields.get_envelope(), "key of an image without encryption")?;
                let record = fields.get_root().map_err(|_| Error::Malformed(ROOT))?;
                Root::Plain(root_record(record)?)
            }
            _ => {
                check_digest(fields.get_envelope(), "envelope's digest")?;
                Root::Encrypted(EncryptedRoot {
                    key_id: KeyId(array(fields.get_key_id(), "key id")?),
                    record: array(fields.get_root(), ROOT)?,
                })
            }
        };
        check_digest(fields.get_trace(), "trace's digest")?;
        Ok(Manifest {
            features,
            inode_count: fields.get_inode_count(),
            content_bytes: fields.get_content_bytes(),
            stored_bytes: fields.get_stored_bytes(),
            root,
            blob_table: Digest(array(fields.get_blob_table(), "blob table's digest")?),
            blob_table_length: fields.get_blob_table_length(),
        })
    }
}

/// Nobody reads what the digest is of: that it is one is what those rely on who will.
fn check_digest(data: capnp::Result<&[u8]>, what: &'static str) -> Result<()> {
    match data.map(<[u8]>::len) {
        Ok(0 | Digest::SIZE) => Ok(()),
        _ => Err(Error::Malformed(what)),
    }
}

fn root_record(bytes: &[u8]) -> Result<InodeRecord> {
    let table = Table::<InodeRecord>::new(bytes, ROOT)?;
    let record = table.get(0).ok_or(Error::Malformed(ROOT))?.checked()?;
    match record.file_type() {
        Some(FileType::Directory) if table.len() == 1 && record.link == ROOT_INODE => Ok(record),
        _ => Err(Error::Malformed(ROOT)),
    }
}

fn array<const N: usize>(data: capnp::Result<&[u8]>, what: &'static str) -> Result<[u8; N]> {
    data.ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Error::Malformed(what))
}
