// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which source is asked for which parts.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::Priority;

use super::source::SourceState;
use super::transfer::Transfer;
use super::{Action, ContentId, Part, Scheduler, TransferId};

impl<Source, Subject> Scheduler<Source, Subject>
where
    Source: Copy + Hash + Ord,
    Subject: Clone,
{
    /// Starts transfers until no source can take one.
    pub(super) fn assign(&mut self, now: Instant) {
        loop {
            let mut started = false;
            for source in self.free_sources(now) {
                if self.transfers.len() >= self.limits.transfers {
                    return;
                }
                if let Some((content, priority, parts)) = self.choose(source, now) {
                    self.start(source, content, priority, parts, now);
                    started = true;
                }
            }
            if !started {
                return;
            }
        }
    }

    /// Has parts that a reader waits for asked for once more, before others, if they are on their way
    /// behind many that nobody waits for. Those that come soon are not worth carrying twice.
    pub(super) fn overtake(&mut self, id: ContentId, parts: &BTreeSet<Part>) {
        let Some(content) = self.contents.get_mut(&id) else {
            return;
        };
        for &part in parts {
            let Some(want) = content.wants.get(&part) else {
                continue;
            };
            let &[id] = want.transfers.as_slice() else {
                continue;
            };
            let Some(transfer) = self.transfers.get(&id) else {
                continue;
            };
            let before_it = self
                .transfers
                .range(..id)
                .filter(|(_, other)| {
                    other.source == transfer.source && other.priority != Priority::Demand
                })
                .map(|(_, other)| other.parts.len())
                .sum::<usize>()
                + transfer
                    .parts
                    .iter()
                    .take_while(|&&other| other != part)
                    .count();
            if transfer.priority != Priority::Demand && before_it >= self.limits.overtake_from {
                content.pending.insert((want.priority, want.sequence, part));
            }
        }
    }

    /// Asks a second source for what a reader waits for when the first one makes no progress.
    pub(super) fn hedge(&mut self, now: Instant) {
        for id in self.slow_transfers(now) {
            for (source, (content, parts)) in self.second_sources(id, now) {
                if self.transfers.len() >= self.limits.transfers {
                    return;
                }
                self.start(source, content, Priority::Demand, parts, now);
            }
        }
    }

    /// Asks for sources: soon for contents of which the most urgent part has none that delivers,
    /// now and then for all others that are wanted.
    pub(super) fn seek(&mut self, now: Instant) {
        let slow: BTreeSet<ContentId> = self
            .transfers
            .values()
            .filter(|transfer| transfer.is_slow)
            .map(|transfer| transfer.content)
            .collect();
        let sources = &self.sources;
        for (&id, content) in &mut self.contents {
            if content.seeking || content.wants.is_empty() {
                continue;
            }
            let is_offered = |priority, part| {
                content.offers.iter().any(|(source, offer)| {
                    let takes = sources.get(source).is_some_and(|s| s.takes(priority, now));
                    takes && offer.has(part)
                })
            };
            let is_served = !slow.contains(&id)
                && content
                    .pending
                    .first()
                    .is_none_or(|&(priority, _, part)| is_offered(priority, part));
            let interval = if is_served {
                self.limits.seek_again_after
            } else {
                self.limits.seek_interval
            };
            if content.sought.is_none_or(|sought| sought + interval <= now) {
                content.seeking = true;
                self.actions.push(Action::Seek {
                    content: id,
                    subject: content.subject.clone(),
                });
            }
        }
    }

    /// The transfers that have brought no part for longer than one should wait.
    pub(super) fn slow_transfers(&self, now: Instant) -> Vec<TransferId> {
        self.transfers
            .iter()
            .filter(|(_, transfer)| transfer.last_part + self.patience(transfer) <= now)
            .map(|(&id, _)| id)
            .collect()
    }

    /// How long a transfer may bring no part before a second source is asked too: longer for one
    /// that is known to be slow, so that a slow line is not asked to carry everything twice.
    pub(super) fn patience(&self, transfer: &Transfer<Source>) -> Duration {
        let pace = self
            .sources
            .get(&transfer.source)
            .and_then(SourceState::pace)
            .unwrap_or_default();
        self.limits.hedge_after.max(4 * pace)
    }

    /// The sources that can take a transfer, the quickest first.
    fn free_sources(&self, now: Instant) -> Vec<Source> {
        let mut free: Vec<(f64, Source)> = self
            .sources
            .iter()
            .filter(|(_, state)| {
                state.is_usable(now) && state.transfers < self.limits.transfers_per_source
            })
            .map(|(&source, state)| (state.speed(), source))
            .collect();
        free.sort_by(|a, b| b.0.total_cmp(&a.0));
        free.into_iter().map(|(_, source)| source).collect()
    }

    /// The most urgent content that the source has something of, and its share of the parts that
    /// are as urgent.
    fn choose(&self, source: Source, now: Instant) -> Option<(ContentId, Priority, Vec<Part>)> {
        let state = self.sources.get(&source)?;
        let last_slot = state.transfers + 1 >= self.limits.transfers_per_source;
        let (first, id) = self
            .contents
            .iter()
            .filter_map(|(&id, content)| {
                let offer = content.offers.get(&source)?;
                let first = content.pending.iter().find(|rank| offer.has(rank.2))?;
                Some((*first, id))
            })
            .min()?;
        let (priority, ..) = first;
        if last_slot && priority != Priority::Demand || !state.takes(priority, now) {
            return None;
        }
        let content = self.contents.get(&id)?;
        let parts = content
            .pending
            .range(first..)
            .take_while(|rank| rank.0 == priority)
            .map(|&(_, _, part)| part)
            .filter(|&part| content.has(source, part))
            .take(self.share(source, id, now))
            .collect();
        Some((id, priority, parts))
    }

    /// How many of a content's pending parts the source is asked for at once: in proportion to its
    /// speed among the sources that could be asked.
    fn share(&self, source: Source, content: ContentId, now: Instant) -> usize {
        let speed = |source: &Source| {
            self.sources
                .get(source)
                .filter(|state| state.is_usable(now))
                .map_or(0.0, |state| state.speed())
        };
        let Some(content) = self.contents.get(&content) else {
            return 0;
        };
        let all: f64 = content.offers.keys().map(speed).sum();
        let part = content.pending.len() as f64 * speed(&source) / all;
        // Any number makes a valid share after the clamp, even that of a division by zero.
        (part.ceil() as usize).clamp(1, self.limits.parts_per_transfer)
    }

    /// For the parts of a slow transfer that a reader waits for: other sources to ask.
    fn second_sources(
        &self,
        id: TransferId,
        now: Instant,
    ) -> BTreeMap<Source, (ContentId, Vec<Part>)> {
        let mut chosen = BTreeMap::new();
        let Some(slow) = self.transfers.get(&id) else {
            return chosen;
        };
        let Some(content) = self.contents.get(&slow.content) else {
            return chosen;
        };
        let free = self.free_sources(now);
        for &part in &slow.parts {
            let waits = content
                .wants
                .get(&part)
                .is_some_and(|want| want.priority == Priority::Demand && want.transfers.len() == 1);
            let takes = |source| {
                let state = self.sources.get(source);
                state.is_some_and(|state| state.takes(Priority::Demand, now))
            };
            let second = free.iter().find(|&source| {
                *source != slow.source && takes(source) && content.has(*source, part)
            });
            if let (true, Some(&source)) = (waits, second) {
                let (_, parts) = chosen
                    .entry(source)
                    .or_insert_with(|| (slow.content, Vec::new()));
                if parts.len() < self.limits.parts_per_transfer {
                    parts.push(part);
                }
            }
        }
        chosen
    }

    fn start(
        &mut self,
        source: Source,
        id: ContentId,
        priority: Priority,
        parts: Vec<Part>,
        now: Instant,
    ) {
        let transfer = TransferId(self.next());
        let Some(content) = self.contents.get_mut(&id) else {
            return;
        };
        for &part in &parts {
            content.assigned(part, transfer);
        }
        self.sources.entry(source).or_default().transfers += 1;
        self.transfers.insert(
            transfer,
            Transfer {
                source,
                content: id,
                priority,
                parts: parts.clone(),
                last_progress: now,
                last_part: now,
                is_slow: false,
            },
        );
        self.actions.push(Action::Start {
            transfer,
            source,
            content: id,
            parts,
            priority,
            subject: content.subject.clone(),
        });
    }
}
