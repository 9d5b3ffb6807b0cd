// SPDX-License-Identifier: GPL-2.0

//! Runs: neighbouring chunks that are read together, verified, and decoded to where they are wanted.
//!
//! Locking: `Decoding` keeps tasks from decoding the same chunk twice when several want a part of it.
//! It is held while places and stored bytes are read from the store's filesystem and decoded, never while
//! anything is fetched. The locks of caches and packs are taken under it.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::cpu::nr_cpu_ids;
use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::ChunkPart;

use super::workers::RUN_BYTES;
use crate::rust::crypto::sha256;
use crate::rust::fs::OpenedFile;
use crate::rust::mm::FolioBytes;
use crate::rust::task::is_being_killed;
use crate::store::chunk::{Chunk, Found};
use crate::store::decode::decode;
use crate::store::pack::Pack;
use crate::store::places::Place;
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

/// Whole chunks that lie one behind the other in a data file, some [`RUN_BYTES`] of them, or one chunk that is
/// wanted in part.
pub(in crate::store) struct Run {
    /// That of the first chunk.
    pack: Arc<Pack>,
    file: OpenedFile,
    /// Of the file.
    range: Range<u64>,
    wanted: KVec<Wanted>,
}

impl Run {
    /// A run of one chunk.
    fn new(pack: &Arc<Pack>, place: Place, wanted: Wanted) -> Result<Self> {
        let mut run = Run {
            pack: pack.clone(),
            range: place.range(&wanted.part.record),
            file: place.file,
            wanted: KVec::new(),
        };
        run.wanted.push(wanted, GFP_KERNEL)?;
        Ok(run)
    }

    /// Whether a chunk continues the run.
    fn is_continued_by(&self, place: &Place, part: &ChunkPart) -> bool {
        let end = place.range(&part.record).end;
        let is_whole = |wanted: &Wanted| wanted.part.is_whole();
        self.wanted.last().is_some_and(is_whole)
            && part.is_whole()
            && place.offset == self.range.end
            && end.saturating_sub(self.range.start) <= RUN_BYTES as u64
            && self.file == place.file
    }

    /// Adds a chunk that continues the run.
    fn add(&mut self, place: &Place, wanted: Wanted) -> Result {
        self.range.end = place.range(&wanted.part.record).end;
        self.wanted.push(wanted, GFP_KERNEL)?;
        Ok(())
    }

    /// Reads, verifies and decodes what is in the store. The rest stays unfilled, and unreported: the
    /// reader who needs it looks again.
    fn fill<O: Origin>(self, store: &Store<O>) -> Result {
        let is_whole = |wanted: &Wanted| wanted.part.is_whole();
        if !self.wanted.first().is_some_and(is_whole) {
            for wanted in self.wanted {
                let ChunkPart {
                    number, record, iv, ..
                } = &wanted.part;
                let found = store.decode_shared(&self.pack, *number, record, *iv)?;
                let Found::Chunk(chunk) = found else {
                    return Err(EAGAIN);
                };
                wanted.fill(&chunk)?;
            }
            return Ok(());
        }
        let mut start = self.range.start;
        let stored = store.caches.segments.read(&self.file, self.range)?;
        store.workers.with_decoder(|decoder| {
            for Wanted { part, bytes } in self.wanted {
                let record = &part.record;
                let range = start..start.saturating_add(record.stored_length.into());
                start = range.end;
                // What a file that is too short lacks is as wrong as other bytes are.
                let Some(stored) = stored
                    .get(range)
                    .filter(|stored| sha256(stored) == record.digest.0)
                else {
                    continue;
                };
                store.statistics.chunks.verified.count();
                decode(record, store.encryption(part.iv), stored, decoder, bytes)?;
                self.pack.note_use(part.number);
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
        let mut has_looked = false;
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
            let mut place = pack.place(part.number, &part.record);
            if place.is_none() && !has_looked {
                // It may be what was asked for ahead.
                has_looked = true;
                let behind = part.number.saturating_add(PARTS_MAX as u32);
                if pack.look(part.number..behind)? {
                    place = pack.place(part.number, &part.record);
                }
            }
            // What is not here is left to the reader who needs it.
            let Some(place) = place else {
                continue;
            };
            match self.runs.as_mut_slice() {
                // The first chunk, which somebody waits for, has none behind it to wait for as well.
                [_, .., run] if run.is_continued_by(&place, &wanted.part) => {
                    run.add(&place, wanted)?;
                }
                _ => self.runs.push(Run::new(pack, place, wanted)?, GFP_KERNEL)?,
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

    /// Has a worker read what will be wanted of a data file behind this chunk.
    fn read_ahead(&self, view: &PackView, number: u32) -> Result {
        let Ok(record) = view.index().chunk(number) else {
            return Ok(());
        };
        let Some(place) = view.pack.place(number, &record) else {
            return Ok(());
        };
        let segments = &self.store.caches.segments;
        let (range, size) = (place.range(&record), place.file.size());
        match segments.goes_on(&place.file, range, size)? {
            Some(segment) => self.store.spawn(move || {
                let _ = segment.read();
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

    /// Decodes a chunk into the cache, if it is here.
    fn decode_ahead(&self, view: &PackView, number: u32) -> Result {
        // There may be no more chunks.
        let Ok(record) = view.index().chunk(number) else {
            return Ok(());
        };
        let iv = view.index().iv(number);
        if let Found::Chunk(_) = self.decode_shared(&view.pack, number, &record, iv)? {
            self.statistics.chunks_ahead.count();
        }
        Ok(())
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
