// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Decides which source is asked for what, and when.
//!
//! A plain type: no I/O, no clock, no tasks; randomness from a seed. Whoever owns it tells it what happened and what
//! time it is, and carries out the [`Action`]s that [`Scheduler::poll`] returns. Its rules:
//!
//! - What a reader waits for (demand) is asked of the source from which it should come soonest; of two at random
//!   among those that are nearly as good, so that not all ask the same one. When it is overdue it is asked of a second
//!   source too, within a budget. A source, and all together, always have transfers to spare for it.
//! - What nobody waits for (bulk) is bound late: a source has only so much on the way as keeps its line full.
//!   Readahead goes first, in order; of the rest what the fewest peers have, in runs from random places, so that nodes
//!   that begin together fetch different parts and have something to give to each other.
//! - Of those who have all of it, a node asks first for its share: for what falls to it among those who fetch the same.
//! - Bulk gives way on the line where readers' parts come late.
//! - Equal wants are fetched once, however many orders wait for them; except for a part that a reader waits for and
//!   that is on its way behind many that nobody waits for, and at the end, when sources have nothing else to do.
//! - An origin is asked for what no peer that can be asked has. What readers wait for one of the nodes that read the same is to
//!   fetch for all of them.
//! - A source that fails or stalls is left alone for a while, doubled each time; one that says that it is busy, for as
//!   long as it says, by what is not more urgent than what it refused; one that lied, for good.
//! - An order ends when all its parts are here, when its deadline passes, or when it is cancelled.
//!
//! What happens concerns one source, as a rule: then only that one is looked at, so that a part that comes costs the same
//! with many sources as with few.

mod budget;
mod bulk;
mod chunk_set;
mod content;
mod demand;
mod give_way;
mod limits;
mod order;
mod pace;
mod shares;
mod source;
mod suggested;
mod tell;
mod through;
mod transfer;
mod wake;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::time::Instant;

use crate::Priority;
use lru::LruCache;

use budget::HedgeBudget;
use content::{Content, Want};
pub use content::{ContentId, Part};
use give_way::GiveWay;
pub use limits::Limits;
pub use order::{Action, Class, End, Extent, Full, Order, Outcome, Ticket, TransferId};
use source::SourceState;
use transfer::{Carried, Transfer};

struct OrderState {
    content: ContentId,
    missing: BTreeSet<u32>,
    deadline: Instant,
}

/// The fetch scheduler. See the module's documentation.
pub struct Scheduler<Source, Subject> {
    limits: Limits,
    random: fastrand::Rng,
    /// What this node's share goes by.
    identity: u64,
    contents: BTreeMap<ContentId, Content<Source, Subject>>,
    listed: Listed,
    orders: BTreeMap<Ticket, OrderState>,
    sources: BTreeMap<Source, SourceState>,
    transfers: BTreeMap<TransferId, Transfer<Source>>,
    /// Transfers that nobody waits for, and their bytes that are on the way.
    bulk: source::Load,
    banned: LruCache<Source, ()>,
    budget: HedgeBudget,
    give_way: GiveWay,
    /// Sources that may have become able to take more that nobody waits for.
    changed: BTreeSet<Source>,
    /// Whether a source may have become able to take what a reader waits for.
    demand_changed: bool,
    /// Parts on their way that nobody waited for until now.
    hastened: BTreeSet<(TransferId, u32)>,
    deadlines: BTreeSet<(Instant, Ticket)>,
    hedges: BTreeSet<(Instant, TransferId, u32)>,
    /// When sources that rest may be asked again.
    rests: BTreeSet<(Instant, Source)>,
    /// When to look whether a source stalls.
    stalls: BTreeSet<(Instant, Source)>,
    /// When to look whether sources are to be looked for.
    seeks: BTreeSet<(Instant, ContentId)>,
    /// Contents that have come to be wanted since the last poll.
    newly_wanted: BTreeSet<ContentId>,
    actions: Vec<Action<Source, Subject>>,
    sequence: u64,
}

/// The contents of which something is wanted, by what is pending of them.
#[derive(Default)]
struct Listed {
    demand: BTreeSet<ContentId>,
    readahead: BTreeSet<ContentId>,
    background: BTreeSet<ContentId>,
    /// Nothing is pending.
    assigned: BTreeSet<ContentId>,
}

impl<Source, Subject> Scheduler<Source, Subject>
where
    Source: Copy + Hash + Ord,
    Subject: Clone,
{
    /// A scheduler without orders and sources. With the same seed and the same calls it decides the same. `identity` is what
    /// other nodes know this one by ([`Scheduler::identify`]).
    pub fn new(limits: Limits, seed: u64, identity: u64) -> Self {
        Scheduler {
            banned: LruCache::new(limits.banned),
            limits,
            random: fastrand::Rng::with_seed(seed),
            identity,
            contents: BTreeMap::new(),
            listed: Listed::default(),
            orders: BTreeMap::new(),
            sources: BTreeMap::new(),
            transfers: BTreeMap::new(),
            bulk: source::Load::default(),
            budget: HedgeBudget::default(),
            give_way: GiveWay::default(),
            changed: BTreeSet::new(),
            demand_changed: false,
            hastened: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            hedges: BTreeSet::new(),
            rests: BTreeSet::new(),
            stalls: BTreeSet::new(),
            seeks: BTreeSet::new(),
            newly_wanted: BTreeSet::new(),
            actions: Vec::new(),
            sequence: 0,
        }
    }

    /// Accepts an order, unless there are too many; half of the room is kept for demand.
    ///
    /// # Errors
    /// [`Full`] if there are too many.
    pub fn order(&mut self, order: Order<Subject>) -> Result<Ticket, Full> {
        let room = match order.priority {
            Priority::Demand => self.limits.orders,
            Priority::Readahead | Priority::Background => self.limits.orders / 2,
        };
        if self.orders.len() >= room {
            return Err(Full);
        }
        let ticket = Ticket(self.next());
        let missing: BTreeSet<u32> = order.parts.into_iter().map(Part::number).collect();
        if missing.is_empty() {
            self.finish(ticket, Outcome::Complete);
            return Ok(ticket);
        }
        let (id, sequence) = (order.content, self.sequence);
        let content = self
            .contents
            .entry(id)
            .or_insert_with(|| Content::new(order.subject.clone(), order.extent));
        content.subject = order.subject;
        content.used = sequence;
        for &number in &missing {
            content.want(number, order.priority, sequence, ticket);
        }
        if order.priority == Priority::Demand {
            self.hasten(id, &missing);
        }
        self.newly_wanted.insert(id);
        self.relist(id);
        self.wake_offerers(id);
        self.deadlines.insert((order.deadline, ticket));
        self.orders.insert(
            ticket,
            OrderState {
                content: id,
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
            .filter_map(|part| content?.wants.get(&part.number));
        wants
            .flat_map(|want| want.tickets.iter().copied())
            .collect()
    }

    /// Decides: what is to be done now, in this order.
    pub fn poll(&mut self, now: Instant) -> Vec<Action<Source, Subject>> {
        self.wake(now);
        self.assign_demand(now);
        self.assign_through(now);
        self.assign_bulk(now);
        self.seek(now);
        self.forget();
        std::mem::take(&mut self.actions)
    }

    /// When to poll next if nothing happens before; `None` if nothing is waited for.
    pub fn next_wakeup(&self) -> Option<Instant> {
        [
            self.deadlines.first().map(|&(at, _)| at),
            self.hedges.first().map(|&(at, ..)| at),
            self.rests.first().map(|&(at, _)| at),
            self.stalls.first().map(|&(at, _)| at),
            self.seeks.first().map(|&(at, _)| at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn finish(&mut self, ticket: Ticket, outcome: Outcome) {
        self.actions.push(Action::Finish { ticket, outcome });
    }

    /// Lists a content by what is pending of it now.
    fn relist(&mut self, id: ContentId) {
        let Some(content) = self.contents.get(&id) else {
            return;
        };
        let list = |set: &mut BTreeSet<ContentId>, is_in: bool| {
            if is_in {
                set.insert(id);
            } else {
                set.remove(&id);
            }
        };
        list(&mut self.listed.demand, !content.demand.is_empty());
        list(&mut self.listed.readahead, !content.readahead.is_empty());
        list(&mut self.listed.background, !content.background.is_empty());
        let is_assigned = !content.wants.is_empty() && content.is_assigned();
        list(&mut self.listed.assigned, is_assigned);
    }

    /// Something of a content has become pending: whoever offers it may be asked.
    fn wake_offerers(&mut self, id: ContentId) {
        if let Some(content) = self.contents.get(&id) {
            self.changed.extend(content.offers.keys().copied());
            self.demand_changed |= !content.demand.is_empty();
        }
    }

    fn take_want(&mut self, id: ContentId, number: u32) -> Option<Want> {
        let want = self.contents.get_mut(&id)?.take(number);
        self.relist(id);
        want
    }

    /// Takes a part off the transfers that were to bring it; stops those that have nothing else
    /// to bring, except for `bringer`, which ends by itself.
    fn release(&mut self, want: &Want, number: u32, bringer: Option<TransferId>) {
        for &id in &want.transfers {
            let Some(transfer) = self.transfers.get_mut(&id) else {
                continue;
            };
            let place = transfer.parts.iter().position(|part| part.number == number);
            let part = place.map(|place| transfer.parts.remove(place));
            let (source, priority, is_empty) = (
                transfer.source,
                transfer.priority,
                transfer.parts.is_empty(),
            );
            if let Some(part) = part {
                self.off_the_line(id, source, priority, &part);
            }
            if is_empty && bringer != Some(id) {
                self.stop(id);
            }
        }
    }

    /// A part of a transfer is not on its way any more: it came, or is not waited for.
    fn off_the_line(
        &mut self,
        transfer: TransferId,
        source: Source,
        priority: Priority,
        part: &Carried,
    ) {
        if let Some(at) = part.hedge_at {
            self.hedges.remove(&(at, transfer, part.number));
        }
        if part.length == 0 {
            return;
        }
        if priority != Priority::Demand {
            self.bulk.parts -= 1;
            self.bulk.bytes -= part.length;
        }
        if let Some(state) = self.sources.get_mut(&source) {
            state.landed(priority, part.length);
        }
        self.changed.insert(source);
    }

    /// Asks a source for parts of a content.
    fn start(
        &mut self,
        source: Source,
        id: ContentId,
        (priority, through): (Priority, bool),
        numbers: &[u32],
        now: Instant,
    ) {
        let transfer = TransferId(self.next());
        let fetched = through.then(|| {
            numbers
                .iter()
                .map(|&number| self.expected_through(source, id, number))
                .max()
        });
        let fetched = fetched.flatten();
        let Some(content) = self.contents.get_mut(&id) else {
            return;
        };
        let state = self.sources.entry(source).or_insert_with(SourceState::new);
        let length = content.extent.part_length.max(1);
        let mut parts = Vec::with_capacity(numbers.len());
        for &number in numbers {
            content.assigned(number, transfer);
            let expected = match priority {
                Priority::Demand => state.expected_demand(length),
                Priority::Readahead | Priority::Background => state.expected_last(length),
            };
            let expected = fetched.unwrap_or(expected);
            parts.push(Carried {
                number,
                length,
                expected,
                is_alone: state.asked(priority, through, length, now),
                hedge_at: None,
            });
        }
        state.load(priority).transfers += 1;
        state.transfers.insert(transfer);
        if !state.is_watched {
            state.is_watched = true;
            self.stalls.insert((now + self.limits.stall_after, source));
        }
        if priority != Priority::Demand {
            self.bulk.transfers += 1;
            self.bulk.parts += parts.len();
            self.bulk.bytes += length * parts.len() as u64;
        }
        let started = Transfer {
            source,
            content: id,
            priority,
            through,
            parts,
            started: now,
            last_progress: now,
        };
        self.transfers.insert(transfer, started);
        for &number in numbers {
            self.arm_hedge(transfer, number, now);
        }
        let Some(content) = self.contents.get(&id) else {
            return;
        };
        self.actions.push(Action::Start {
            transfer,
            source,
            content: id,
            parts: numbers.iter().map(|&number| id.part(number)).collect(),
            priority,
            through,
            subject: content.subject.clone(),
        });
        self.relist(id);
    }

    /// Forgets a transfer: what it was still to bring is pending again, unless another one brings it.
    fn close(&mut self, id: TransferId) -> Option<Transfer<Source>> {
        let transfer = self.transfers.remove(&id)?;
        for part in &transfer.parts {
            self.off_the_line(id, transfer.source, transfer.priority, part);
        }
        if transfer.priority != Priority::Demand {
            self.bulk.transfers -= 1;
        }
        if let Some(source) = self.sources.get_mut(&transfer.source) {
            source.load(transfer.priority).transfers -= 1;
            source.transfers.remove(&id);
        }
        self.changed.insert(transfer.source);
        // It may have waited for the place.
        self.demand_changed |= !self.listed.demand.is_empty();
        let mut is_pending = false;
        if let Some(content) = self.contents.get_mut(&transfer.content) {
            for part in &transfer.parts {
                is_pending |= content.give_back(part.number, id, transfer.through);
            }
        }
        if is_pending {
            self.relist(transfer.content);
            self.wake_offerers(transfer.content);
        }
        Some(transfer)
    }

    /// Breaks a transfer off; what it was to bring is asked elsewhere.
    fn stop(&mut self, id: TransferId) {
        if let Some(stopped) = self.close(id) {
            self.suggest_again(&stopped);
            self.actions.push(Action::Stop { transfer: id });
        }
    }

    /// Whether there was such an order.
    fn remove_order(&mut self, ticket: Ticket) -> bool {
        let Some(order) = self.orders.remove(&ticket) else {
            return false;
        };
        self.deadlines.remove(&(order.deadline, ticket));
        for number in order.missing {
            let unwanted = self
                .contents
                .get_mut(&order.content)
                .and_then(|content| content.unwant(number, ticket));
            if let Some(want) = unwanted {
                self.release(&want, number, None);
            }
        }
        self.relist(order.content);
        true
    }
}
