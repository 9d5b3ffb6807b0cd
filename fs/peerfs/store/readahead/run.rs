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
use peerfs_format::{ChunkPart, ChunkRecord, Codec, ZSTD_MAGIC};

use super::workers::RUN_BYTES;
use crate::rust::crypto::sha256;
use crate::rust::mm::FolioBytes;
use crate::rust::task::is_being_killed;
use crate::store::chunk::{stored_range, Chunk};
use crate::store::decode::decode;
use crate::store::pack::{Pack, Place};
use crate::store::view::PackView;
use crate::store::{Origin, Store};

/// Chunks that are decoded ahead at the most, of up to 256 KiB each: a quarter of what the cache holds
/// of the usual size.
const LEAD_MAX: u32 = 8;

/// A part of a chunk, and where it is wanted.
struct Wanted {
    part: ChunkPart,
    bytes: FolioBytes,
}

impl Wanted {
    /// Fills the part from the chunk.
    fn fill(self, chunk: &Chunk) -> Result {
        let bytes = chunk.bytes.get(self.part.range()).ok_or(EIO)?;
        self.bytes.fill_with(bytes)
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
        let (stored, last_stored) = (
            stored_range(&wanted.part.record),
            stored_range(&last.part.record),
        );
        let length = stored.end.saturating_sub(first.part.record.stored_offset);
        let fits = self.pack.number == pack.number
            && last.part.is_whole()
            && wanted.part.is_whole()
            && stored.start == last_stored.end
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
        let is_whole = |wanted: &Wanted| wanted.part.is_whole();
        if !self.wanted.first().is_some_and(is_whole) {
            for wanted in self.wanted {
                let ChunkPart { number, record, .. } = &wanted.part;
                let chunk = store.decode_shared(&self.pack, *number, record)?;
                wanted.fill(&*chunk.ok_or(EAGAIN)?)?;
            }
            return Ok(());
        }
        let (Some(first), Some(last)) = (self.wanted.first(), self.wanted.last()) else {
            return Ok(());
        };
        let place = self.pack.place(first.part.number);
        let stored = first.part.record.stored_offset..stored_range(&last.part.record).end;
        let stored = store.stored(&self.pack, &place, stored)?.ok_or(EAGAIN)?;
        store.workers.with_decoder(|decoder| {
            for Wanted { part, bytes } in self.wanted {
                let record = &part.record;
                // What a file that is too short lacks is as wrong as other bytes are.
                let Some(stored) = stored
                    .get(stored_range(record))
                    .filter(|stored| sha256(stored) == record.digest.0)
                else {
                    continue;
                };
                self.pack.found(part.number);
                store.statistics.chunks.verified.count();
                decode(record, stored, decoder, bytes)?;
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
    /// at once. EAGAIN if it is too much.
    pub(crate) fn add(&mut self, view: &PackView, offset: u32, bytes: FolioBytes) -> Result {
        let (store, pack) = (self.store, &view.pack);
        let mut rest = bytes;
        for part in store.parts(view, offset, rest.len() as u64) {
            self.room = self.room.checked_sub(1).ok_or(EAGAIN)?;
            if is_being_killed() {
                return Err(EINTR);
            }
            let part = part?;
            let (bytes, behind) = rest.split_at(part.length as usize);
            rest = behind;
            let wanted = Wanted { part, bytes };
            self.go_on(view, &part);
            if let Some(chunk) = store.cached_chunk(pack, part.number) {
                wanted.fill(&chunk)?;
                continue;
            }
            // What is not here is left to the reader who needs it.
            if !is_here(pack, part.number, &part.record)? {
                continue;
            }
            // The first chunk, which somebody waits for, has none behind it to wait for as well.
            let other = match self.runs.as_mut_slice() {
                [] | [_] => Some(wanted),
                [.., run] => run.add(pack, wanted)?,
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

    /// Notes that a part is being read, and has the workers do what is worth doing ahead of whoever reads small files
    /// in order. Whatever fails is left to the reader who needs it, if there is one.
    fn go_on(&self, view: &PackView, part: &ChunkPart) {
        let (store, number) = (self.store, part.number);
        let lead_max = if part.is_whole() { 0 } else { lead_max() };
        let Some(led) = store.sequence.goes_on(view.pack.number, number, lead_max) else {
            return;
        };
        if !part.is_whole() {
            let _ = self.read_ahead(view, led.clone().last().unwrap_or(number));
        }
        for number in led {
            let (store, view) = (store.clone(), view.clone());
            let _ = self.store.spawn(move || {
                let _ = store.decode_ahead(&view, number);
            });
        }
    }

    /// Has a worker read what will be wanted of a whole pack behind this chunk.
    fn read_ahead(&self, view: &PackView, number: u32) -> Result {
        let pack = &view.pack;
        let Place::Whole(file) = pack.place(number) else {
            return Ok(());
        };
        let Ok(record) = view.index().chunk(number) else {
            return Ok(());
        };
        let length = u32::try_from(pack.record.stored_length).unwrap_or(u32::MAX);
        let segments = &self.store.caches.segments;
        match segments.goes_on(pack.number, stored_range(&record), length)? {
            Some(segment) => self.store.spawn(move || {
                let _ = segment.read(&file);
            }),
            None => Ok(()),
        }
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
    fn decode_ahead(&self, view: &PackView, number: u32) -> Result {
        if let Place::Whole(_) | Place::Partial(_) = view.pack.place(number) {
            // There may be no more chunks.
            if let Ok(record) = view.index().chunk(number) {
                self.decode_shared(&view.pack, number, &record)?;
                self.statistics.chunks_ahead.count();
            }
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
        let stored = self.verified(pack, &place, record);
        let stored = stored.inspect_err(|error| self.report_unreadable(pack, number, *error))?;
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
