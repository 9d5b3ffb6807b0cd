// SPDX-License-Identifier: GPL-2.0

//! Metadata blobs in memory: read whole, verified, parsed once.
#![forbid(unsafe_code)]

use core::fmt;

use kernel::alloc::{flags::GFP_KERNEL_ACCOUNT, AllocError};
use kernel::prelude::*;
use kernel::str::CString;
use peerfs_format::{
    BlobTable, BlobTableLayout, Digest, Manifest, PackIndex, PackIndexLayout, Shard, ShardLayout,
    METADATA_MAX,
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

impl Layout for Manifest {
    fn parse(bytes: &[u8]) -> peerfs_format::Result<Self> {
        Manifest::parse(bytes)
    }
}

impl Layout for BlobTableLayout {
    fn parse(bytes: &[u8]) -> peerfs_format::Result<Self> {
        BlobTableLayout::parse(bytes)
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
    /// Reads a blob from the file that `open` gives. If that says ENOENT or has other bytes, from what
    /// `fetch` gives, which is told whether there are other bytes.
    pub(super) fn open(
        expected: &Expected<'_>,
        open: impl Fn() -> Result<OpenedFile>,
        fetch: impl Fn(bool) -> Result<Fetched>,
    ) -> core::result::Result<Self, OpenError> {
        let look = || match open() {
            Ok(file) => expected.read(&file).map(Some),
            Err(error) if error == ENOENT => Ok(None),
            Err(error) => Err(OpenError::Read(error)),
        };
        let mut found = look()?;
        let mut damaged = false;
        for fetches in 0..=FETCHES_MAX {
            match found {
                Some(Found::Right(bytes)) => {
                    expected.statistics.blobs.verified.count();
                    let layout = L::parse(&bytes).map_err(OpenError::Format)?;
                    return Ok(Blob { bytes, layout });
                }
                Some(Found::Damaged) => damaged = true,
                None => {}
            }
            if fetches == FETCHES_MAX {
                break;
            }
            if !damaged {
                expected.statistics.blobs.missed.count();
            }
            found = match fetch(damaged) {
                Ok(Fetched::Filled(Some(file))) => Some(expected.read(&file)?),
                Ok(Fetched::Filled(None)) => look()?,
                Ok(Fetched::Data(data)) => Some(expected.copy(&data)?),
                // Whoever is being killed does not look into damage any more.
                Err(error) if damaged && error != EINTR => return Err(OpenError::Digest),
                Err(error) => return Err(OpenError::Missing(error)),
            };
        }
        // Whoever takes it away each time does not do so for ever. It is no ENOENT: the mountpoint exists,
        // whatever the store lacks.
        Err(match damaged {
            true => OpenError::Digest,
            false => OpenError::Missing(EIO),
        })
    }
}

/// What is known of a blob before it is read.
pub(super) struct Expected<'a> {
    /// The store's path, for messages.
    pub(super) store: &'a CString,
    pub(super) statistics: &'a Statistics,
    pub(super) digest: &'a Digest,
    /// Its bytes, if that is known: any other number is damage.
    pub(super) length: Option<u32>,
}

/// What there is in the place of a blob.
enum Found {
    /// The blob.
    Right(KVVec<u8>),
    /// Something else, which was counted and reported.
    Damaged,
}

impl Expected<'_> {
    fn read(&self, file: &OpenedFile) -> core::result::Result<Found, OpenError> {
        let size = file.size();
        if size > METADATA_MAX || self.length.is_some_and(|length| u64::from(length) != size) {
            return Ok(self.damaged());
        }
        let bytes = file
            .read_new(size as usize, 0, GFP_KERNEL_ACCOUNT)
            .map_err(OpenError::Read)?;
        Ok(self.verify(bytes))
    }

    fn copy(&self, data: &[u8]) -> core::result::Result<Found, OpenError> {
        let mut bytes = KVVec::with_capacity(data.len(), GFP_KERNEL_ACCOUNT)?;
        bytes.extend_from_slice(data, GFP_KERNEL_ACCOUNT)?;
        Ok(self.verify(bytes))
    }

    fn verify(&self, bytes: KVVec<u8>) -> Found {
        match sha256(&bytes) == self.digest.0 {
            true => Found::Right(bytes),
            false => self.damaged(),
        }
    }

    fn damaged(&self) -> Found {
        self.statistics.blobs.damaged.count();
        report(fmt!(
            "{}: blob {}: damaged: its digest differs\n",
            self.store.to_str().unwrap_or("store"),
            Hex(self.digest)
        ));
        Found::Damaged
    }
}

impl<L> Size for Blob<L> {
    fn size(&self) -> usize {
        self.bytes.len()
    }
}

impl Blob<Manifest> {
    /// The manifest.
    pub(super) fn view(&self) -> &Manifest {
        &self.layout
    }
}

impl Blob<BlobTableLayout> {
    /// The blob table.
    pub(super) fn view(&self) -> BlobTable<'_> {
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
