// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The stages from the walk to the packs: what they tell each other, and their threads.

use std::sync::Arc;
use std::thread::{self, Builder, Scope, ScopedJoinHandle};

use bytes::Bytes;
use flume::{bounded, Receiver, Sender};
use peerfs_format::{Digest, Iv, PackRecord};
use peerfs_store::{ContentId, KnownChunk, KnownChunks, Store};

use crate::base::BaseChunks;
use crate::content::Contents;
use crate::known_files::{KnownFile, KnownFiles};
use crate::read::{self, ReadContext, ReadQueue, Unreadable};
use crate::seen::Seen;
use crate::sequence::ChunkQueue;
use crate::source::TreeSource;
use crate::table::{Scratch, Table};
use crate::tree::Tree;
use crate::xattrs::{XattrSetId, XattrSets};
use crate::{pack, sequence, Error, Options, Progress, Result};

/// Jobs that wait for a reading thread, and as many for the sequencer.
const READS_WAITING: usize = 16;
/// Chunks that wait for a compressing thread.
const CHUNKS_WAITING: usize = 64;
/// Compressed chunks, and those being compressed, that wait for the packer.
const STORED_WAITING: usize = 256;

/// All that the stages from the walk to the packs make.
pub(crate) struct Found {
    pub(crate) tree: Tree,
    /// The regular files that the source can tell of, each with its inode number.
    pub(crate) seen: Table<Seen>,
    pub(crate) contents: Contents,
    pub(crate) new_packs: Vec<PackRecord>,
    pub(crate) unusable_chunks: u64,
}

/// Runs the stages from the walk to the packs.
pub(crate) fn run<S: TreeSource>(
    source: S,
    store: &Arc<Store>,
    options: &Options,
    base: BaseChunks,
    known_files: Option<&KnownFiles>,
    progress: &Progress,
    xattrs: &XattrSets,
) -> Result<Found> {
    let layout = &options.layout;
    let compression = options.compression.identity();
    let known = KnownChunks::new(store, &compression, options.realm.as_ref());
    let unreadable = Unreadable::default();
    let scratch = Scratch::new(store);
    let (read_requests, to_read) = bounded(READS_WAITING);
    let (read_results, to_sequence) = bounded(READS_WAITING);
    let (compress_requests, to_compress) = bounded(CHUNKS_WAITING);
    let (stored_results, to_pack) = bounded(STORED_WAITING);
    let found = thread::scope(|scope| -> Result<Found> {
        let context = ReadContext {
            options,
            xattrs,
            progress,
            unreadable: &unreadable,
            scratch: &scratch,
            known: known_files,
        };
        let walker = spawn(scope, move || -> Result<_> {
            let mut queue = ReadQueue::new(read_requests, read_results, context);
            let tree = source.walk(&mut queue)?;
            queue.flush()?;
            progress.finish_walk();
            Ok((tree, queue.into_seen()))
        })?;
        for _ in 0..options.threads.get() {
            let to_read = to_read.clone();
            spawn(scope, move || read::run(&to_read, context))?;
        }
        drop(to_read);
        let chunk_queue = ChunkQueue {
            requests: compress_requests,
            results: stored_results,
        };
        let scratch = &scratch;
        let sequencer = spawn(scope, move || {
            sequence::run(&to_sequence, chunk_queue, base, layout, scratch)
        })?;
        let compressors = (0..options.threads.get())
            .map(|_| {
                let (to_compress, known) = (to_compress.clone(), &known);
                spawn(scope, move || {
                    pack::compress_chunks(&to_compress, known, options)
                })
            })
            .collect::<Result<Vec<_>>>()?;
        drop(to_compress);
        let new_packs = pack::write_packs(to_pack, store, &known, options);
        // When a stage fails, those before it find nobody who wants what they make, and say that the build was
        // given up; so the error is that of the last stage that has one.
        let contents = join(sequencer);
        let tree = join(walker);
        let compressed = compressors.into_iter().try_for_each(join);
        let new_packs = new_packs?;
        compressed?;
        let (contents, unusable_chunks) = contents?;
        let (tree, seen) = tree?;
        Ok(Found {
            tree,
            seen,
            contents,
            new_packs,
            unusable_chunks,
        })
    })?;
    unreadable.check()?;
    Ok(found)
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
    /// Files that need not be read.
    Known(Vec<KnownFile>),
}

/// A small file that was read.
pub(crate) struct SmallFile {
    pub(crate) length: usize,
    pub(crate) whole: WholeFile,
}

/// A file's digest and attributes, known when all of it was read.
pub(crate) struct WholeFile {
    pub(crate) digest: Digest,
    pub(crate) xattrs: Option<XattrSetId>,
}

/// A chunk of a large file.
pub(crate) struct FileChunk {
    pub(crate) file_offset: u64,
    pub(crate) id: ContentId,
    pub(crate) content: Bytes,
}

/// A chunk to compress, and where the result goes.
pub(crate) struct CompressRequest {
    pub(crate) id: ContentId,
    pub(crate) content: Bytes,
    pub(crate) stored: Sender<StoredChunk>,
}

/// A chunk as it goes into a pack.
pub(crate) struct StoredChunk {
    pub(crate) id: ContentId,
    /// As pack contents have it.
    pub(crate) content_digest: Digest,
    pub(crate) digest: Digest,
    pub(crate) logical_length: u32,
    /// As a chunk's record has it.
    pub(crate) codec: u8,
    /// The initialization vector, if it is encrypted.
    pub(crate) iv: Option<Iv>,
    pub(crate) stored: Stored,
}

/// The stored bytes of a chunk.
pub(crate) enum Stored {
    /// They were made just now.
    New(Bytes),
    /// The store has them.
    Known(KnownChunk),
}

impl Stored {
    pub(crate) fn len(&self) -> usize {
        match self {
            Stored::New(bytes) => bytes.len(),
            Stored::Known(chunk) => chunk.stored().len(),
        }
    }
}

/// Starts a thread; if that fails, what was given to `work` is dropped, which ends the stages that wait for it.
pub(crate) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new()
        .spawn_scoped(scope, work)
        .map_err(Error::Thread)
}

/// Waits for a thread and returns its result; its panic goes on.
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
