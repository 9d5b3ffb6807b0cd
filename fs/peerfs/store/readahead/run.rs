// SPDX-License-Identifier: GPL-2.0

//! Runs: neighbouring chunks that are read together, verified, and decoded to where they are wanted.
//!
//! Locking: `Decoding` keeps tasks from decoding the same chunk twice when several want a part of it.
//! It is held while stored bytes are read from the store's filesystem and decoded, never while
//! anything is fetched. The locks of caches and packs are taken under it.
#![forbid(unsafe_code)]

use kernel::cpu::nr_cpu_ids;
use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::{ChunkRecord, Codec, PackIndex, ZSTD_MAGIC};

use super::workers::RUN_BYTES;
use crate::rust::crypto::sha256;
use crate::rust::mm::FolioBytes;
use crate::rust::task::is_being_killed;
use crate::store::chunk::{stored_range, Chunk};
use crate::store::pack::{Pack, Place};
use crate::store::{Origin, Store};

/// Chunks that are decoded ahead at the most, of up to 256 KiB each: a quarter of what the cache holds
/// of the usual size.
const LEAD_MAX: u32 = 8;

/// A chunk, or a part of one, and where it is wanted.
struct Wanted {
    number: u32,
    record: ChunkRecord,
    /// Bytes of the chunk before the part.
    skipped: u32,
    bytes: FolioBytes,
}

impl Wanted {
    fn is_whole(&self) -> bool {
        self.bytes.len() == self.record.logical_length as usize
    }

    /// Where the whole chunk ends in its pack, as stored.
    fn stored_end(&self) -> u32 {
        stored_range(&self.record).end
    }

    /// Fills the part from the chunk.
    fn fill(self, chunk: &Chunk) -> Result {
        let from = self.skipped as usize;
        let part = chunk
            .bytes
            .get(from..from.saturating_add(self.bytes.len()))
            .ok_or(EIO)?;
        self.bytes.fill_with(part)
    }
}

/// Whole chunks that are stored one behind the other, some [`RUN_BYTES`] of them, or one chunk that is
/// wanted in part.
pub(in crate::store) struct Run {
    pack: Arc<Pack>,
    wanted: KVec<Wanted>,
}

impl Run {
    /// Adds a chunk, or gives it back if it belongs to another run.
    fn add(&mut self, pack: &Pack, wanted: Wanted) -> Result<Option<Wanted>> {
        let (Some(first), Some(last)) = (self.wanted.first(), self.wanted.last()) else {
            return Ok(Some(wanted));
        };
        let length = wanted
            .stored_end()
            .saturating_sub(first.record.stored_offset);
        let fits = self.pack.number == pack.number
            && last.is_whole()
            && wanted.is_whole()
            && wanted.record.stored_offset == last.stored_end()
            && length as usize <= RUN_BYTES;
        if !fits {
            return Ok(Some(wanted));
        }
        self.wanted.push(wanted, GFP_KERNEL)?;
        Ok(None)
    }

    /// Reads, verifies and decodes what is in the store. The rest stays unfilled, and unreported: the
    /// reader who needs it looks again.
    fn fill<O: Origin>(self, store: &Store<O>) -> Result {
        let whole = self.wanted.first().is_some_and(Wanted::is_whole);
        if !whole {
            for wanted in self.wanted {
                let chunk = store.decode_shared(&self.pack, wanted.number, &wanted.record)?;
                let chunk = chunk.ok_or(EAGAIN)?;
                wanted.fill(&chunk)?;
            }
            return Ok(());
        }
        let (Some(first), Some(last)) = (self.wanted.first(), self.wanted.last()) else {
            return Ok(());
        };
        let place = self.pack.place(first.number);
        let stored = first.record.stored_offset..last.stored_end();
        let stored = store.stored(&self.pack, &place, stored)?.ok_or(EAGAIN)?;
        store.workers.with_decoder(|decoder| {
            for mut wanted in self.wanted {
                let record = &wanted.record;
                // What a file that is too short lacks is as wrong as other bytes are.
                let Some(bytes) = stored
                    .get(record.stored_offset..wanted.stored_end())
                    .filter(|bytes| sha256(bytes) == record.digest.0)
                else {
                    continue;
                };
                self.pack.found(wanted.number);
                store.statistics.chunks.verified.count();
                match record.codec().ok_or(EIO)? {
                    Codec::Raw => wanted.bytes.fill_with(bytes)?,
                    Codec::Zstd => {
                        decoder.decompress(bytes, wanted.bytes.as_mut_slice())?;
                        wanted.bytes.filled();
                    }
                }
            }
            Ok(())
        })
    }
}

/// Parts of chunks that one readahead plans for at the most: enough for its 1 MiB in chunks of 2 KiB, whatever an
/// image has. The rest is left to the readers who need it.
const PARTS_MAX: usize = 512;

/// A readahead that is being planned.
pub(crate) struct Runs<'a, O: Origin> {
    store: &'a Arc<Store<O>>,
    runs: KVec<Run>,
    /// Parts that may still be added.
    room: usize,
}

impl<'a, O: Origin + 'static> Runs<'a, O> {
    /// Nothing yet.
    pub(crate) fn new(store: &'a Arc<Store<O>>) -> Self {
        Runs {
            store,
            runs: KVec::new(),
            room: PARTS_MAX,
        }
    }

    /// Adds what lies at `offset` of a pack's uncompressed address space. What is in memory is filled
    /// at once. EAGAIN if the pack's index would have to be fetched, or if it is too much.
    pub(crate) fn add(&mut self, number: u32, offset: u32, bytes: FolioBytes) -> Result {
        let pack = self.store.pack(number)?;
        let index = self.store.index_if_here(&pack)?;
        let index = index.view();
        let mut offset = offset;
        let mut rest = bytes;
        while rest.len() > 0 {
            self.room = self.room.checked_sub(1).ok_or(EAGAIN)?;
            if is_being_killed() {
                return Err(EINTR);
            }
            let (number, record) = index.chunk_at(offset).map_err(|_| EIO)?;
            let skipped = offset.checked_sub(record.logical_offset).ok_or(EIO)?;
            let length = record.logical_length.saturating_sub(skipped);
            let (bytes, behind) = rest.split_at(length as usize);
            rest = behind;
            offset = offset.checked_add(length).ok_or(EIO)?;
            let wanted = Wanted {
                number,
                record,
                skipped,
                bytes,
            };
            let lead_max = if wanted.is_whole() { 0 } else { lead_max() };
            if let Some(led) = self.store.sequence.goes_on(pack.number, number, lead_max) {
                if !wanted.is_whole() {
                    let last = led.clone().last().unwrap_or(number);
                    // Whatever fails is left to the reader who needs it, if there is one.
                    let _ = self.read_ahead(&pack, &index, last);
                }
                for number in led {
                    self.decode_ahead(&pack, number);
                }
            }
            if let Some(chunk) = self.store.cached_chunk(&pack, number) {
                wanted.fill(&chunk)?;
                continue;
            }
            // What is not here is left to the reader who needs it.
            if !is_here(&pack, number, &wanted.record)? {
                continue;
            }
            // The first chunk, which somebody waits for, has none behind it to wait for as well.
            let other = match self.runs.as_mut_slice() {
                [] | [_] => Some(wanted),
                [.., run] => run.add(&pack, wanted)?,
            };
            if let Some(wanted) = other {
                let mut run = Run {
                    pack: pack.clone(),
                    wanted: KVec::new(),
                };
                run.wanted.push(wanted, GFP_KERNEL)?;
                self.runs.push(run, GFP_KERNEL)?;
            }
        }
        Ok(())
    }

    /// Has a worker read what will be wanted of a whole pack behind this chunk, which readers of small
    /// files will come to.
    fn read_ahead(&self, pack: &Pack, index: &PackIndex<'_>, number: u32) -> Result {
        let Place::Whole(file) = pack.place(number) else {
            return Ok(());
        };
        let record = index.chunk(number).map_err(|_| EIO)?;
        let length = u32::try_from(pack.record.stored_length).unwrap_or(u32::MAX);
        let segments = &self.store.caches.segments;
        match segments.goes_on(pack.number, stored_range(&record), length)? {
            Some(segment) => self.store.spawn(move || {
                let _ = segment.read(&file);
            }),
            None => Ok(()),
        }
    }

    /// Has a worker decode a chunk that readers of small files will come to, if it is here.
    fn decode_ahead(&self, pack: &Arc<Pack>, number: u32) {
        let (store, pack) = (self.store.clone(), pack.clone());
        // Whatever fails is left to the reader who needs it, if there is one.
        let _ = self.store.spawn(move || {
            let _ = store.decode_ahead(&pack, number);
        });
    }

    /// Has the workers fill what was added. If somebody waits for it, the first run is filled here
    /// meanwhile: they would only wait for a worker.
    pub(crate) fn start(self, somebody_waits: bool) {
        let mut runs = self.runs.into_iter();
        let first = if somebody_waits { runs.next() } else { None };
        // Whatever fails is left to the reader who needs it, if there is one.
        for run in runs {
            match self.store.workers.turn(&self.store.work) {
                Some(turn) => {
                    let store = self.store.clone();
                    let _ = turn.spawn(move || {
                        let _ = run.fill(&store);
                    });
                }
                None if somebody_waits => {
                    let _ = run.fill(self.store);
                }
                None => {}
            }
        }
        if let Some(run) = first {
            let _ = run.fill(self.store);
        }
    }
}

impl<O: Origin> Store<O> {
    /// Has a worker do this, unless there is too much to do.
    fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result {
        self.workers.turn(&self.work).ok_or(EBUSY)?.spawn(work)
    }

    fn cached_chunk(&self, pack: &Pack, number: u32) -> Option<Arc<Chunk>> {
        let chunk = self.caches.chunks.get(&(pack.number, number))?;
        self.statistics.chunks.cached.count();
        Some(chunk)
    }

    /// Decodes a chunk into the cache, if it is known to be here.
    fn decode_ahead(&self, pack: &Pack, number: u32) -> Result {
        if let Place::Whole(_) | Place::Partial(_) = pack.place(number) {
            let index = self.index_if_here(pack)?;
            let record = index.view().chunk(number);
            self.decode_shared(pack, number, &record.map_err(|_| EIO)?)?;
            self.statistics.chunks_ahead.count();
        }
        Ok(())
    }

    /// A chunk that others want parts of, too: from the cache, or from the store. `None` if it is not
    /// there, or not right.
    pub(in crate::store) fn decode_shared(
        &self,
        pack: &Pack,
        number: u32,
        record: &ChunkRecord,
    ) -> Result<Option<Arc<Chunk>>> {
        let _decoding = self.decoding.lock(number)?;
        if let Some(chunk) = self.cached_chunk(pack, number) {
            return Ok(Some(chunk));
        }
        if !is_here(pack, number, record)? {
            return Ok(None);
        }
        let place = pack.place(number);
        let stored = self.verified(pack, &place, record)?;
        let Some(bytes) = stored
            .as_ref()
            .and_then(|stored| stored.get(stored_range(record)))
        else {
            return Ok(None);
        };
        if let Place::Perhaps(_) = place {
            pack.found(number);
        }
        self.workers
            .with_decoder(|decoder| self.keep(pack, number, record, bytes, decoder))
            .map(Some)
    }
}

/// How many chunks are decoded ahead of whoever reads small files in order: one for each processor. A lone
/// one would only decode some that nobody comes to.
fn lead_max() -> u32 {
    match nr_cpu_ids() {
        1 => 0,
        processors => processors.min(LEAD_MAX),
    }
}

/// Whether it is worth while to look for a chunk: where nothing was written yet no frame begins.
fn is_here(pack: &Pack, number: u32, record: &ChunkRecord) -> Result<bool> {
    Ok(match pack.place(number) {
        Place::Whole(_) | Place::Partial(_) => true,
        Place::Missing => false,
        Place::Perhaps(file) if record.codec() == Some(Codec::Zstd) => {
            let mut begin = [0; ZSTD_MAGIC.len()];
            file.read_at(&mut begin, record.stored_offset.into())?;
            begin == ZSTD_MAGIC
        }
        Place::Perhaps(_) => true,
    })
}
