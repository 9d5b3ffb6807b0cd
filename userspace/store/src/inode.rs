// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An inode of an image.

use std::sync::Arc;

use peerfs_format::{Digest, ExtentRecord, FileType, InodeRecord, Shard, ShardLayout, SpanRecord};

use crate::{Error, Result};

/// A shard's blob with its parsed frame.
pub(crate) struct ShardBlob {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) layout: ShardLayout,
}

impl ShardBlob {
    pub(crate) fn view(&self) -> Shard<'_> {
        self.layout.view(&self.bytes)
    }
}

/// An inode of an image, with the shard that it is in.
#[derive(Clone)]
pub struct Inode {
    pub(crate) number: u64,
    pub(crate) record: InodeRecord,
    pub(crate) file_type: FileType,
    pub(crate) shard: Arc<ShardBlob>,
}

impl Inode {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its kind.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// Its record: mode, owner, sizes, times.
    pub fn record(&self) -> &InodeRecord {
        &self.record
    }

    /// Its full mode, as in `st_mode`.
    pub fn mode(&self) -> u32 {
        self.record.mode
    }

    /// A name for it where its path is not known.
    pub(crate) fn describe(&self) -> Vec<u8> {
        format!("inode {}", self.number).into_bytes()
    }

    /// A device's major and minor numbers; None for anything else.
    pub fn device(&self) -> Option<(u32, u32)> {
        if !matches!(
            self.file_type,
            FileType::CharacterDevice | FileType::BlockDevice
        ) {
            return None;
        }
        let encoded = self.record.payload_first;
        let major = (encoded >> 8) & 0xfff;
        let minor = (encoded & 0xff) | ((encoded >> 12) & 0xfff00);
        Some((major, minor))
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// [`Error::Format`] if it is not valid.
    pub fn symlink_target(&self) -> Result<Vec<u8>> {
        self.with_shard(|shard| shard.symlink_target(&self.record).map(<[u8]>::to_vec))
    }

    /// A regular file's content digest, as the image's builder claims it: nobody verifies it.
    ///
    /// # Errors
    /// [`Error::Format`] if it has none.
    pub fn content_digest(&self) -> Result<Digest> {
        self.with_shard(|shard| shard.content_digest(&self.record))
    }

    /// The extended attributes: full names, sorted, and values.
    ///
    /// # Errors
    /// [`Error::Format`] if they are not valid.
    pub fn xattrs(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.with_shard(|shard| {
            shard
                .xattrs(&self.record)?
                .map(|pair| pair.map(|(name, value)| (name.to_vec(), value.to_vec())))
                .collect()
        })
    }

    /// A regular file's extents, in the order of their file offsets.
    ///
    /// # Errors
    /// [`Error::Format`] if they are not valid.
    pub fn extents(&self) -> Result<Vec<ExtentRecord>> {
        self.with_shard(|shard| Ok(shard.extents(&self.record)?.iter().collect()))
    }

    /// The span of a directory that has the entry of this name, if there is one.
    pub(crate) fn span_of(&self, name: &[u8]) -> Result<Option<SpanRecord>> {
        self.with_shard(|shard| shard.span_of(&self.record, name))
    }

    /// The error that something of this inode is not what it must be.
    pub(crate) fn malformed(&self, what: &'static str) -> Error {
        Error::format(self.shard.digest)(peerfs_format::Error::Malformed(what))
    }

    fn with_shard<T>(
        &self,
        read: impl FnOnce(&Shard<'_>) -> peerfs_format::Result<T>,
    ) -> Result<T> {
        read(&self.shard.view()).map_err(Error::format(self.shard.digest))
    }
}
