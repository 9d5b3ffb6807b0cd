// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is wanted of one blob or pack, and who offers it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::time::Instant;

use crate::{ChunkMap, Have, Priority};
use peerfs_format::Digest;

use super::{Ticket, TransferId};

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

/// What a source says that it has of a content, and what it turned out not to have.
pub(super) struct Offer {
    have: Have,
    /// What it said later.
    gained: BTreeSet<u32>,
    lacking: BTreeSet<Part>,
}

impl Offer {
    pub(super) fn has(&self, part: Part) -> bool {
        let has = match part {
            Part::Whole => self.have == Have::Complete,
            Part::Chunk(number) => self.have.chunk(number) || self.gained.contains(&number),
        };
        has && !self.lacking.contains(&part)
    }
}

/// A part that is wanted. Pending as long as no transfer is to bring it.
pub(super) struct Want {
    pub(super) priority: Priority,
    pub(super) sequence: u64,
    pub(super) tickets: Vec<Ticket>,
    pub(super) transfers: Vec<TransferId>,
}

/// Sorts pending parts: the most urgent first, then the oldest.
pub(super) type Rank = (Priority, u64, Part);

pub(super) struct Content<Source, Subject> {
    pub(super) subject: Subject,
    pub(super) wants: BTreeMap<Part, Want>,
    pub(super) pending: BTreeSet<Rank>,
    pub(super) offers: BTreeMap<Source, Offer>,
    pub(super) seeking: bool,
    pub(super) sought: Option<Instant>,
    /// The sequence number of the last order.
    pub(super) used: u64,
}

impl<Source: Copy + Ord, Subject> Content<Source, Subject> {
    pub(super) fn new(subject: Subject) -> Self {
        Content {
            subject,
            wants: BTreeMap::new(),
            pending: BTreeSet::new(),
            offers: BTreeMap::new(),
            seeking: false,
            sought: None,
            used: 0,
        }
    }

    pub(super) fn want(&mut self, part: Part, priority: Priority, sequence: u64, ticket: Ticket) {
        match self.wants.get_mut(&part) {
            Some(want) => {
                want.tickets.push(ticket);
                if priority < want.priority {
                    let before = (want.priority, want.sequence, part);
                    want.priority = priority;
                    if self.pending.remove(&before) {
                        self.pending.insert((priority, want.sequence, part));
                    }
                }
            }
            None => {
                self.pending.insert((priority, sequence, part));
                self.wants.insert(
                    part,
                    Want {
                        priority,
                        sequence,
                        tickets: vec![ticket],
                        transfers: Vec::new(),
                    },
                );
            }
        }
    }

    /// A ticket does not want the part any more; returns the want if no other does.
    pub(super) fn unwant(&mut self, part: Part, ticket: Ticket) -> Option<Want> {
        let want = self.wants.get_mut(&part)?;
        want.tickets.retain(|&other| other != ticket);
        if want.tickets.is_empty() {
            self.take(part)
        } else {
            None
        }
    }

    /// Removes a want.
    pub(super) fn take(&mut self, part: Part) -> Option<Want> {
        let want = self.wants.remove(&part)?;
        self.pending.remove(&(want.priority, want.sequence, part));
        Some(want)
    }

    /// A transfer is to bring the part.
    pub(super) fn assigned(&mut self, part: Part, transfer: TransferId) {
        if let Some(want) = self.wants.get_mut(&part) {
            self.pending.remove(&(want.priority, want.sequence, part));
            want.transfers.push(transfer);
        }
    }

    /// A transfer does not bring the part after all.
    pub(super) fn give_back(&mut self, part: Part, transfer: TransferId) {
        if let Some(want) = self.wants.get_mut(&part) {
            want.transfers.retain(|&other| other != transfer);
            if want.transfers.is_empty() {
                self.pending.insert((want.priority, want.sequence, part));
            }
        }
    }

    pub(super) fn offer(&mut self, source: Source, have: Have) {
        let offer = Offer {
            have,
            gained: BTreeSet::new(),
            lacking: BTreeSet::new(),
        };
        match offer.have {
            Have::Absent => self.offers.remove(&source),
            _ => self.offers.insert(source, offer),
        };
    }

    /// A source has more of it than it said.
    pub(super) fn gained(&mut self, source: Source, runs: &[Range<u32>]) {
        let offer = self.offers.entry(source).or_insert_with(|| Offer {
            have: Have::Absent,
            gained: BTreeSet::new(),
            lacking: BTreeSet::new(),
        });
        for number in runs.iter().cloned().flatten() {
            if number >= ChunkMap::CHUNKS_MAX {
                break;
            }
            offer.gained.insert(number);
            offer.lacking.remove(&Part::Chunk(number));
        }
    }

    /// A source turned out not to have the part. An offer of nothing is no offer.
    pub(super) fn lacks(&mut self, source: Source, part: Part) {
        if part == Part::Whole {
            self.offers.remove(&source);
        } else if let Some(offer) = self.offers.get_mut(&source) {
            offer.lacking.insert(part);
        }
    }

    pub(super) fn has(&self, source: Source, part: Part) -> bool {
        self.offers
            .get(&source)
            .is_some_and(|offer| offer.has(part))
    }
}
