// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is read for an answer, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerfs_format::Digest;

use crate::frame::{Encoding, PeerRecord};
use crate::limits::{CHUNK_CREDIT, PIECE_MAX};
use crate::{Have, Priority, Suggestion};

/// The next piece of a blob.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlobStep {
    /// The request's id.
    pub request: u32,
    /// How urgent it is.
    pub priority: Priority,
    /// The blob.
    pub digest: Digest,
    /// Bytes that the blob may have.
    pub maximum: u64,
    /// Whether it may be sent as a zstd frame: from the second piece on, whether it is.
    pub zstd: bool,
    /// Where the piece begins, in what is sent.
    pub offset: u64,
    /// What was said of the blob with the pieces before.
    pub form: Option<BlobForm>,
    /// What it has cost so far to read and encode it, in bytes.
    pub cost: u64,
}

/// What each piece of a blob says of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlobForm {
    /// How it is sent.
    pub encoding: Encoding,
    /// Bytes of it as it is sent.
    pub sent_length: u64,
    /// Bytes of the blob.
    pub length: u64,
}

/// Something to be read for an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// How much there is.
    Have {
        /// The request's id.
        request: u32,
        /// The blob or pack.
        digest: Digest,
    },
    /// A piece of a blob.
    Blob(BlobStep),
    /// A chunk of a pack.
    Chunk {
        /// The request's id.
        request: u32,
        /// How urgent it is.
        priority: Priority,
        /// The pack.
        pack: Digest,
        /// Its index.
        index: Digest,
        /// The chunk's number.
        number: u32,
        /// Whether it is to be fetched if it is not there.
        through: bool,
    },
    /// Which packs an image has that the peer follows.
    Image {
        /// The request's id.
        request: u32,
        /// The image's manifest.
        manifest: Digest,
    },
    /// How much there is of a pack of such an image.
    Map {
        /// The request's id.
        request: u32,
        /// The pack.
        pack: Digest,
    },
    /// Peers that follow an image.
    Peers {
        /// The request's id.
        request: u32,
        /// The image's manifest.
        manifest: Digest,
    },
    /// How much there is of a pack by an index.
    HavePack {
        /// The request's id.
        request: u32,
        /// The pack.
        pack: Digest,
        /// Its index, which the peer has.
        index: Digest,
    },
    /// What to ask for of a pack.
    Suggest {
        /// The request's id.
        request: u32,
        /// The pack.
        pack: Digest,
        /// Its index.
        index: Digest,
        /// How many chunks at most.
        count: u32,
    },
    /// Something that is not served: nothing is to be read, but it is a question as well.
    Other {
        /// The request's id.
        request: u32,
    },
}

/// What came of a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found {
    /// How much there is.
    Have(Have),
    /// A piece of a blob.
    Blob {
        /// What the blob is sent as: with all pieces the same.
        form: BlobForm,
        /// The piece: [`piece_size`](crate::limits::piece_size) bytes.
        data: Bytes,
        /// What it cost to read and encode, in bytes.
        cost: u64,
    },
    /// The blob has so many bytes, which are too many.
    TooLarge(u64),
    /// All stored bytes of a chunk: 1 to [`CHUNK_CREDIT`] of them.
    Chunk(Bytes),
    /// The packs of an image, in ascending order, each once.
    Image(Arc<[Digest]>),
    /// Peers that follow an image.
    Peers(Vec<PeerRecord>),
    /// What to ask for of a pack.
    Suggestion(Suggestion),
    /// It is not there.
    Nothing,
    /// It is not served.
    NotServed,
    /// It was not looked for: the peer has caused too much work already.
    Refused {
        /// When it may ask again.
        retry_after: Duration,
    },
}

impl Step {
    /// The request that it is for.
    pub fn request(&self) -> u32 {
        match self {
            Step::Have { request, .. }
            | Step::Chunk { request, .. }
            | Step::Image { request, .. }
            | Step::Map { request, .. }
            | Step::Peers { request, .. }
            | Step::Suggest { request, .. }
            | Step::HavePack { request, .. }
            | Step::Other { request } => *request,
            Step::Blob(blob) => blob.request,
        }
    }

    pub(super) fn priority(&self) -> Priority {
        match self {
            Step::Blob(BlobStep { priority, .. }) | Step::Chunk { priority, .. } => *priority,
            Step::Have { .. }
            | Step::Image { .. }
            | Step::Map { .. }
            | Step::Peers { .. }
            | Step::Suggest { .. }
            | Step::HavePack { .. }
            | Step::Other { .. } => Priority::Demand,
        }
    }

    /// The credit that is taken off for it: how long the data is is known when it was read.
    pub(super) fn reserved(&self) -> u32 {
        match self {
            Step::Blob(_) => PIECE_MAX,
            Step::Chunk { .. } => CHUNK_CREDIT,
            Step::Have { .. }
            | Step::Image { .. }
            | Step::Map { .. }
            | Step::Peers { .. }
            | Step::Suggest { .. }
            | Step::HavePack { .. }
            | Step::Other { .. } => 0,
        }
    }
}
