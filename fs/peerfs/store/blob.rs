// SPDX-License-Identifier: GPL-2.0

//! Metadata blobs in memory: read whole, verified, parsed once.
#![forbid(unsafe_code)]

use core::{fmt, format_args};

use kernel::alloc::{flags::GFP_KERNEL_ACCOUNT, AllocError};
use kernel::prelude::*;
use kernel::str::CString;
use peerfs_format::{
    BlobTable, BlobTableLayout, Digest, KeyId, Manifest, PackIndex, PackIndexLayout, Shard,
    ShardLayout, METADATA_MAX,
};

use super::statistics::Statistics;
use super::{Hex, Missed};
use crate::rust::crypto::sha256;
use crate::rust::fs::{ErrorName, Found, OpenedFile};
use crate::rust::ratelimit::Reporter;

/// Why a blob cannot be used.
pub(crate) enum OpenError {
    /// It is not in the store, and nobody gave it: why.
    Missing(Missed),
    /// It is in the store, but cannot be read.
    Read(Error),
    /// Its bytes are not those that the digest names.
    Digest,
    /// Its bytes are what they should be, but no reader understands them.
    Format(peerfs_format::Error),
    /// The image is encrypted, and the mounter does not have this key.
    Key(KeyId, Error),
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Missing(missed) => missed.into(),
            OpenError::Read(error) | OpenError::Key(_, error) => error,
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
            OpenError::Missing(missed) => missed.fmt(f),
            OpenError::Read(error) => write!(f, "cannot be read: {}", ErrorName(*error)),
            OpenError::Digest => {
                f.write_str("damaged, its digest differs: run `peerfs verify` on the store")
            }
            OpenError::Format(
                error @ (peerfs_format::Error::UnsupportedVersion(_)
                | peerfs_format::Error::UnsupportedFeatures(_)),
            ) => write!(f, "{error}: a newer peerfs is needed"),
            OpenError::Key(id, EKEYREJECTED) => write!(
                f,
                "encrypted, and the key that is called peerfs:{id} is another one: import the right one with `peerfs key import`"
            ),
            OpenError::Key(id, error) => write!(
                f,
                "encrypted, and the key peerfs:{id} is in no keyring of yours ({}): `peerfs key import FILE` puts it there, or mount it with -o key=FILE",
                ErrorName(*error)
            ),
            OpenError::Format(error) => {
                write!(f, "{error}: is this the digest of an image's manifest?")
            }
        }
    }
}

/// How often a blob is asked for.
const FETCHES_MAX: usize = 2;

/// A verified and parsed blob.
pub(crate) struct Blob<L> {
    pub(super) bytes: KVVec<u8>,
    layout: L,
}

impl<L> Blob<L> {
    /// Reads a blob from the file that `open` gives, and has it parsed, and decrypted before if it is. If there is nothing,
    /// something else or other bytes, it is read from what `fetch` gives, which is told whether there was something.
    pub(super) fn open(
        expected: &Expected<'_>,
        open: impl Fn() -> Result<Found>,
        fetch: impl Fn(bool) -> core::result::Result<OpenedFile, Missed>,
        parse: impl Fn(&mut KVVec<u8>) -> peerfs_format::Result<L>,
    ) -> core::result::Result<Self, OpenError> {
        let mut found = match open().map_err(OpenError::Read)? {
            Found::File(file) => Some(expected.read(&file)?),
            Found::Nothing => None,
            Found::Unusable(why) => Some(expected.damaged(why)),
        };
        for fetches in 0..=FETCHES_MAX {
            let damaged = match found {
                Some(Content::Right(mut bytes)) => {
                    expected.statistics.blobs.verified.count();
                    // The digest is right, so the image was made like this.
                    let layout = parse(&mut bytes)
                        .inspect_err(|error| expected.report(format_args!("refused: {error}")))
                        .map_err(OpenError::Format)?;
                    return Ok(Blob { bytes, layout });
                }
                Some(Content::Damaged) => true,
                None => false,
            };
            if fetches == FETCHES_MAX {
                break;
            }
            if !damaged {
                expected.statistics.blobs.missed.count();
            }
            found = match fetch(damaged) {
                Ok(file) => Some(expected.read(&file)?),
                // Whoever is being killed does not look into damage any more.
                Err(missed) if damaged && Error::from(missed) != EINTR => {
                    return Err(OpenError::Digest)
                }
                Err(missed) => return Err(OpenError::Missing(missed)),
            };
        }
        Err(OpenError::Digest)
    }
}

/// What is known of a blob before it is read.
pub(super) struct Expected<'a> {
    /// The store's path, for messages.
    pub(super) store: &'a CString,
    pub(super) log: &'a Reporter,
    pub(super) statistics: &'a Statistics,
    pub(super) digest: &'a Digest,
    /// Its bytes, if that is known: any other number is damage.
    pub(super) length: Option<u32>,
}

/// What there is in the place of a blob.
enum Content {
    /// The blob.
    Right(KVVec<u8>),
    /// Something else, which was counted and reported.
    Damaged,
}

impl Expected<'_> {
    fn read(&self, file: &OpenedFile) -> core::result::Result<Content, OpenError> {
        let size = file.size();
        if size > METADATA_MAX || self.length.is_some_and(|length| u64::from(length) != size) {
            return Ok(self.damaged(OTHER_BYTES));
        }
        let bytes = file
            .read_new(size as usize, 0, GFP_KERNEL_ACCOUNT)
            .map_err(OpenError::Read)?;
        Ok(match sha256(&bytes) == self.digest.0 {
            true => Content::Right(bytes),
            false => self.damaged(OTHER_BYTES),
        })
    }

    fn damaged(&self, why: &str) -> Content {
        self.statistics.blobs.damaged.count();
        self.report(format_args!("damaged: {why}"));
        Content::Damaged
    }

    fn report(&self, what: fmt::Arguments<'_>) {
        self.log.report(fmt!(
            "{}: blob {}: {what}\n",
            self.store.to_str().unwrap_or("store"),
            Hex(self.digest)
        ));
    }
}

/// What is damaged about most that is.
const OTHER_BYTES: &str = "its digest differs";

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
