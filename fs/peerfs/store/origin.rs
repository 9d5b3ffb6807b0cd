// SPDX-License-Identifier: GPL-2.0

//! Where what is missing comes from.
#![forbid(unsafe_code)]

use core::fmt;

use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::upcall::BlobKind;
use peerfs_format::{Digest, PackRecord};

use super::Usage;
use crate::rust::fs::{ErrorName, OpenedFile};

/// What came of asking. Nothing of it is verified.
#[derive(Clone)]
pub(crate) enum Fetched {
    /// It is in this file of the store's filesystem: the blob, or the whole pack.
    File(OpenedFile),
    /// The chunks are where a table says.
    Places(Arc<FetchedPlaces>),
}

/// Where chunks are, in files of the store's filesystem.
pub(crate) struct FetchedPlaces {
    /// The pack's table of places.
    pub(crate) table: OpenedFile,
    /// Data files, by the numbers of their slots.
    pub(crate) slots: KVVec<(u32, OpenedFile)>,
}

/// Why nothing came of asking.
#[derive(Clone, Copy)]
pub(crate) enum Missed {
    /// Nobody was there to answer in time.
    Nobody,
    /// It was answered so, or there was no time for an answer.
    Failed(Error),
}

impl From<Error> for Missed {
    fn from(error: Error) -> Self {
        Missed::Failed(error)
    }
}

impl From<Missed> for Error {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Nobody => ETIMEDOUT,
            Missed::Failed(error) => error,
        }
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missed::Nobody => f.write_str(
                "not in the store, and no peerfsd is there to ask: start peerfsd for this root_dir",
            ),
            Missed::Failed(error) if *error == ETIMEDOUT => f.write_str(
                "not in the store, and peerfsd did not answer in time: see what `peerfs status` says",
            ),
            Missed::Failed(error) if *error == ENODATA => f.write_str(
                "not in the store, and there is nobody to ask (upcall=0, a store that the mounter may not write to, or no source has it)",
            ),
            Missed::Failed(error) if *error == EHOSTUNREACH => {
                f.write_str("not in the store, and no peer has it: check the digest and the peers")
            }
            Missed::Failed(error) => {
                write!(f, "not in the store and not to be had: {}", ErrorName(*error))
            }
        }
    }
}

/// A metadata blob to fetch.
pub(crate) struct BlobRequest {
    /// The blob.
    pub(crate) digest: Digest,
    /// The image's manifest.
    pub(crate) manifest: Digest,
    /// What the blob is.
    pub(crate) kind: BlobKind,
    /// Its bytes, 0 if not known.
    pub(crate) length: u64,
    /// Whether what the store has is wrong and must be fetched anew.
    pub(crate) again: bool,
}

/// A run of chunks to fetch.
pub(crate) struct ChunksRequest<'a> {
    /// The pack.
    pub(crate) pack: &'a PackRecord,
    /// The image's manifest.
    pub(crate) manifest: Digest,
    /// The first chunk.
    pub(crate) first: u32,
    /// Chunks, at least 1.
    pub(crate) count: u32,
    /// Whether what the store has is wrong and must be fetched anew.
    pub(crate) again: bool,
}

/// Whoever can get what the store lacks. Nothing that it answers is trusted.
pub(crate) trait Origin: Send + Sync {
    /// A blob that was asked for without waiting.
    type AskedBlob: Send + Sync + Unpin;

    /// Waits for a blob: killable, and not for ever.
    fn fetch_blob(&self, request: &BlobRequest) -> core::result::Result<OpenedFile, Missed>;

    /// Waits for chunks: killable, and not for ever.
    fn fetch_chunks(&self, request: &ChunksRequest<'_>) -> core::result::Result<Fetched, Missed>;

    /// Asks for a blob without waiting, if there is somebody to ask.
    fn prefetch_blob(&self, request: &BlobRequest) -> Option<Self::AskedBlob>;

    /// What came of asking for a blob; None if nothing has yet.
    fn came(&self, asked: &Self::AskedBlob) -> Option<Result<OpenedFile>>;

    /// Asks for chunks without waiting.
    fn prefetch_chunks(&self, request: &ChunksRequest<'_>);

    /// Where it is noted what is read from the store, for whoever fills that.
    fn usage(&self) -> &Arc<Usage>;
}
