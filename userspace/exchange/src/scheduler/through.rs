// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Fetch-through: readers on many nodes that wait for what only an origin has ask one of them for it, the same one for the same part,
//! and that asks the origin once for all.
//!
//! Who that is they find by the score that pulls are shared by ([`shares`](super::shares)), among the nodes nearby that
//! read the same and answer. One of them is asked for a part, and then the origin. Where they do not agree, the origin is asked a second time, and no more than that: what is asked for in this way is
//! never passed on.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::Priority;

use super::content::Content;
use super::shares::score;
use super::{Class, ContentId, Full, Order, Part, Scheduler, Ticket};

/// How long after it was asked for a part the origin itself is asked at the earliest.
pub(super) const PATIENCE_MIN: Duration = Duration::from_millis(300);
/// Who did not fetch what it was asked to is not asked to for so long.
const REFUSED: Duration = Duration::from_secs(30);
/// The parts that nobody waits for yet and that are looked at at a time.
const AHEAD_MAX: usize = 64;
/// Who was too slow to is not for so long.
const LATE: Duration = Duration::from_secs(5);

impl<Source, Subject> Scheduler<Source, Subject>
where
    Source: Copy + Hash + Ord,
    Subject: Clone,
{
    /// Accepts an order of another node's for a part of a pack, if an origin offers that here: it comes from there, or from whoever
    /// has it by then. `None` if nothing of the pack was ordered here lately, or no origin is known of.
    ///
    /// # Errors
    /// As for [`Scheduler::order`].
    pub fn order_through(
        &mut self,
        id: ContentId,
        part: Part,
        priority: Priority,
        deadline: Instant,
    ) -> Result<Option<Ticket>, Full> {
        let Some(content) = self.contents.get(&id) else {
            return Ok(None);
        };
        let number = part.number();
        if number >= content.extent.parts || self.origin_takes(content, number).is_none() {
            return Ok(None);
        }
        let order = Order {
            content: id,
            parts: vec![part],
            priority,
            deadline,
            extent: content.extent,
            subject: content.subject.clone(),
        };
        let ticket = self.order(order)?;
        if let Some(want) = self.want_directly(id, number) {
            // What somebody else was asked to fetch need not come from there: that one may wait for this node.
            let transfers = want.iter().filter_map(|id| self.transfers.get(id));
            if transfers.into_iter().all(|transfer| transfer.through) {
                if let Some(content) = self.contents.get_mut(&id) {
                    content.want_again(number);
                }
                self.relist(id);
                self.wake_offerers(id);
            }
        }
        Ok(Some(ticket))
    }

    /// Has a part asked of no other node that is to fetch it; returns the transfers that are to bring it.
    fn want_directly(&mut self, id: ContentId, number: u32) -> Option<Vec<super::TransferId>> {
        let want = self.contents.get_mut(&id)?.wants.get_mut(&number)?;
        want.is_direct = true;
        Some(want.transfers.clone())
    }

    /// How long an origin should take that has a part and is not left alone; the shortest time of all of them.
    fn origin_takes(&self, content: &Content<Source, Subject>, number: u32) -> Option<Duration> {
        let length = content.extent.part_length.max(1);
        let offers = content.offers.iter().filter(|(_, offer)| offer.has(number));
        let states = offers.filter_map(|(source, _)| self.sources.get(source));
        let origins = states.filter(|state| state.class == Class::Origin);
        origins.map(|state| state.expected_demand(length)).min()
    }

    /// The node that is to be asked for a part that only an origin has; `None` if that is this one.
    pub(super) fn fetches_through(
        &self,
        id: ContentId,
        number: u32,
        priority: Priority,
        now: Instant,
    ) -> Option<Source> {
        let content = self.contents.get(&id)?;
        let want = content.wants.get(&number)?;
        if !id.is_pack() || want.is_direct || self.is_at_peers(content, number, priority, now) {
            return None;
        }
        self.origin_takes(content, number)?;
        let slots = self.limits.transfers_per_source;
        let fellow = |source: &Source| {
            let state = self.sources.get(source)?;
            // Those do not do it, as a rule, and it would take long to be told so.
            let may = state.class == Class::Peer
                && !state.pace.is_far()
                && state.takes(priority, now)
                && state.transfers.len() < slots
                && state.fetches_from.is_none_or(|from| from <= now);
            let identity = state.identity.filter(|_| may)?;
            Some((score(id, Class::Origin, number, identity), *source))
        };
        let offers = content.offers.iter();
        // Who has it and is passed over is slow, or rests.
        let growing = offers.filter(|(_, offer)| !offer.is_whole() && !offer.has(number));
        let best = growing.filter_map(|(source, _)| fellow(source)).max();
        let own = score(id, Class::Origin, number, self.identity);
        best.filter(|(best, _)| *best > own)
            .map(|(_, source)| source)
    }

    /// The node that is to be asked for a part that somebody may come for soon, if one is.
    pub(super) fn fetches_ahead(&self, id: ContentId, number: u32, now: Instant) -> Option<Source> {
        self.fetches_through(id, number, Priority::Readahead, now)
    }

    /// Has others asked to fetch what somebody may come for soon and falls to them. Not each of them is looked at for each part, for
    /// there may be many.
    pub(super) fn assign_through(&mut self, now: Instant) {
        let mut left = AHEAD_MAX;
        let mut asked: BTreeMap<(Source, ContentId), Vec<u32>> = BTreeMap::new();
        for &id in self.listed.readahead.iter().filter(|id| id.is_pack()) {
            let Some(content) = self.contents.get(&id) else {
                continue;
            };
            for &(_, number) in content.readahead.iter().take(left) {
                left -= 1;
                if let Some(source) = self.fetches_ahead(id, number, now) {
                    asked.entry((source, id)).or_default().push(number);
                }
            }
        }
        for ((source, id), numbers) in asked {
            let room = self
                .sources
                .get(&source)
                .and_then(|state| self.room(state))
                .filter(|_| !self.is_full(now));
            let length = self
                .contents
                .get(&id)
                .map(|content| content.extent.part_length);
            if let (Some(room), Some(length)) = (room, length) {
                let most = room.most(length).min(numbers.len());
                let numbers = numbers.get(..most).unwrap_or_default();
                self.start(source, id, (Priority::Readahead, true), numbers, now);
            }
        }
    }

    /// How long a part should take that a source has to fetch first.
    pub(super) fn expected_through(&self, source: Source, id: ContentId, number: u32) -> Duration {
        let content = self.contents.get(&id);
        let origin = content.and_then(|content| self.origin_takes(content, number));
        let length = content.map_or(1, |content| content.extent.part_length.max(1));
        let state = self.sources.get(&source);
        let last = state.map(|state| state.expected_demand(length));
        (2 * (origin.unwrap_or_default() + last.unwrap_or_default())).max(PATIENCE_MIN)
    }

    /// A source did not fetch what it was asked to.
    pub(super) fn refused_through(&mut self, source: Source, now: Instant) {
        if let Some(state) = self.sources.get_mut(&source) {
            state.fetches_from = Some(now + REFUSED);
        }
    }

    /// A source has not fetched yet what it was asked to.
    pub(super) fn late_through(&mut self, source: Source, now: Instant) {
        if let Some(state) = self.sources.get_mut(&source) {
            state.fetches_from = state.fetches_from.max(Some(now + LATE));
        }
    }
}
