// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Decides which source is asked for what, and when.
//!
//! A plain type: no I/O, no clock, no tasks. Whoever owns it tells it what happened and what time
//! it is, and carries out the [`Action`]s that [`Scheduler::poll`] returns. Its rules:
//!
//! - Demand goes before readahead, readahead before background; within one priority, the oldest
//!   first. A source always has one transfer to spare for demand.
//! - Equal wants are fetched once, however many orders wait for them; except for a part that a reader
//!   waits for and that is on its way behind many that nobody waits for.
//! - The parts of one content are spread over all sources that have it, the quicker ones getting
//!   more.
//! - A part that a reader waits for and that makes no progress is asked of a second source too.
//! - A source that fails or stalls is left alone for a while, doubled each time; one that says that it is busy, for as
//!   long as it says, by what is not more urgent than what it refused; one that lied, for good.
//! - An order ends when all its parts are here, when its deadline passes, or when it is cancelled.

mod assign;
mod content;
mod limits;
mod source;
mod transfer;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::{Have, Priority};
use lru::LruCache;

use content::{Content, Want};
pub use content::{ContentId, Part};
pub use limits::Limits;
use source::SourceState;
use transfer::Transfer;

/// Names an accepted order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(u64);

/// Names a transfer: one batch of parts asked of one source.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TransferId(u64);

/// Parts of one content that somebody wants.
#[derive(Clone, Debug)]
pub struct Order<Subject> {
    /// Of what.
    pub content: ContentId,
    /// What of it is wanted; at least one part.
    pub parts: Vec<Part>,
    /// How urgent it is.
    pub priority: Priority,
    /// When the order fails if it is not complete.
    pub deadline: Instant,
    /// What the owner needs to know of the content; handed back with every action on it.
    pub subject: Subject,
}

/// How an order ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All parts are in the store.
    Complete,
    /// The deadline has passed, and no source that answers has all of it.
    Unreachable,
    /// The deadline has passed while sources that have all of it were being asked.
    TimedOut,
    /// It was received and could not be stored, for this reason of the owner's.
    Unstorable(i32),
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The source has answered. What it did not send, it does not have.
    Answered,
    /// The source could not be asked, or broke off.
    Failed,
    /// The source has too much to do at the moment, and wants to be left alone for so long.
    Busy {
        /// At most [`RETRY_MAX`](crate::limits::RETRY_MAX).
        retry_after: Duration,
    },
}

/// What the owner of a scheduler is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action<Source, Subject> {
    /// Look for sources of the content: report each by [`Scheduler::offer`], and the end of the
    /// search by [`Scheduler::sought`].
    Seek {
        /// The blob or pack.
        content: ContentId,
        /// What the order said of it.
        subject: Subject,
    },
    /// Ask the source for these parts: report each by [`Scheduler::received`], and the end by
    /// [`Scheduler::ended`].
    Start {
        /// The transfer's name.
        transfer: TransferId,
        /// Whom to ask.
        source: Source,
        /// The blob or pack.
        content: ContentId,
        /// What of it, the oldest order first.
        parts: Vec<Part>,
        /// How urgent these parts are.
        priority: Priority,
        /// What the order said of it.
        subject: Subject,
    },
    /// Break the transfer off: nothing of it is needed any more, or it makes no progress.
    Stop {
        /// The transfer's name.
        transfer: TransferId,
    },
    /// Tell whoever ordered.
    Finish {
        /// The order.
        ticket: Ticket,
        /// How it ended.
        outcome: Outcome,
    },
}

/// There are as many orders as the limit allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many requests wait already (limits.requests)")]
pub struct Full;

struct OrderState {
    content: ContentId,
    missing: BTreeSet<Part>,
    deadline: Instant,
}

/// The fetch scheduler. See the module's documentation.
pub struct Scheduler<Source, Subject> {
    limits: Limits,
    contents: BTreeMap<ContentId, Content<Source, Subject>>,
    orders: BTreeMap<Ticket, OrderState>,
    deadlines: BTreeSet<(Instant, Ticket)>,
    sources: BTreeMap<Source, SourceState>,
    transfers: BTreeMap<TransferId, Transfer<Source>>,
    banned: LruCache<Source, ()>,
    actions: Vec<Action<Source, Subject>>,
    sequence: u64,
}

impl<Source, Subject> Scheduler<Source, Subject>
where
    Source: Copy + Hash + Ord,
    Subject: Clone,
{
    /// A scheduler without orders and sources.
    pub fn new(limits: Limits) -> Self {
        Scheduler {
            banned: LruCache::new(limits.banned),
            limits,
            contents: BTreeMap::new(),
            orders: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            sources: BTreeMap::new(),
            transfers: BTreeMap::new(),
            actions: Vec::new(),
            sequence: 0,
        }
    }

    /// Accepts an order, unless there are too many; half of the room is kept for demand.
    pub fn order(&mut self, order: Order<Subject>) -> Result<Ticket, Full> {
        let room = match order.priority {
            Priority::Demand => self.limits.orders,
            Priority::Readahead | Priority::Background => self.limits.orders / 2,
        };
        if self.orders.len() >= room {
            return Err(Full);
        }
        let ticket = Ticket(self.next());
        let missing: BTreeSet<Part> = order.parts.into_iter().collect();
        if missing.is_empty() {
            self.finish(ticket, Outcome::Complete);
            return Ok(ticket);
        }
        let sequence = self.sequence;
        let content = self
            .contents
            .entry(order.content)
            .or_insert_with(|| Content::new(order.subject.clone()));
        content.subject = order.subject;
        content.used = sequence;
        for &part in &missing {
            content.want(part, order.priority, sequence, ticket);
        }
        if order.priority == Priority::Demand {
            self.overtake(order.content, &missing);
        }
        self.deadlines.insert((order.deadline, ticket));
        self.orders.insert(
            ticket,
            OrderState {
                content: order.content,
                missing,
                deadline: order.deadline,
            },
        );
        Ok(ticket)
    }

    /// Forgets an order that nobody waits for any more, and stops what was fetched only for it.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.remove_order(ticket);
    }

    /// A source says what it has of a content; replaces what it said before.
    pub fn offer(&mut self, content: ContentId, source: Source, have: Have) {
        if self.banned.contains(&source) {
            return;
        }
        if let Some(content) = self.contents.get_mut(&content) {
            self.sources.entry(source).or_default();
            content.offer(source, have);
        }
    }

    /// A source tells that it has more chunks of a pack than it said so far.
    pub fn gained(&mut self, content: ContentId, source: Source, runs: &[Range<u32>]) {
        if self.banned.contains(&source) {
            return;
        }
        if let Some(content) = self.contents.get_mut(&content) {
            self.sources.entry(source).or_default();
            content.gained(source, runs);
        }
    }

    /// A source cannot be reached any more: its transfers end, and it offers nothing until it does so anew.
    pub fn gone(&mut self, source: Source) {
        let transfers: Vec<TransferId> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.source == source)
            .map(|(&id, _)| id)
            .collect();
        for transfer in transfers {
            self.stop(transfer);
        }
        for content in self.contents.values_mut() {
            content.offers.remove(&source);
        }
        self.sources.remove(&source);
    }

    /// A packet to a source and back took so long.
    pub fn measured(&mut self, source: Source, round_trip: Duration) {
        if let Some(source) = self.sources.get_mut(&source) {
            source.measured(round_trip);
        }
    }

    /// The search for sources that [`Action::Seek`] asked for is over.
    pub fn sought(&mut self, content: ContentId, now: Instant) {
        if let Some(content) = self.contents.get_mut(&content) {
            content.seeking = false;
            content.sought = Some(now);
        }
    }

    /// Something of a part came that is not complete.
    pub fn progressed(&mut self, transfer: TransferId, at: Instant) {
        if let Some(transfer) = self.transfers.get_mut(&transfer) {
            transfer.last_progress = transfer.last_progress.max(at);
            if let Some(source) = self.sources.get_mut(&transfer.source) {
                source.sent(at);
            }
        }
    }

    /// A part was received, verified and stored.
    pub fn received(&mut self, transfer: TransferId, content: ContentId, part: Part, now: Instant) {
        if let Some(transfer) = self.transfers.get_mut(&transfer) {
            let pace = transfer.part_came(now);
            if let Some(source) = self.sources.get_mut(&transfer.source) {
                source.sent(now);
                source.succeeded(pace);
            }
        }
        if let Some(want) = self.take_want(content, part) {
            self.release(&want, part, Some(transfer));
            for ticket in want.tickets {
                self.part_complete(ticket, part);
            }
        }
    }

    /// A part was received and verified, and the store could not take it.
    pub fn unstorable(&mut self, content: ContentId, part: Part, reason: i32) {
        if let Some(want) = self.take_want(content, part) {
            self.release(&want, part, None);
            for ticket in want.tickets {
                if self.remove_order(ticket) {
                    self.finish(ticket, Outcome::Unstorable(reason));
                }
            }
        }
    }

    /// A transfer is over.
    pub fn ended(&mut self, transfer: TransferId, end: End, now: Instant) {
        let Some(ended) = self.transfers.remove(&transfer) else {
            return;
        };
        if let Some(source) = self.sources.get_mut(&ended.source) {
            source.transfers -= 1;
            match end {
                End::Answered => source.answered(),
                End::Failed => source.failed(now, &self.limits),
                End::Busy { retry_after } => {
                    source.busy(ended.priority, retry_after, now, &self.limits);
                }
            }
        }
        if let Some(content) = self.contents.get_mut(&ended.content) {
            for &part in &ended.parts {
                content.give_back(part, transfer);
                if end == End::Answered {
                    content.lacks(ended.source, part);
                }
            }
        }
    }

    /// A source sent wrong bytes: it is never asked again. False if that was known already.
    pub fn ban(&mut self, source: Source) -> bool {
        if self.banned.put(source, ()).is_some() {
            return false;
        }
        self.gone(source);
        true
    }

    /// The contents of which something is wanted: what a new source is to be asked for.
    pub fn wanted(&self) -> Vec<(ContentId, Subject)> {
        self.contents
            .iter()
            .filter(|(_, content)| !content.wants.is_empty())
            .map(|(&id, content)| (id, content.subject.clone()))
            .collect()
    }

    /// The orders that wait for what a transfer is to bring.
    pub fn waiting_for(&self, transfer: TransferId) -> BTreeSet<Ticket> {
        let Some(transfer) = self.transfers.get(&transfer) else {
            return BTreeSet::new();
        };
        let content = self.contents.get(&transfer.content);
        let wants = transfer
            .parts
            .iter()
            .filter_map(|part| content?.wants.get(part));
        wants
            .flat_map(|want| want.tickets.iter().copied())
            .collect()
    }

    /// Decides: what is to be done now, in this order.
    pub fn poll(&mut self, now: Instant) -> Vec<Action<Source, Subject>> {
        self.expire(now);
        self.stop_stalled(now);
        self.rest_slow_sources(now);
        self.assign(now);
        self.hedge(now);
        self.seek(now);
        self.forget();
        std::mem::take(&mut self.actions)
    }

    /// When to poll next if nothing happens before; `None` if nothing is wanted.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|&(deadline, _)| deadline);
        let transfers = self.transfers.values().flat_map(|transfer| {
            [
                transfer.last_part + self.patience(transfer),
                self.stalled_at(transfer),
            ]
        });
        let sources = self.sources.values().flat_map(SourceState::resume_at);
        let searches = self
            .contents
            .values()
            .filter(|content| !content.wants.is_empty() && !content.seeking)
            .filter_map(|content| content.sought)
            .flat_map(|sought| {
                [
                    sought + self.limits.seek_interval,
                    sought + self.limits.seek_again_after,
                ]
            });
        deadline
            .into_iter()
            .chain(
                transfers
                    .chain(sources)
                    .chain(searches)
                    .filter(|&time| time > now),
            )
            .min()
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn finish(&mut self, ticket: Ticket, outcome: Outcome) {
        self.actions.push(Action::Finish { ticket, outcome });
    }

    fn take_want(&mut self, content: ContentId, part: Part) -> Option<Want> {
        self.contents.get_mut(&content)?.take(part)
    }

    /// Takes a part off the transfers that were to bring it; stops those that have nothing else
    /// to bring, except for `bringer`, which ends by itself.
    fn release(&mut self, want: &Want, part: Part, bringer: Option<TransferId>) {
        for &id in &want.transfers {
            if let Some(transfer) = self.transfers.get_mut(&id) {
                transfer.parts.retain(|&other| other != part);
                if transfer.parts.is_empty() && bringer != Some(id) {
                    self.stop(id);
                }
            }
        }
    }

    /// Breaks a transfer off; what it was to bring is asked elsewhere.
    fn stop(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.remove(&id) else {
            return;
        };
        if let Some(source) = self.sources.get_mut(&transfer.source) {
            source.transfers -= 1;
        }
        if let Some(content) = self.contents.get_mut(&transfer.content) {
            for part in transfer.parts {
                content.give_back(part, id);
            }
        }
        self.actions.push(Action::Stop { transfer: id });
    }

    fn part_complete(&mut self, ticket: Ticket, part: Part) {
        let Some(order) = self.orders.get_mut(&ticket) else {
            return;
        };
        order.missing.remove(&part);
        if order.missing.is_empty() {
            self.remove_order(ticket);
            self.finish(ticket, Outcome::Complete);
        }
    }

    /// Whether there was such an order.
    fn remove_order(&mut self, ticket: Ticket) -> bool {
        let Some(order) = self.orders.remove(&ticket) else {
            return false;
        };
        self.deadlines.remove(&(order.deadline, ticket));
        for part in order.missing {
            let unwanted = self
                .contents
                .get_mut(&order.content)
                .and_then(|content| content.unwant(part, ticket));
            if let Some(want) = unwanted {
                self.release(&want, part, None);
            }
        }
        true
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, ticket)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            let offered = self
                .orders
                .get(&ticket)
                .is_some_and(|order| self.is_within_reach(order));
            let outcome = if offered {
                Outcome::TimedOut
            } else {
                Outcome::Unreachable
            };
            self.remove_order(ticket);
            self.finish(ticket, outcome);
        }
    }

    /// Whether each part is offered by a source that can be reached.
    fn is_within_reach(&self, order: &OrderState) -> bool {
        let Some(content) = self.contents.get(&order.content) else {
            return false;
        };
        order.missing.iter().all(|&part| {
            content.offers.iter().any(|(source, offer)| {
                let reachable = self
                    .sources
                    .get(source)
                    .is_some_and(|s| !s.is_unreachable());
                reachable && offer.has(part)
            })
        })
    }

    /// When a transfer counts as stalled. A source may answer its transfers one after the other: as long as it sends
    /// something, each of them has the time of all.
    fn stalled_at(&self, transfer: &Transfer<Source>) -> Instant {
        let patience = self.limits.stall_after;
        let alone = transfer.last_progress + patience;
        let Some(source) = self.sources.get(&transfer.source) else {
            return alone;
        };
        let transfers = u32::try_from(source.transfers).unwrap_or(u32::MAX).max(1);
        let silent = source.last_sent().map_or(alone, |sent| sent + patience);
        let starved = transfer.last_progress + patience.saturating_mul(transfers);
        silent.clamp(alone, starved.max(alone))
    }

    fn stop_stalled(&mut self, now: Instant) {
        let stalled: Vec<(TransferId, Source)> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| self.stalled_at(transfer) <= now)
            .map(|(&id, transfer)| (id, transfer.source))
            .collect();
        for (id, source) in stalled {
            self.stop(id);
            if let Some(source) = self.sources.get_mut(&source) {
                source.failed(now, &self.limits);
            }
        }
    }

    /// Leaves sources alone for a while that have just become slow: what is new is asked of others.
    fn rest_slow_sources(&mut self, now: Instant) {
        for id in self.slow_transfers(now) {
            let Some(transfer) = self.transfers.get_mut(&id) else {
                continue;
            };
            if std::mem::replace(&mut transfer.is_slow, true) {
                continue;
            }
            if let Some(source) = self.sources.get_mut(&transfer.source) {
                source.slowed_down(now, &self.limits);
            }
        }
    }

    /// Forgets the contents that were used longest ago, and sources that offer nothing.
    fn forget(&mut self) {
        if self.contents.len() <= self.limits.contents {
            return;
        }
        let mut idle: Vec<(u64, ContentId)> = self
            .contents
            .iter()
            .filter(|(_, content)| content.wants.is_empty() && !content.seeking)
            .map(|(&id, content)| (content.used, id))
            .collect();
        idle.sort_unstable();
        // Down to half, so that this is not done for every order.
        let excess = self.contents.len() - self.limits.contents / 2;
        for (_, id) in idle.into_iter().take(excess) {
            self.contents.remove(&id);
        }
        let contents = &self.contents;
        self.sources.retain(|source, state| {
            state.transfers > 0
                || contents
                    .values()
                    .any(|content| content.offers.contains_key(source))
        });
    }
}
