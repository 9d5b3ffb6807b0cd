// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the scheduler is told: of sources, and of what comes.

use std::hash::Hash;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::{Have, Priority};

use super::content::Content;
use super::source::SourceState;
use super::{Class, ContentId, End, Outcome, Part, Scheduler, Ticket, TransferId};

impl<Source, Subject> Scheduler<Source, Subject>
where
    Source: Copy + Hash + Ord,
    Subject: Clone,
{
    /// A source is of this kind; otherwise it counts as a peer. To be told before what it offers.
    pub fn classify(&mut self, source: Source, class: Class) {
        if let Some(source) = self.remember(source) {
            source.class = class;
        }
    }

    /// A source is a node that other nodes know by this number, too: it may share with this one what both fetch.
    pub fn identify(&mut self, source: Source, identity: u64) {
        if let Some(source) = self.remember(source) {
            source.identity = Some(identity);
        }
    }

    /// A source says what it has of a content; replaces what it said before.
    pub fn offer(&mut self, content: ContentId, source: Source, have: Have) {
        let offers = |content: &mut Content<_, _>, counts| content.offer(source, &have, counts);
        if self.change_offer(content, source, offers) {
            self.demand_changed = true;
        }
    }

    /// A source tells that it has more chunks of a pack than it said so far; or, with no runs, that what it offered just now
    /// is more.
    pub fn gained(
        &mut self,
        content: ContentId,
        source: Source,
        runs: &[Range<u32>],
        now: Instant,
    ) {
        let gains = |content: &mut Content<_, _>, counts| {
            content.gained(source, runs, counts, now);
        };
        if !self.change_offer(content, source, gains) {
            return;
        }
        let offered = self.contents.get(&content);
        self.demand_changed |= offered.is_some_and(|content| !content.demand.is_empty());
        self.rebind(content, source, runs);
    }

    /// Changes what a source offers of a content, which is told whether that counts for how rare something is; false if one of the two
    /// is not known.
    fn change_offer(
        &mut self,
        id: ContentId,
        source: Source,
        change: impl FnOnce(&mut Content<Source, Subject>, bool),
    ) -> bool {
        if !self.contents.contains_key(&id) {
            return false;
        }
        let Some(state) = self.remember(source) else {
            return false;
        };
        let counts = state.class == Class::Peer;
        if let Some(content) = self.contents.get_mut(&id) {
            let before = content.offers.len();
            change(content, counts);
            let after = content.offers.len();
            self.offers_changed(source, before, after);
        }
        self.changed.insert(source);
        true
    }

    /// Others were quicker to get what this node has asked for of somebody who has all: it is asked for something else,
    /// that nobody else has, as long as it has sent nothing. So what one copy leaves is not the same parts.
    fn rebind(&mut self, id: ContentId, source: Source, runs: &[Range<u32>]) {
        let Some(content) = self.contents.get(&id) else {
            return;
        };
        let is_in_vain = |number: u32| {
            let want = content.wants.get(&number)?;
            let &[carrier] = want.transfers.as_slice() else {
                return None;
            };
            let transfer = self.transfers.get(&carrier)?;
            let is_new = content.spread_of(number) == 1 && want.priority == Priority::Background;
            let is_unsent = transfer.parts.len() == 1 && transfer.last_progress == transfer.started;
            let offer = content.offers.get(&transfer.source)?;
            let is_in_vain = is_new && is_unsent && offer.is_whole() && transfer.source != source;
            is_in_vain.then_some(carrier)
        };
        let numbers = runs
            .iter()
            .flat_map(|run| run.start..run.end.min(content.extent.parts));
        let in_vain: Vec<TransferId> = numbers.filter_map(is_in_vain).collect();
        let is_rare = |number| content.spread_of(number) == 0;
        let asks_for_others = !in_vain.is_empty() && content.background.iter().any(is_rare);
        for transfer in in_vain.into_iter().filter(|_| asks_for_others) {
            self.stop(transfer);
        }
    }

    /// A packet to a source and back took so long.
    pub fn measured(&mut self, source: Source, round_trip: Duration) {
        if let Some(source) = self.remember(source) {
            source.measured(round_trip);
        }
    }

    /// A source cannot be reached any more: its transfers end, and it offers nothing until it does so anew.
    pub fn gone(&mut self, source: Source) {
        let Some(state) = self.sources.get(&source) else {
            return;
        };
        for transfer in state.transfers.clone() {
            self.stop(transfer);
        }
        for content in self.contents.values_mut() {
            content.withdraw(source);
        }
        self.sources.remove(&source);
        self.changed.remove(&source);
    }

    /// A source sent wrong bytes: it is never asked again. False if that was known already.
    pub fn ban(&mut self, source: Source) -> bool {
        if self.banned.put(source, ()).is_some() {
            return false;
        }
        self.gone(source);
        true
    }

    /// The search for sources that [`Action::Seek`](super::Action::Seek) asked for is over.
    pub fn sought(&mut self, content: ContentId, now: Instant) {
        if let Some(content) = self.contents.get_mut(&content) {
            content.seeking = false;
            content.sought = Some(now);
        }
        self.newly_wanted.insert(content);
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

    /// The last of a part's bytes came, which are so many; it is not verified and stored yet. To be told as soon as it
    /// is so: the source can be asked for more.
    pub fn arrived(&mut self, transfer: TransferId, part: Part, bytes: u64, now: Instant) {
        let (id, number) = (transfer, part.number());
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        let (source, priority, through) = (transfer.source, transfer.priority, transfer.through);
        transfer.last_progress = transfer.last_progress.max(now);
        let took = now.saturating_duration_since(transfer.started);
        let Some(state) = self.sources.get_mut(&source) else {
            return;
        };
        state.pace.came(bytes, now);
        state.sent(now);
        let Some(part) = transfer.part_mut(number).filter(|part| part.length > 0) else {
            return;
        };
        if part.is_alone {
            state.pace.lone_part(took);
        }
        if priority == Priority::Demand && !through {
            state.pace.part_took(took, part.expected);
            let (expected, bulk) = (part.expected, self.bulk.bytes);
            self.give_way
                .demand_came(took, expected, part.length, bulk, now);
        }
        let carried = super::Carried {
            hedge_at: part.hedge_at.take(),
            ..*part
        };
        part.length = 0;
        self.off_the_line(id, source, priority, &carried);
    }

    /// A part was received, verified and stored.
    pub fn received(&mut self, transfer: TransferId, content: ContentId, part: Part, now: Instant) {
        let number = part.number();
        if let Some(bringing) = self.transfers.get(&transfer) {
            if let Some(source) = self.sources.get_mut(&bringing.source) {
                self.demand_changed |= source.succeeded();
            }
            let expected = bringing.part(number).map_or(0, |part| part.length);
            if expected > 0 {
                self.arrived(transfer, part, expected, now);
            }
        }
        if let Some(want) = self.take_want(content, number) {
            self.release(&want, number, Some(transfer));
            for ticket in want.tickets {
                self.part_complete(ticket, number);
            }
        }
    }

    fn part_complete(&mut self, ticket: Ticket, number: u32) {
        let Some(order) = self.orders.get_mut(&ticket) else {
            return;
        };
        order.missing.remove(&number);
        if order.missing.is_empty() {
            self.remove_order(ticket);
            self.finish(ticket, Outcome::Complete);
        }
    }

    /// A part was received and verified, and the store could not take it.
    pub fn unstorable(&mut self, content: ContentId, part: Part, reason: i32) {
        let number = part.number();
        if let Some(want) = self.take_want(content, number) {
            self.release(&want, number, None);
            for ticket in want.tickets {
                if self.remove_order(ticket) {
                    self.finish(ticket, Outcome::Unstorable(reason));
                }
            }
        }
    }

    /// A transfer is over.
    pub fn ended(&mut self, transfer: TransferId, end: End, now: Instant) {
        let Some(ended) = self.close(transfer) else {
            return;
        };
        let source = ended.source;
        if let Some(state) = self.sources.get_mut(&source) {
            match end {
                End::Answered => state.answered(),
                End::Failed => {
                    let until = state.failed(ended.started, now, &self.limits);
                    self.rests.insert((until, source));
                }
                End::Busy { retry_after } => {
                    let until = state.busy(ended.priority, retry_after, now, &self.limits);
                    self.rests.extend(until.map(|until| (until, source)));
                }
            }
        }
        if end != End::Answered {
            self.suggest_again(&ended);
        }
        if ended.through && end == End::Answered && !ended.parts.is_empty() {
            self.refused_through(source, now);
        } else if let (End::Answered, Some(content)) = (end, self.contents.get_mut(&ended.content))
        {
            let before = content.offers.len();
            for part in &ended.parts {
                content.lacks(source, ended.content.part(part.number));
            }
            let after = content.offers.len();
            self.offers_changed(source, before, after);
        }
    }

    /// There are more or fewer offers of a content now: one of this source.
    fn offers_changed(&mut self, source: Source, before: usize, after: usize) {
        if let Some(state) = self.sources.get_mut(&source) {
            state.offers = state.offers + after - before;
        }
    }

    /// What is known of a source, unless it lied or there are too many.
    fn remember(&mut self, source: Source) -> Option<&mut SourceState> {
        let is_known = self.sources.contains_key(&source);
        if self.banned.contains(&source) {
            return None;
        }
        if !is_known && self.sources.len() >= self.limits.sources {
            self.forget_sources();
            if self.sources.len() >= self.limits.sources {
                return None;
            }
        }
        Some(self.sources.entry(source).or_insert_with(SourceState::new))
    }
}
