// SPDX-License-Identifier: GPL-2.0

//! Reading chunks: where it is decided that bytes are right.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::upcall::{ChunkData, FETCH_CHUNKS_MAX};
use peerfs_format::{ChunkRecord, Codec, Digest};

use super::pack::{Pack, Place};
use super::{ChunksRequest, Fetched, Hex, Origin, Store};
use crate::vfs::{error_name, report, sha256, OpenedFile};

/// A verified and decoded chunk.
pub(crate) struct Chunk {
    /// Where it begins in its pack's uncompressed address space.
    pub(crate) logical_offset: u32,
    /// Its bytes.
    pub(crate) bytes: KVVec<u8>,
}

/// What to do about a chunk that is not here.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Wait {
    /// Wait until it is.
    Yes,
    /// Ask for it and return EAGAIN.
    No,
}

/// How often a reader asks for a chunk: once because it is missing, once because what then was there
/// turned out to be wrong.
const FETCHES_MAX: usize = 2;

/// The stored bytes of a chunk, or `None` if `file` has others in their place.
fn read_verified(file: &OpenedFile, record: &ChunkRecord) -> Result<Option<KVVec<u8>>> {
    let mut stored = KVVec::from_elem(0, record.stored_length as usize, GFP_KERNEL)?;
    // A pack that is too short is as wrong as one with other bytes.
    let read = file.read_at(&mut stored, record.stored_offset.into())?;
    Ok((read == stored.len() && sha256(&stored) == record.digest.0).then_some(stored))
}

impl<O: Origin> Store<O> {
    /// The chunk that covers `offset` of a pack's uncompressed address space. If it is missing, the
    /// missing chunks after it that begin before `until` are asked for with it.
    pub(crate) fn chunk_at(
        &self,
        number: u32,
        offset: u32,
        until: u32,
        wait: Wait,
    ) -> Result<Arc<Chunk>> {
        let pack = self.pack(number)?;
        let index = match wait {
            Wait::Yes => self.index(&pack)?,
            // Readahead does not wait for an index either: the reader behind it will get it.
            Wait::No => match self.indexes.get(&number) {
                Some(index) => index,
                None if pack.index_file().is_some() => self.index(&pack)?,
                None => return Err(EAGAIN),
            },
        };
        let index = index.view()?;
        let (first, record) = index.chunk_at(&pack.record, offset).map_err(|_| {
            self.report_index(&pack);
            EIO
        })?;
        if let Some(chunk) = self.chunks.get(&(number, first)) {
            return Ok(chunk);
        }

        let mut again = false;
        for fetches in 0..=FETCHES_MAX {
            match pack.place(first) {
                Place::Whole(file) => {
                    if let Some(stored) = read_verified(&file, &record)? {
                        return self.keep(&pack, first, &record, stored);
                    }
                    self.report_chunk(&pack.record.digest, first, "its digest differs");
                    return Err(EIO);
                }
                Place::Partial(file) => {
                    if let Some(stored) = read_verified(&file, &record)? {
                        return self.keep(&pack, first, &record, stored);
                    }
                    self.report_chunk(&pack.record.digest, first, "its digest differs");
                    pack.lost(first);
                    again = true;
                }
                // Looking costs little beside a fetch. It is what makes everything that is here
                // work without a daemon, whoever put it here.
                Place::Perhaps(file) if !again => {
                    if let Some(stored) = read_verified(&file, &record)? {
                        pack.found(first);
                        return self.keep(&pack, first, &record, stored);
                    }
                }
                Place::Perhaps(_) | Place::Missing => {}
            }
            if fetches == FETCHES_MAX {
                break;
            }
            let beyond = index
                .chunks
                .partition_point(|chunk| chunk.logical_offset < until);
            let wanted = u32::try_from(beyond)
                .unwrap_or(u32::MAX)
                .saturating_sub(first)
                .clamp(1, FETCH_CHUNKS_MAX);
            let request = ChunksRequest {
                pack: &pack.record,
                manifest: self.manifest_digest,
                first,
                count: pack.missing_run(first, wanted).max(1),
                again,
            };
            if wait == Wait::No {
                self.origin.prefetch_chunks(&request);
                return Err(EAGAIN);
            }
            let fetched = self.origin.fetch_chunks(&request).inspect_err(|error| {
                // Whoever is being killed does not miss anything any more.
                if *error != EINTR {
                    self.report_missing(&pack.record.digest, first, *error);
                }
            })?;
            match fetched {
                Fetched::Filled(file) => pack.filled(file, first, request.count)?,
                Fetched::Data(data) => {
                    return self.take(&pack, &index, first, request.count, &data)
                }
            }
        }
        Err(EIO)
    }

    /// Verifies and keeps the chunks of a `Data` reply, and returns the first one.
    fn take(
        &self,
        pack: &Pack,
        index: &peerfs_format::PackIndex<'_>,
        first: u32,
        count: u32,
        data: &[u8],
    ) -> Result<Arc<Chunk>> {
        let mut wanted = None;
        for chunk in ChunkData::new(data) {
            let (number, bytes) = chunk.map_err(|_| EIO)?;
            if number < first || number - first >= count {
                continue;
            }
            let record = index.chunk(&pack.record, number).map_err(|_| EIO)?;
            if bytes.len() != record.stored_length as usize || sha256(bytes) != record.digest.0 {
                self.report_chunk(
                    &pack.record.digest,
                    number,
                    "peerfsd answered with other bytes",
                );
                return Err(EIO);
            }
            let mut stored = KVVec::with_capacity(bytes.len(), GFP_KERNEL)?;
            stored.extend_from_slice(bytes, GFP_KERNEL)?;
            let chunk = self.keep(pack, number, &record, stored)?;
            if number == first {
                wanted = Some(chunk);
            }
        }
        wanted.ok_or(EIO)
    }

    /// Decodes verified bytes, and keeps the chunk for the next reader.
    fn keep(
        &self,
        pack: &Pack,
        number: u32,
        record: &ChunkRecord,
        stored: KVVec<u8>,
    ) -> Result<Arc<Chunk>> {
        let bytes = match record.codec().ok_or(EIO)? {
            Codec::Raw => stored,
            Codec::Zstd => {
                let mut bytes = KVVec::from_elem(0, record.logical_length as usize, GFP_KERNEL)?;
                self.decoders
                    .decompress(&stored, &mut bytes)
                    .inspect_err(|error| {
                        if *error == EIO {
                            self.report_chunk(&pack.record.digest, number, "it cannot be decoded");
                        }
                    })?;
                bytes
            }
        };
        let chunk = Arc::new(
            Chunk {
                logical_offset: record.logical_offset,
                bytes,
            },
            GFP_KERNEL,
        )?;
        self.chunks.insert((pack.number, number), chunk.clone());
        Ok(chunk)
    }

    /// The index is what its digest says, so the image was made like this.
    fn report_index(&self, pack: &Pack) {
        report(fmt!(
            "{}: blob {}: the pack index is malformed\n",
            self.name.to_str().unwrap_or("store"),
            Hex(&pack.record.index_digest)
        ));
    }

    fn report_missing(&self, pack: &Digest, chunk: u32, error: Error) {
        report(fmt!(
            "{}: pack {} chunk {chunk}: not in the store, and not to be had: {} (is peerfsd running, and has a peer the image?)\n",
            self.name.to_str().unwrap_or("store"),
            Hex(pack),
            error_name(error)
        ));
    }

    fn report_chunk(&self, pack: &Digest, chunk: u32, what: &str) {
        report(fmt!(
            "{}: pack {} chunk {chunk}: damaged: {what}\n",
            self.name.to_str().unwrap_or("store"),
            Hex(pack)
        ));
    }
}
