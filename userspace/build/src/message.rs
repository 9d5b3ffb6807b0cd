// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the stages of a build tell each other.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use flume::{Receiver, Sender};
use peerfs_format::{Codec, Digest};

use crate::expected::Expected;
use crate::unreadable::Unreadable;
use crate::xattrs::{XattrSetId, XattrSets};
use crate::{Options, Progress, Result};

/// A directory of the tree, open while files of it are to be read.
pub(crate) struct OpenDirectory {
    pub(crate) descriptor: OwnedFd,
    /// For messages.
    pub(crate) path: PathBuf,
}

/// What walking and reading share.
#[derive(Clone, Copy)]
pub(crate) struct ReadContext<'a> {
    pub(crate) options: &'a Options,
    pub(crate) xattrs: &'a XattrSets,
    pub(crate) progress: &'a Progress,
    pub(crate) unreadable: &'a Unreadable,
}

/// A regular file to read.
pub(crate) struct FileJob {
    pub(crate) directory: Arc<OpenDirectory>,
    pub(crate) name: Vec<u8>,
    pub(crate) expected: Expected,
}

/// What a reading thread does at once.
pub(crate) enum ReadJob {
    /// Files that share chunks.
    Small(Vec<FileJob>),
    /// A longer one.
    Large(FileJob),
}

/// A read job, and where its pieces go.
pub(crate) struct ReadRequest {
    pub(crate) job: ReadJob,
    pub(crate) pieces: Sender<Result<ReadPiece>>,
}

/// The pieces of a read job, in order: the channel closes after the last one.
pub(crate) type ReadPieces = Receiver<Result<ReadPiece>>;

/// Something that was read.
pub(crate) enum ReadPiece {
    /// All files of a small job.
    Small {
        /// In their order.
        files: Vec<SmallFile>,
        /// The files' bytes, one after another.
        content: Vec<u8>,
    },
    /// Some chunks of a large file.
    Chunks(Vec<FileChunk>),
    /// The end of a large file.
    End(WholeFile),
}

/// A small file that was read.
pub(crate) struct SmallFile {
    pub(crate) length: usize,
    pub(crate) whole: WholeFile,
}

/// What is known of a file when all of it was read.
pub(crate) struct WholeFile {
    pub(crate) digest: Digest,
    pub(crate) xattrs: Option<XattrSetId>,
}

/// A chunk of a large file.
pub(crate) struct FileChunk {
    pub(crate) file_offset: u64,
    pub(crate) digest: Digest,
    pub(crate) content: Bytes,
}

/// A chunk to compress, and where the result goes.
pub(crate) struct CompressRequest {
    pub(crate) digest: Digest,
    pub(crate) content: Bytes,
    pub(crate) stored: Sender<StoredChunk>,
}

/// A chunk as it goes into a pack.
pub(crate) struct StoredChunk {
    pub(crate) content_digest: Digest,
    pub(crate) digest: Digest,
    pub(crate) logical_length: u32,
    pub(crate) codec: Codec,
    pub(crate) stored: Bytes,
}
