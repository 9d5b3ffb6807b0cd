// SPDX-License-Identifier: GPL-2.0

//! Metadata blobs in memory: read whole, verified, parsed once.
#![forbid(unsafe_code)]

use core::fmt;

use kernel::alloc::{flags::GFP_KERNEL_ACCOUNT, AllocError};
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use peerfs_format::{
    Digest, Manifest, ManifestLayout, PackIndex, PackIndexLayout, Shard, ShardLayout, METADATA_MAX,
};

use super::cache::Size;
use super::statistics::Statistics;
use super::{Fetched, Hex};
use crate::vfs::{report, sha256, ErrorName, OpenedFile};

/// Why a blob cannot be used.
pub(crate) enum OpenError {
    /// It is not in the store, and nobody gave it: why.
    Missing(Error),
    /// It is in the store, but cannot be read.
    Read(Error),
    /// Its bytes are not those that the digest names.
    Digest,
    /// Its bytes are what they should be, but no reader understands them.
    Format(peerfs_format::Error),
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Missing(error) | OpenError::Read(error) => error,
            OpenError::Digest => EIO,
            OpenError::Format(
                peerfs_format::Error::UnsupportedVersion(_)
                | peerfs_format::Error::UnsupportedFeatures(_),
            ) => EOPNOTSUPP,
            OpenError::Format(_) => EIO,
        }
    }
}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        OpenError::Read(ENOMEM)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Missing(error) if *error == ETIMEDOUT => f.write_str(
                "not in the store, and no peerfsd answered in time: start peerfsd for this root_dir",
            ),
            OpenError::Missing(error) if *error == ENODATA => f.write_str(
                "not in the store, and there is nobody to ask (upcall=0, a store that the mounter may not write to, or no source has it)",
            ),
            OpenError::Missing(error) if *error == EHOSTUNREACH => {
                f.write_str("not in the store, and no peer has it: check the digest and the peers")
            }
            OpenError::Missing(error) => {
                write!(f, "not in the store and not to be had: {}", ErrorName(*error))
            }
            OpenError::Read(error) => write!(f, "cannot be read: {}", ErrorName(*error)),
            OpenError::Digest => {
                f.write_str("damaged, its digest differs: run `peerfs verify` on the store")
            }
            OpenError::Format(
                error @ (peerfs_format::Error::UnsupportedVersion(_)
                | peerfs_format::Error::UnsupportedFeatures(_)),
            ) => write!(f, "{error}: a newer peerfs is needed"),
            OpenError::Format(error) => {
                write!(f, "{error}: is this the digest of an image's manifest?")
            }
        }
    }
}

/// How a kind of blob is parsed.
pub(crate) trait Layout: Sized {
    /// Checks the blob.
    fn parse(bytes: &[u8]) -> peerfs_format::Result<Self>;
}

impl Layout for ManifestLayout {
    fn parse(bytes: &[u8]) -> peerfs_format::Result<Self> {
        ManifestLayout::parse(bytes)
    }
}

impl Layout for PackIndexLayout {
    fn parse(bytes: &[u8]) -> peerfs_format::Result<Self> {
        PackIndexLayout::parse(bytes)
    }
}

impl Layout for ShardLayout {
    fn parse(bytes: &[u8]) -> peerfs_format::Result<Self> {
        ShardLayout::parse(bytes)
    }
}

/// How often a blob is asked for.
const FETCHES_MAX: usize = 2;

/// A verified and parsed blob.
pub(crate) struct Blob<L> {
    bytes: KVVec<u8>,
    layout: L,
}

impl<L: Layout> Blob<L> {
    /// Reads a blob from the file that `open` gives or, if that says ENOENT, from what `fetch` gives.
    /// With a `length`, any other one is refused.
    pub(super) fn open(
        store: &CString,
        statistics: &Statistics,
        digest: &Digest,
        length: Option<u32>,
        open: impl Fn() -> Result<OpenedFile>,
        fetch: impl Fn() -> Result<Fetched>,
    ) -> core::result::Result<Self, OpenError> {
        let mut fetches = 0;
        let bytes = loop {
            match open() {
                Ok(file) => break read(&file, length),
                Err(error) if error != ENOENT => return Err(OpenError::Read(error)),
                // Whoever has taken it away again since it was fetched does not do so for ever; and the
                // mountpoint exists, whatever the store lacks.
                Err(_) if fetches == FETCHES_MAX => return Err(OpenError::Missing(EIO)),
                Err(_) => fetches += 1,
            }
            statistics.blobs.missed.count();
            match fetch().map_err(OpenError::Missing)? {
                Fetched::Filled(Some(file)) => break read(&file, length),
                Fetched::Filled(None) => {}
                Fetched::Data(data) => break copy(&data),
            }
        };
        let verified = bytes.and_then(|bytes| match sha256(&bytes) == digest.0 {
            true => Ok(bytes),
            false => Err(OpenError::Digest),
        });
        if let Err(OpenError::Digest) = verified {
            statistics.blobs.damaged.count();
            report(fmt!(
                "{}: blob {}: damaged: its digest differs\n",
                store.to_str().unwrap_or("store"),
                Hex(digest)
            ));
        }
        let bytes = verified?;
        statistics.blobs.verified.count();
        let layout = L::parse(&bytes).map_err(OpenError::Format)?;
        Ok(Blob { bytes, layout })
    }
}

fn read(file: &OpenedFile, length: Option<u32>) -> core::result::Result<KVVec<u8>, OpenError> {
    let size = file.size();
    if size > METADATA_MAX || length.is_some_and(|length| u64::from(length) != size) {
        return Err(OpenError::Digest);
    }
    let bytes = file
        .read_new(size as usize, 0, GFP_KERNEL_ACCOUNT)
        .map_err(OpenError::Read)?;
    // It may have become shorter just now: no reason to say anything but that it is wrong.
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(OpenError::Digest),
    }
}

fn copy(data: &Arc<KVVec<u8>>) -> core::result::Result<KVVec<u8>, OpenError> {
    let mut bytes = KVVec::with_capacity(data.len(), GFP_KERNEL_ACCOUNT)?;
    bytes.extend_from_slice(data, GFP_KERNEL_ACCOUNT)?;
    Ok(bytes)
}

impl<L> Size for Blob<L> {
    fn size(&self) -> usize {
        self.bytes.len()
    }
}

impl Blob<ManifestLayout> {
    /// The manifest.
    pub(super) fn view(&self) -> Manifest<'_> {
        self.layout.view(&self.bytes)
    }
}

impl Blob<PackIndexLayout> {
    /// The pack index.
    pub(super) fn view(&self) -> PackIndex<'_> {
        self.layout.view(&self.bytes)
    }
}

impl Blob<ShardLayout> {
    /// The shard.
    pub(crate) fn view(&self) -> Shard<'_> {
        self.layout.view(&self.bytes)
    }
}
