// SPDX-License-Identifier: GPL-2.0

//! Where what is missing comes from.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::upcall::BlobKind;
use peerfs_format::{Digest, PackRecord};

use crate::vfs::OpenedFile;

/// What came of asking.
pub(crate) enum Fetched {
    /// It is in the store now, in this file if it is not open already.
    Filled(Option<OpenedFile>),
    /// These bytes: a whole blob, or chunks as in the upcall's `Data` reply.
    Data(Arc<KVVec<u8>>),
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
    /// Waits for a blob: killable, and not for ever.
    fn fetch_blob(&self, request: &BlobRequest) -> Result<Fetched>;

    /// Waits for chunks: killable, and not for ever.
    fn fetch_chunks(&self, request: &ChunksRequest<'_>) -> Result<Fetched>;

    /// Asks for chunks without waiting.
    fn prefetch_chunks(&self, request: &ChunksRequest<'_>);
}
