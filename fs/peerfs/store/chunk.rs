// SPDX-License-Identifier: GPL-2.0

//! Reading chunks: where it is decided that bytes are right.
#![forbid(unsafe_code)]

use core::ops::Range;
use core::{fmt, format_args};

use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::{ChunkPart, ChunkRecord, Iv};

use super::decode::{decode, Decoder, NewBytes};
use super::pack::Pack;
use super::places::Place;
use super::stored::StoredBytes;
use super::view::PackView;
use super::{ChunksRequest, Hex, Origin, Store};
use crate::rust::crypto::sha256;
use crate::rust::fs::ErrorName;

/// A verified and decoded chunk.
pub(crate) struct Chunk {
    /// Its bytes.
    pub(crate) bytes: KVVec<u8>,
}

/// What there is of a chunk.
pub(super) enum Found {
    /// The chunk.
    Chunk(Arc<Chunk>),
    /// Nothing that is known.
    Missing,
    /// Other bytes: in the file of the whole pack, or elsewhere.
    Damaged { is_whole: bool },
}

/// How often a reader asks for a chunk: once because it is missing, once because what then was there
/// turned out to be wrong.
const FETCHES_MAX: usize = 2;

/// How often the bytes of a chunk are looked for where a table says now that they are.
const LOOKS_MAX: usize = 3;

/// Requests that one readahead makes for what lies in one piece of a pack: enough for 16 MiB in chunks of 4 KiB,
/// whatever an image has.
const PREFETCHES_MAX: usize = 64;

impl<O: Origin> Store<O> {
    /// The chunk of a part. If it is missing, it is waited for, with the missing chunks after it whose numbers are
    /// below `beyond`.
    pub(crate) fn chunk(
        &self,
        view: &PackView,
        part: &ChunkPart,
        beyond: u32,
    ) -> Result<Arc<Chunk>> {
        let pack = &view.pack;
        let (first, record, iv) = (part.number, &part.record, part.iv);
        let mut again = false;
        for fetches in 0..=FETCHES_MAX {
            let mut found = self.decode_shared(pack, first, record, iv)?;
            // Looking costs little beside a fetch. It is what makes everything that is here work
            // without a daemon, whoever put it here.
            if matches!(found, Found::Missing) && self.look(pack, first..beyond)? {
                found = self.decode_shared(pack, first, record, iv)?;
            }
            let is_whole = match found {
                Found::Chunk(chunk) => return Ok(chunk),
                Found::Missing => false,
                Found::Damaged { is_whole } => {
                    self.report_damaged(pack, first, "its digest differs");
                    if again {
                        return Err(EIO);
                    }
                    // A daemon may have other files than a whole pack that is damaged.
                    again = true;
                    is_whole
                }
            };
            if fetches == FETCHES_MAX {
                break;
            }
            let missing = pack.missing(first..beyond);
            let request = ChunksRequest {
                pack: &pack.record,
                manifest: self.manifest_digest,
                first,
                count: match missing.start == first {
                    true => missing.len().max(1) as u32,
                    false => 1,
                },
                again,
            };
            if !is_whole {
                self.statistics.chunks.missed.count();
            }
            let fetched = match self.origin.fetch_chunks(&request) {
                Ok(fetched) => fetched,
                // Whoever is being killed does not miss anything any more.
                Err(missed) if Error::from(missed) == EINTR => return Err(EINTR),
                // It is not missing: what is wrong was told.
                Err(_) if is_whole => return Err(EIO),
                Err(missed) => {
                    self.report_of_chunk(pack, first, format_args!("{missed}"));
                    return Err(missed.into());
                }
            };
            let chunks = first..first.saturating_add(request.count);
            let taken = pack.take(fetched, chunks, &self.data_files);
            if !taken.inspect_err(|error| self.report_unreadable(pack, first, *error))? {
                self.report_of_chunk(
                    pack,
                    first,
                    format_args!(
                        "peerfsd answered with something else than the pack's table of places"
                    ),
                );
                return Err(EIO);
            }
        }
        self.report_of_chunk(
            pack,
            first,
            format_args!("peerfsd says that it is in the store, and it is not"),
        );
        Err(EIO)
    }

    /// Reads again where missing chunks are; says whether there was anything to read. A table that cannot be read is as
    /// good as none.
    fn look(&self, pack: &Pack, chunks: Range<u32>) -> Result<bool> {
        let first = chunks.start;
        pack.look(chunks).or_else(|error| {
            self.report_unreadable(pack, first, error);
            match error {
                EINTR | ENOMEM => Err(error),
                _ => Ok(false),
            }
        })
    }

    /// Asks for what is missing of `length` bytes from an offset of a pack's uncompressed address space on, and does
    /// not wait for it.
    pub(crate) fn prefetch(&self, view: &PackView, offset: u32, length: u64) -> Result {
        let Range { mut start, end } = self.numbers(view, offset, length)?;
        view.pack.look(start..end)?;
        // What is beyond that is left to whoever comes to it.
        for _ in 0..PREFETCHES_MAX {
            let missing = view.pack.missing(start..end);
            if missing.is_empty() {
                break;
            }
            self.origin.prefetch_chunks(&ChunksRequest {
                pack: &view.pack.record,
                manifest: self.manifest_digest,
                first: missing.start,
                count: missing.len() as u32,
                again: false,
            });
            start = missing.end;
        }
        Ok(())
    }

    /// Bytes of a data file that have those of a chunk; `None` if these are not right.
    fn verified(&self, place: &Place, record: &ChunkRecord) -> Result<Option<Arc<StoredBytes>>> {
        let range = place.range(record);
        let is_right = |stored: &Arc<StoredBytes>| {
            let bytes = stored.get(range.clone());
            bytes.is_some_and(|bytes| sha256(bytes) == record.digest.0)
        };
        let stored = self.caches.segments.read(&place.file, range.clone())?;
        if is_right(&stored) {
            return Ok(Some(stored));
        }
        // What was read ahead may have been written or mended since.
        let again = StoredBytes::read_new(&place.file, range.clone())?;
        Ok(Some(Arc::new(again, GFP_KERNEL)?).filter(is_right))
    }

    /// A chunk that others want parts of, too: from the cache, or from the store, as far as is known where it is.
    pub(super) fn decode_shared(
        &self,
        pack: &Pack,
        number: u32,
        record: &ChunkRecord,
        iv: Option<Iv>,
    ) -> Result<Found> {
        let _decoding = self.decoding.lock(number)?;
        if let Some(chunk) = self.cached_chunk(pack, number) {
            return Ok(Found::Chunk(chunk));
        }
        let found = self.read_chunk(pack, number, record, iv);
        found.inspect_err(|error| self.report_unreadable(pack, number, *error))
    }

    fn read_chunk(
        &self,
        pack: &Pack,
        number: u32,
        record: &ChunkRecord,
        iv: Option<Iv>,
    ) -> Result<Found> {
        let mut last: Option<Place> = None;
        for _ in 0..LOOKS_MAX {
            let Some(place) = pack.place(number, record) else {
                return Ok(Found::Missing);
            };
            if last.is_some_and(|last| last.is_same(&place)) {
                break;
            }
            let stored = self.verified(&place, record)?;
            let range = place.range(record);
            if let Some(bytes) = stored.as_ref().and_then(|stored| stored.get(range)) {
                let keep =
                    |decoder: &mut Decoder| self.keep(pack, number, (record, iv), bytes, decoder);
                return self.workers.with_decoder(keep).map(Found::Chunk);
            }
            if place.is_of_whole {
                return Ok(Found::Damaged { is_whole: true });
            }
            // It may have been moved since.
            pack.look_anew(number)?;
            last = Some(place);
        }
        Ok(Found::Damaged { is_whole: false })
    }

    /// The chunk, if it is in the cache.
    pub(super) fn cached_chunk(&self, pack: &Pack, number: u32) -> Option<Arc<Chunk>> {
        let chunk = self.caches.chunks.get(&(pack.number, number))?;
        self.statistics.chunks.cached.count();
        pack.note_use(number);
        Some(chunk)
    }

    /// Decodes verified bytes, and keeps the chunk for the next reader.
    fn keep(
        &self,
        pack: &Pack,
        number: u32,
        (record, iv): (&ChunkRecord, Option<Iv>),
        stored: &[u8],
        decoder: &mut Decoder,
    ) -> Result<Arc<Chunk>> {
        let length = record.logical_length as usize;
        let encryption = self.encryption(iv);
        let output = NewBytes(length);
        let bytes = decode(record, encryption, stored, decoder, output).inspect_err(|error| {
            if *error == EIO {
                self.report_damaged(pack, number, "it cannot be decoded");
            }
        })?;
        self.statistics.chunks.verified.count();
        pack.note_use(number);
        let chunk = Arc::new(Chunk { bytes }, GFP_KERNEL)?;
        self.caches
            .chunks
            .insert((pack.number, number), chunk.clone());
        Ok(chunk)
    }

    /// Says in the log that a chunk cannot be read from the store, if that is so.
    #[cold]
    fn report_unreadable(&self, pack: &Pack, chunk: u32, error: Error) {
        if error != EINTR && error != ENOMEM {
            let name = ErrorName(error);
            self.report_of_chunk(pack, chunk, format_args!("cannot be read: {name}"));
        }
    }

    #[cold]
    fn report_damaged(&self, pack: &Pack, chunk: u32, what: &str) {
        self.statistics.chunks.damaged.count();
        self.report_of_chunk(pack, chunk, format_args!("damaged: {what}"));
    }

    #[cold]
    fn report_of_chunk(&self, pack: &Pack, chunk: u32, what: fmt::Arguments<'_>) {
        self.log.report(fmt!(
            "{}: pack {} chunk {chunk}: {what}\n",
            self.name.to_str().unwrap_or("store"),
            Hex(&pack.record.digest)
        ));
    }
}
