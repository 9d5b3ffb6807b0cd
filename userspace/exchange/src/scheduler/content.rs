// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is wanted of one blob or pack, and who offers it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::{Have, Priority};
use peerfs_format::Digest;

use super::chunk_set::ChunkSet;
use super::suggested::Suggested;
use super::{shares, Extent, Ticket, TransferId};

/// Peers say so soon what they have, where it matters that an origin is not asked before.
pub(super) const PEERS_ANSWER: Duration = Duration::from_millis(200);

/// Names what is fetched.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ContentId {
    /// A metadata blob.
    Blob(Digest),
    /// A pack as an index describes it: by another one its chunks are others.
    Pack {
        /// The pack.
        pack: Digest,
        /// The index.
        index: Digest,
    },
}

impl ContentId {
    /// The digest by which others know the blob or the pack.
    pub fn digest(&self) -> Digest {
        match self {
            ContentId::Blob(digest) | ContentId::Pack { pack: digest, .. } => *digest,
        }
    }

    pub(super) fn is_pack(&self) -> bool {
        matches!(self, ContentId::Pack { .. })
    }

    /// The part with this number, of which [`Part::number`] is the inverse.
    pub(super) fn part(&self, number: u32) -> Part {
        match self {
            ContentId::Blob(_) => Part::Whole,
            ContentId::Pack { .. } => Part::Chunk(number),
        }
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest().fmt(f)
    }
}

/// A part of a content: the unit that is fetched and verified.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Part {
    /// All of a metadata blob.
    Whole,
    /// A chunk of a pack, by its number.
    Chunk(u32),
}

impl Part {
    pub(super) fn number(self) -> u32 {
        match self {
            Part::Whole => 0,
            Part::Chunk(number) => number,
        }
    }
}

/// What a source says that it has of a content, without what it turned out not to have.
pub(super) struct Offer {
    /// All but `chunks`; otherwise only them.
    is_whole: bool,
    chunks: ChunkSet,
    /// It counts for how rare something is.
    counts: bool,
    /// When the source last got more.
    gained: Option<Instant>,
    /// What the source suggests.
    pub(super) suggested: Suggested,
}

impl Offer {
    /// Whether it is all, but for what the source turned out not to have.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether it is that of a peer that has not all and has got more lately.
    pub(super) fn is_growing(&self, now: Instant) -> bool {
        self.counts && !self.is_whole && shares::is_fresh(self.gained, now)
    }

    pub(super) fn has(&self, number: u32) -> bool {
        self.is_whole != self.chunks.contains(number)
    }

    /// The bits of the numbers from `64 * place` on that it has.
    pub(super) fn word(&self, place: u32) -> u64 {
        let word = self.chunks.word(place);
        if self.is_whole {
            !word
        } else {
            word
        }
    }
}

/// A part that is wanted. Pending as long as no transfer is to bring it.
pub(super) struct Want {
    pub(super) priority: Priority,
    pub(super) sequence: u64,
    pub(super) tickets: Vec<Ticket>,
    pub(super) transfers: Vec<TransferId>,
    /// No other node is asked to fetch it: one was in vain, or one waits for this node to.
    pub(super) is_direct: bool,
}

pub(super) struct Content<Source, Subject> {
    pub(super) subject: Subject,
    pub(super) extent: Extent,
    pub(super) wants: BTreeMap<u32, Want>,
    /// Pending parts that a reader waits for, the oldest order first.
    pub(super) demand: BTreeSet<(u64, u32)>,
    /// Pending parts that somebody may come for soon, the oldest order first.
    pub(super) readahead: BTreeSet<(u64, u32)>,
    /// Pending parts that nobody is in a hurry for.
    pub(super) background: ChunkSet,
    pub(super) offers: BTreeMap<Source, Offer>,
    /// Peers that have a chunk and not all of them, by its number.
    spread: Vec<u16>,
    /// Peers that have all.
    whole: u16,
    pub(super) seeking: bool,
    pub(super) sought: Option<Instant>,
    /// When they were first looked for.
    pub(super) first_sought: Option<Instant>,
    /// When it is next looked at whether sources are to be looked for.
    pub(super) seek_at: Option<Instant>,
    /// A reader's part is overdue, and there was no second source for it.
    pub(super) lacks_sources: bool,
    /// The sequence number of the last order.
    pub(super) used: u64,
}

impl<Source: Copy + Ord, Subject> Content<Source, Subject> {
    pub(super) fn new(subject: Subject, extent: Extent) -> Self {
        Content {
            subject,
            extent,
            wants: BTreeMap::new(),
            demand: BTreeSet::new(),
            readahead: BTreeSet::new(),
            background: ChunkSet::default(),
            offers: BTreeMap::new(),
            spread: Vec::new(),
            whole: 0,
            seeking: false,
            sought: None,
            first_sought: None,
            seek_at: None,
            lacks_sources: false,
            used: 0,
        }
    }

    /// Whether peers were just asked for the first time what they have of it.
    pub(super) fn is_first_sought(&self, now: Instant) -> bool {
        let answered = self.first_sought.map(|at| at + PEERS_ANSWER);
        self.sought.is_none() && answered.is_none_or(|answered| now < answered)
    }

    /// Whether nothing is pending.
    pub(super) fn is_assigned(&self) -> bool {
        self.demand.is_empty() && self.readahead.is_empty() && self.background.is_empty()
    }

    /// The most urgent pending part.
    pub(super) fn most_urgent(&self) -> Option<(Priority, u32)> {
        let first = |set: &BTreeSet<(u64, u32)>| set.first().map(|&(_, number)| number);
        let demand = first(&self.demand).map(|number| (Priority::Demand, number));
        let readahead = || first(&self.readahead).map(|number| (Priority::Readahead, number));
        let background = || self.background.iter().next();
        let background = || background().map(|number| (Priority::Background, number));
        demand.or_else(readahead).or_else(background)
    }

    fn set_pending(&mut self, number: u32, priority: Priority, sequence: u64) {
        match priority {
            Priority::Demand => drop(self.demand.insert((sequence, number))),
            Priority::Readahead => drop(self.readahead.insert((sequence, number))),
            Priority::Background => drop(self.background.insert(number)),
        }
    }

    fn clear_pending(&mut self, number: u32, priority: Priority, sequence: u64) -> bool {
        match priority {
            Priority::Demand => self.demand.remove(&(sequence, number)),
            Priority::Readahead => self.readahead.remove(&(sequence, number)),
            Priority::Background => self.background.remove(number),
        }
    }

    pub(super) fn want(&mut self, number: u32, priority: Priority, sequence: u64, ticket: Ticket) {
        let Some(want) = self.wants.get_mut(&number) else {
            let want = Want {
                priority,
                sequence,
                tickets: vec![ticket],
                transfers: Vec::new(),
                is_direct: false,
            };
            self.wants.insert(number, want);
            self.set_pending(number, priority, sequence);
            return;
        };
        want.tickets.push(ticket);
        if priority < want.priority {
            let (before, sequence) = (want.priority, want.sequence);
            want.priority = priority;
            if self.clear_pending(number, before, sequence) {
                self.set_pending(number, priority, sequence);
            }
        }
    }

    /// A ticket does not want the part any more; returns the want if no other does.
    pub(super) fn unwant(&mut self, number: u32, ticket: Ticket) -> Option<Want> {
        let want = self.wants.get_mut(&number)?;
        want.tickets.retain(|&other| other != ticket);
        if want.tickets.is_empty() {
            self.take(number)
        } else {
            None
        }
    }

    /// Removes a want.
    pub(super) fn take(&mut self, number: u32) -> Option<Want> {
        let want = self.wants.remove(&number)?;
        self.clear_pending(number, want.priority, want.sequence);
        Some(want)
    }

    /// Has a part asked for once more that is on its way.
    pub(super) fn want_again(&mut self, number: u32) {
        if let Some(&Want {
            priority, sequence, ..
        }) = self.wants.get(&number)
        {
            self.set_pending(number, priority, sequence);
        }
    }

    /// A transfer is to bring the part.
    pub(super) fn assigned(&mut self, number: u32, transfer: TransferId) {
        if let Some(want) = self.wants.get_mut(&number) {
            want.transfers.push(transfer);
            let (priority, sequence) = (want.priority, want.sequence);
            self.clear_pending(number, priority, sequence);
        }
    }

    /// A transfer does not bring the part after all, whose source was to fetch it first or not; returns whether no other does.
    pub(super) fn give_back(&mut self, number: u32, transfer: TransferId, through: bool) -> bool {
        let Some(want) = self.wants.get_mut(&number) else {
            return false;
        };
        want.is_direct |= through;
        want.transfers.retain(|&other| other != transfer);
        let is_pending = want.transfers.is_empty();
        if is_pending {
            let (priority, sequence) = (want.priority, want.sequence);
            self.set_pending(number, priority, sequence);
        }
        is_pending
    }

    /// A source has so much, as it says; `counts` for how rare it is. What is known of it otherwise stays: what it
    /// suggests is suggested to nobody else.
    pub(super) fn offer(&mut self, source: Source, have: &Have, counts: bool) {
        let before = self.withdraw(source);
        let (is_whole, chunks) = match have {
            Have::Absent => return,
            Have::Complete => (true, ChunkSet::default()),
            Have::Partial(map) => (false, ChunkSet::of_map(map, self.extent.parts)),
        };
        if counts {
            self.whole = self.whole.saturating_add(u16::from(is_whole));
            for number in chunks.iter() {
                add(&mut self.spread, number, 1);
            }
        }
        let gained = before.as_ref().and_then(|before| before.gained);
        let offer = Offer {
            is_whole,
            chunks,
            counts,
            gained,
            suggested: before.map_or_else(Suggested::default, |before| before.suggested),
        };
        self.offers.insert(source, offer);
    }

    /// A source has more than it said.
    pub(super) fn gained(
        &mut self,
        source: Source,
        runs: &[Range<u32>],
        counts: bool,
        now: Instant,
    ) {
        let offer = self.offers.entry(source).or_insert_with(|| Offer {
            is_whole: false,
            chunks: ChunkSet::default(),
            counts,
            gained: None,
            suggested: Suggested::default(),
        });
        offer.gained = Some(now);
        for run in runs {
            for number in run.start..run.end.min(self.extent.parts) {
                if offer.is_whole {
                    offer.chunks.remove(number);
                } else if offer.chunks.insert(number) && offer.counts {
                    add(&mut self.spread, number, 1);
                }
            }
        }
    }

    /// A source has nothing of it any more. Returns what it had.
    pub(super) fn withdraw(&mut self, source: Source) -> Option<Offer> {
        let offer = self.offers.remove(&source)?;
        if offer.counts && offer.is_whole {
            self.whole = self.whole.saturating_sub(1);
        } else if offer.counts {
            for number in offer.chunks.iter() {
                add(&mut self.spread, number, -1);
            }
        }
        Some(offer)
    }

    /// A source turned out not to have the part. An offer of a blob that it does not have is none.
    pub(super) fn lacks(&mut self, source: Source, part: Part) {
        let number = part.number();
        if part == Part::Whole {
            self.withdraw(source);
        } else if let Some(offer) = self.offers.get_mut(&source) {
            if offer.is_whole {
                offer.chunks.insert(number);
            } else if offer.chunks.remove(number) && offer.counts {
                add(&mut self.spread, number, -1);
            }
        }
    }

    /// The peers that have the part: those that turned out to lack one of a whole pack are counted too.
    pub(super) fn peers_with(&self, number: u32) -> u16 {
        self.whole.saturating_add(self.spread_of(number))
    }

    /// The peers that have the part and not all.
    pub(super) fn spread_of(&self, number: u32) -> u16 {
        self.spread.get(number as usize).copied().unwrap_or(0)
    }
}

fn add(spread: &mut Vec<u16>, number: u32, change: i16) {
    let place = number as usize;
    if place >= spread.len() {
        spread.resize(place + 1, 0);
    }
    if let Some(count) = spread.get_mut(place) {
        *count = count.saturating_add_signed(change);
    }
}
