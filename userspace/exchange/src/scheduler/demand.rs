// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a reader waits for: the source from which it should come soonest, and a second one if it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::Priority;

use super::through::PATIENCE_MIN;
use super::wake::due;
use super::{Class, ContentId, Part, Scheduler, TransferId};

/// The sources that may be asked for the same part.
const CARRIERS_MAX: usize = 3;

/// What a source is about to be asked for.
#[derive(Default)]
struct Planned {
    bytes: u64,
    batches: Vec<Batch>,
}

struct Batch {
    content: ContentId,
    /// Whether the source is to fetch them first.
    through: bool,
    parts: Vec<u32>,
}

/// Who is to be asked for a part.
struct Choice<Source> {
    source: Source,
    /// Whether it is to fetch it first.
    through: bool,
    /// The part's bytes.
    length: u64,
}

/// Who is about to be asked for what.
type Plan<Source> = BTreeMap<Source, Planned>;

#[derive(Clone, Copy)]
struct Candidate<Source> {
    source: Source,
    /// The last that are asked: a reader's part is overdue there; it is an origin.
    last: (bool, bool),
    is_measured: bool,
    expected: Duration,
    load: u64,
}

impl<Source, Subject> Scheduler<Source, Subject>
where
    Source: Copy + Hash + Ord,
    Subject: Clone,
{
    /// Has sources asked for what readers wait for, and second ones for what is overdue.
    pub(super) fn assign_demand(&mut self, now: Instant) {
        for (transfer, number) in std::mem::take(&mut self.hastened) {
            self.arm_hedge(transfer, number, now);
        }
        if std::mem::take(&mut self.demand_changed) {
            self.assign_pending_demand(now);
        }
        while let Some((_, transfer, number)) = due(&mut self.hedges, now, |hedge| hedge.0) {
            self.hedge(transfer, number, now);
        }
    }

    fn assign_pending_demand(&mut self, now: Instant) {
        let mut pending: Vec<(u64, ContentId, u32)> = Vec::new();
        for &id in &self.listed.demand {
            let demand = self.contents.get(&id).map(|content| &content.demand);
            let parts = demand.into_iter().flatten();
            pending.extend(parts.map(|&(sequence, number)| (sequence, id, number)));
        }
        pending.sort_unstable();
        let (mut plan, mut transfers) = (Plan::new(), self.transfers.len());
        for (_, id, number) in pending {
            let Some(Choice {
                source,
                through,
                length,
            }) = self.choose(id, number, &[], &plan, now)
            else {
                continue;
            };
            let planned = plan.entry(source).or_default();
            let most = self.limits.parts_per_transfer;
            let open = planned.batches.last_mut();
            let goes_on = |batch: &&mut Batch| {
                batch.content == id && batch.through == through && batch.parts.len() < most
            };
            match open.filter(goes_on) {
                Some(batch) => batch.parts.push(number),
                None if transfers >= self.limits.transfers => break,
                None => {
                    planned.batches.push(Batch {
                        content: id,
                        through,
                        parts: vec![number],
                    });
                    transfers += 1;
                }
            }
            planned.bytes += length;
            self.budget.demand(length, now);
        }
        for (source, planned) in plan {
            for Batch {
                content,
                through,
                parts,
            } in planned.batches
            {
                let how = (Priority::Demand, through);
                self.start(source, content, how, &parts, now);
            }
        }
    }

    /// The source to be asked for a part that a reader waits for.
    fn choose(
        &mut self,
        id: ContentId,
        number: u32,
        except: &[Source],
        plan: &Plan<Source>,
        now: Instant,
    ) -> Option<Choice<Source>> {
        let content = self.contents.get(&id)?;
        let length = content.extent.part_length.max(1);
        let slots = self.limits.transfers_per_source;
        let mut candidates: Vec<Candidate<Source>> = Vec::new();
        for (&source, offer) in &content.offers {
            let Some(state) = self.sources.get(&source) else {
                continue;
            };
            if !offer.has(number) || !state.takes(Priority::Demand, now) {
                continue;
            }
            let planned = plan.get(&source);
            let (bytes, batches) = planned.map_or((0, 0), |p| (p.bytes, p.batches.len()));
            if state.transfers.len() + batches >= slots || except.contains(&source) {
                continue;
            }
            candidates.push(Candidate {
                source,
                last: (state.is_suspect, state.class == Class::Origin),
                is_measured: state.pace.is_measured(),
                expected: state.expected_demand(bytes + length),
                load: state.bytes() + bytes,
            });
        }
        let first = candidates.iter().map(|candidate| candidate.last).min()?;
        let (_, is_origin) = first;
        if is_origin && except.is_empty() {
            if let Some(source) = self.fetches_through(id, number, Priority::Demand, now) {
                let through = true;
                return Some(Choice {
                    source,
                    through,
                    length,
                });
            }
        }
        candidates.retain(|candidate| candidate.last == first);
        // A reader does not explore: whoever is new is measured by what nobody waits for.
        if candidates.iter().filter(|c| c.is_measured).count() >= 2 {
            candidates.retain(|candidate| candidate.is_measured);
        }
        let soonest = candidates
            .iter()
            .map(|candidate| candidate.expected)
            .min()?;
        candidates.retain(|candidate| candidate.expected <= soonest * 5 / 4);
        let one = self.random.choice(&candidates)?;
        let other = self.random.choice(&candidates)?;
        let lesser = if other.load < one.load { other } else { one };
        Some(Choice {
            source: lesser.source,
            through: false,
            length,
        })
    }

    /// Somebody waits now for parts that may be on their way for nobody in a hurry. Has those asked for once more,
    /// before others, that come behind many for which nobody waits; those that come soon are not worth carrying twice.
    pub(super) fn hasten(&mut self, id: ContentId, numbers: &BTreeSet<u32>) {
        let Some(content) = self.contents.get_mut(&id) else {
            return;
        };
        for &number in numbers {
            let Some(&[carrier]) = content.wants.get(&number).map(|w| w.transfers.as_slice())
            else {
                continue;
            };
            let Some(transfer) = self.transfers.get(&carrier) else {
                continue;
            };
            if transfer.priority == Priority::Demand {
                continue;
            }
            let before = self.sources.get(&transfer.source).into_iter();
            let before = before.flat_map(|state| state.transfers.range(..carrier));
            let before: usize = before
                .filter_map(|id| self.transfers.get(id))
                .filter(|other| other.priority != Priority::Demand)
                .map(|other| other.parts.len())
                .sum();
            let parts = transfer.parts.iter();
            let before = before + parts.take_while(|part| part.number != number).count();
            if before >= self.limits.overtake_from {
                content.want_again(number);
            } else {
                self.hastened.insert((carrier, number));
            }
        }
    }

    /// How long a part may take of which so much is expected, before a second source is asked.
    fn hedge_delay(&self, source: Source, expected: Duration) -> Duration {
        let Some(state) = self.sources.get(&source) else {
            return self.limits.hedge_after_far;
        };
        let least = if state.pace.is_near() || state.class == Class::Directory {
            self.limits.hedge_after_near
        } else {
            self.limits.hedge_after_far
        };
        // No deadline is so far away.
        let most = Duration::from_secs(3600);
        expected.min(most).mul_f64(state.pace.patience()).max(least)
    }

    /// Notes when a second source is to be asked for a part that a reader waits for.
    pub(super) fn arm_hedge(&mut self, id: TransferId, number: u32, now: Instant) {
        let Some(transfer) = self.transfers.get(&id) else {
            return;
        };
        let want = self.contents.get(&transfer.content);
        let want = want.and_then(|content| content.wants.get(&number));
        let Some(part) = transfer.part(number) else {
            return;
        };
        if want.is_none_or(|want| want.priority != Priority::Demand) || part.length == 0 {
            return;
        }
        let state = self.sources.get(&transfer.source);
        if transfer.through {
            let at = now + part.expected;
            return self.set_hedge(id, number, at);
        }
        let expected = match transfer.priority {
            Priority::Demand => part.expected,
            // After all that is on its way.
            _ => state.map_or(part.expected, |state| state.expected_last(0)),
        };
        let at = now + self.hedge_delay(transfer.source, expected);
        self.set_hedge(id, number, at);
    }

    fn set_hedge(&mut self, id: TransferId, number: u32, at: Instant) {
        let transfer = self.transfers.get_mut(&id);
        if let Some(part) = transfer.and_then(|transfer| transfer.part_mut(number)) {
            if let Some(before) = part.hedge_at.replace(at) {
                self.hedges.remove(&(before, id, number));
            }
            self.hedges.insert((at, id, number));
        }
    }

    /// A part is overdue: asks a second source for it.
    fn hedge(&mut self, id: TransferId, number: u32, now: Instant) {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        let (content, source, through) = (transfer.content, transfer.source, transfer.through);
        let (started, progress) = (transfer.started, transfer.last_progress);
        let Some(part) = transfer.part_mut(number) else {
            return;
        };
        part.hedge_at = None;
        let expected = part.expected;
        // How long a blob is, only its source knows: it is waited for as long as it keeps coming.
        let is_coming = progress > started && content.part(number) == Part::Whole;
        let coming_until = progress + self.hedge_delay(source, expected);
        if is_coming && coming_until > now {
            self.set_hedge(id, number, coming_until);
            return;
        }
        let offered = self.offer_of(content, source);
        let has_it = offered.is_some_and(|(_, offer)| offer.has(number));
        if through && !has_it {
            self.late_through(source, now);
        } else if let Some(state) = self.sources.get_mut(&source).filter(|_| !through) {
            state.is_suspect |= state.last_sent().is_none_or(|sent| sent <= started);
        }
        let want = self.contents.get(&content);
        let want = want.and_then(|content| content.wants.get(&number));
        let Some(want) = want.filter(|want| want.priority == Priority::Demand) else {
            return;
        };
        let carriers = want
            .transfers
            .iter()
            .filter_map(|id| self.transfers.get(id));
        let carriers: Vec<Source> = carriers.map(|transfer| transfer.source).collect();
        if carriers.len() >= CARRIERS_MAX {
            return;
        }
        let second = if self.transfers.len() < self.limits.transfers {
            self.choose(content, number, &carriers, &Plan::new(), now)
        } else {
            None
        };
        // What others share is not asked of an origin because a neighbour has much to send at the moment.
        let waited = now.saturating_duration_since(started);
        let is_origin = |source| {
            let state = self.sources.get(source);
            state.is_some_and(|state| state.class == Class::Origin)
        };
        let turns_to_origin = second
            .as_ref()
            .is_some_and(|second| is_origin(&second.source))
            && !is_origin(&source);
        // Who was to fetch the part has it by now, or has had the time to.
        let patience = match (through, has_it) {
            (true, true) => 2 * expected,
            (true, false) => Duration::ZERO,
            (false, _) => PATIENCE_MIN.max(2 * self.hedge_delay(source, expected)),
        };
        if waited < patience && turns_to_origin {
            self.set_hedge(id, number, started + patience);
            return;
        }
        match second {
            Some(Choice { source, length, .. }) if through || self.budget.hedge(length, now) => {
                let how = (Priority::Demand, false);
                self.start(source, content, how, &[number], now);
            }
            second => {
                if let (None, Some(content)) = (second, self.contents.get_mut(&content)) {
                    content.lacks_sources = true;
                }
                let again = self.hedge_delay(source, expected).max(waited / 2);
                self.set_hedge(id, number, now + again);
            }
        }
    }
}
