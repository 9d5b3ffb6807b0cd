// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an image is read with, if it is encrypted.

use peerfs_format::{
    encryption, Digest, Error as FormatError, InodeRecord, Iv, KeyId, Manifest,
    Result as FormatResult, Root,
};
use peerfs_realm::RealmKey;

use crate::{Error, Result};

/// How far an image can be read.
pub(crate) enum Access {
    /// It is plain, and this its root directory.
    Plain(InodeRecord),
    /// It is encrypted, and the key is there.
    Key(Box<RealmKey>, InodeRecord),
    /// It is encrypted, and there is no key.
    NoKey {
        /// Its manifest.
        image: Digest,
        /// What the key is called.
        key: KeyId,
    },
}

impl Access {
    /// That to the image with this manifest, by whichever key is its.
    pub(crate) fn new(image: Digest, manifest: &Manifest, keys: &[RealmKey]) -> Result<Self> {
        let root = match &manifest.root {
            Root::Plain(record) => return Ok(Access::Plain(*record)),
            Root::Encrypted(root) => root,
        };
        let Some(key) = keys.iter().find(|key| key.id() == root.key_id) else {
            let key = root.key_id;
            return Ok(Access::NoKey { image, key });
        };
        let record = root.decrypt(key).map_err(Error::format(image))?;
        Ok(Access::Key(Box::new(key.clone()), record))
    }

    /// The record of the root directory.
    pub(crate) fn root(&self) -> Result<InodeRecord> {
        match self {
            Access::Plain(record) | Access::Key(_, record) => Ok(*record),
            Access::NoKey { image, key } => Err(Error::KeyNeeded {
                image: *image,
                key: *key,
            }),
        }
    }

    /// The key of an encrypted image.
    pub(crate) fn key(&self) -> Option<&RealmKey> {
        match self {
            Access::Key(key, _) => Some(key),
            Access::Plain(_) | Access::NoKey { .. } => None,
        }
    }

    /// What a chunk with this initialization vector is decrypted with.
    pub(crate) fn to_chunk(&self, iv: Option<Iv>) -> Result<Option<(&RealmKey, Iv)>> {
        self.root()?;
        Ok(self.key().zip(iv))
    }

    /// Checks that the chunks of a pack are encrypted if the image is, and only then.
    pub(crate) fn check_pack(&self, is_encrypted: bool) -> FormatResult<()> {
        match (self, is_encrypted) {
            (Access::Plain(_), true) => Err(FormatError::Malformed(
                "pack index: its chunks are encrypted, and the image is not",
            )),
            (Access::Key(..) | Access::NoKey { .. }, false) => Err(FormatError::Malformed(
                "pack index: its chunks are not encrypted, as the image is",
            )),
            _ => Ok(()),
        }
    }

    /// The bytes of a shard, decrypted.
    pub(crate) fn shard(&self, mut blob: Vec<u8>) -> FormatResult<Vec<u8>> {
        if let Some(key) = self.key() {
            encryption::decrypt(&mut blob, key, "inode shard")?;
            blob.drain(..Iv::SIZE);
        }
        Ok(blob)
    }
}
