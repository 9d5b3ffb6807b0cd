// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is due: deadlines, stalled sources, searches; and what is forgotten.

use std::hash::Hash;
use std::time::Instant;

use super::{Action, ContentId, OrderState, Outcome, Scheduler, TransferId};

impl<Source, Subject> Scheduler<Source, Subject>
where
    Source: Copy + Hash + Ord,
    Subject: Clone,
{
    pub(super) fn wake(&mut self, now: Instant) {
        self.expire(now);
        while let Some((_, source)) = due(&mut self.rests, now, |rest| rest.0) {
            self.changed.insert(source);
            self.demand_changed = true;
        }
        while let Some((_, source)) = due(&mut self.stalls, now, |stall| stall.0) {
            self.stop_stalled(source, now);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, ticket)) = due(&mut self.deadlines, now, |deadline| deadline.0) {
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
        order.missing.iter().all(|&number| {
            content.offers.iter().any(|(source, offer)| {
                let reachable = self
                    .sources
                    .get(source)
                    .is_some_and(|s| !s.is_unreachable());
                reachable && offer.has(number)
            })
        })
    }

    /// Breaks off the transfers of a source that stall, and looks at it again when others might.
    fn stop_stalled(&mut self, source: Source, now: Instant) {
        let Some(state) = self.sources.get_mut(&source) else {
            return;
        };
        state.is_watched = false;
        // A source may answer its transfers one after the other: as long as it sends something, each of them has the
        // time of all.
        let (patience, count) = (self.limits.stall_after, state.transfers.len());
        let starved = patience.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let last_sent = state.last_sent();
        let stalled_at = |id: &TransferId| {
            let progress = self.transfers.get(id)?.last_progress;
            let (alone, starved) = (progress + patience, progress + starved);
            let silent = last_sent.map_or(alone, |sent| sent + patience);
            Some((silent.clamp(alone, starved.max(alone)), *id))
        };
        let mut transfers: Vec<(Instant, TransferId)> =
            state.transfers.iter().filter_map(stalled_at).collect();
        transfers.sort_unstable();
        let running = transfers.iter().find(|(at, _)| *at > now);
        if let Some(&(at, _)) = running {
            state.is_watched = true;
            self.stalls.insert((at.min(now + patience), source));
        }
        let stalled: Vec<TransferId> = transfers
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|&(_, id)| id)
            .collect();
        if stalled.is_empty() {
            return;
        }
        let until = state.failed(now, now, &self.limits);
        self.rests.insert((until, source));
        for id in stalled {
            self.stop(id);
        }
    }

    /// Asks for sources: soon for contents of which the most urgent part has none that delivers,
    /// now and then for all others that are wanted.
    pub(super) fn seek(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.newly_wanted) {
            let Some(content) = self.contents.get_mut(&id) else {
                continue;
            };
            if content.seeking || content.seek_at.is_some() || content.wants.is_empty() {
                continue;
            }
            let again = |sought| sought + self.limits.seek_interval;
            let at = content.sought.map_or(now, again);
            content.seek_at = Some(at);
            self.seeks.insert((at, id));
        }
        while let Some((_, id)) = due(&mut self.seeks, now, |seek| seek.0) {
            let is_due = self.is_search_due(id, now);
            let Some(content) = self.contents.get_mut(&id) else {
                continue;
            };
            content.seek_at = None;
            if content.wants.is_empty() || content.seeking {
                continue;
            }
            if is_due {
                content.seeking = true;
                content.first_sought.get_or_insert(now);
                content.lacks_sources = false;
                let subject = content.subject.clone();
                self.actions.push(Action::Seek {
                    content: id,
                    subject,
                });
            } else {
                let at = now + self.limits.seek_interval;
                content.seek_at = Some(at);
                self.seeks.insert((at, id));
            }
        }
    }

    /// Whether it is time to look for sources of a content again.
    fn is_search_due(&self, id: ContentId, now: Instant) -> bool {
        let Some(content) = self.contents.get(&id) else {
            return false;
        };
        let Some(sought) = content.sought else {
            return true;
        };
        if sought + self.limits.seek_again_after <= now || content.lacks_sources {
            return true;
        }
        content.most_urgent().is_some_and(|(priority, number)| {
            !content.offers.iter().any(|(source, offer)| {
                let state = self.sources.get(source);
                offer.has(number) && state.is_some_and(|state| state.takes(priority, now))
            })
        })
    }

    /// Forgets the contents that were used longest ago.
    pub(super) fn forget(&mut self) {
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
            let content = self.contents.remove(&id);
            for source in content.iter().flat_map(|content| content.offers.keys()) {
                if let Some(state) = self.sources.get_mut(source) {
                    state.offers -= 1;
                }
            }
        }
    }

    /// Forgets sources that offer nothing and are asked for nothing.
    pub(super) fn forget_sources(&mut self) {
        self.sources
            .retain(|_, state| state.offers > 0 || !state.transfers.is_empty());
    }
}

/// Takes the first of what is sorted by time, if it is due.
pub(super) fn due<T: Copy + Ord>(
    set: &mut std::collections::BTreeSet<T>,
    now: Instant,
    at: impl Fn(&T) -> Instant,
) -> Option<T> {
    let first = *set.first()?;
    (at(&first) <= now && set.remove(&first)).then_some(first)
}
