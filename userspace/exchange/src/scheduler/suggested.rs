// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node that has all of a pack suggests to be asked for: to each of those who fetch it something else, so that
//! one copy leaves it before a second, whoever knows of whom.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::limits::SUGGESTED_MAX;
use crate::{Priority, Suggestion};

use super::bulk::{Pick, Room};
use super::chunk_set::ChunkSet;
use super::content::Content;
use super::transfer::Transfer;
use super::{Action, Class, ContentId, Scheduler};

/// Who does not answer for so long is asked for chunks without its suggestions.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who suggests nothing, or nothing of use, is asked for that again after this time.
const AGAIN: Duration = Duration::from_secs(10);
/// What others are being sent is waited for so long at most, and asked about no sooner than after the other time.
const WAIT_MAX: Duration = Duration::from_secs(10);
const WAIT_MIN: Duration = Duration::from_millis(50);
/// The packs about which a source is asked at a time.
const CONTENTS: usize = 4;

/// What a source suggests of a content.
#[derive(Debug, Default)]
pub(super) struct Suggested {
    numbers: VecDeque<u32>,
    state: State,
    /// How long its last answer took.
    answer_took: Duration,
    /// What was taken of it since it was asked last, and when that was.
    taken: usize,
    asked: Option<Instant>,
    /// Since when it has only said that others are being sent what is left.
    waits_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// It was never asked.
    #[default]
    New,
    /// It was asked at this time; the first time, as long as nothing was asked of it without its word.
    Asked { at: Instant, is_first: bool },
    /// It suggested something.
    Open,
    /// Others are being sent what is left, until then.
    Later(Instant),
    /// It is asked without suggestions until then.
    Any(Instant),
}

/// What comes of what a source suggests.
pub(super) enum Suggests {
    /// It is to be asked for this.
    This(Pick),
    /// It is not to be asked for what nobody has but it, before then.
    Nothing(Instant),
    /// It can be asked for anything.
    Any,
}

impl<Source, Subject> Scheduler<Source, Subject>
where
    Source: Copy + Hash + Ord,
    Subject: Clone,
{
    /// A peer answers what it suggests to be asked for of a pack. One that does not answer that suggests
    /// [`Suggestion::Any`].
    pub fn suggested(
        &mut self,
        id: ContentId,
        source: Source,
        suggestion: Suggestion,
        now: Instant,
    ) {
        let Some(content) = self.contents.get_mut(&id) else {
            return;
        };
        let parts = content.extent.parts;
        if let Some(offer) = content.offers.get_mut(&source) {
            let pending = &content.background;
            offer.suggested.answer(suggestion, parts, pending, now);
            self.changed.insert(source);
        }
    }

    /// What a source is to be asked for by its own word, of what nobody has who has not all.
    pub(super) fn pick_suggested(&mut self, source: Source, room: &Room, now: Instant) -> Suggests {
        let Some(state) = self.sources.get(&source) else {
            return Suggests::Any;
        };
        if state.class != Class::Peer || state.identity.is_none() {
            return Suggests::Any;
        }
        let is_idle = state.bulk.parts == 0;
        let listed = &self.listed.background;
        let last = state.cursor.map(|(id, _)| id);
        let last = last.filter(|id| listed.contains(id));
        let packs = listed.iter().copied().filter(ContentId::is_pack);
        let others = packs.filter(|id| Some(*id) != last);
        let is_shared = |id: &ContentId| {
            let offered = self.offer_of(*id, source);
            offered.is_some_and(|(content, offer)| offer.is_whole() && content.is_anything_new())
        };
        let ids: Vec<ContentId> = last
            .into_iter()
            .chain(others)
            .filter(is_shared)
            .take(CONTENTS)
            .collect();
        for &id in &ids {
            let numbers = self.with_suggested(id, source, |suggested, content| {
                suggested.next(content, room.most(content.extent.part_length))
            });
            let numbers = numbers.unwrap_or_default();
            if !numbers.is_empty() {
                self.ask_what(id, source, now);
                return Suggests::This(Pick {
                    content: id,
                    priority: Priority::Background,
                    numbers,
                });
            }
        }
        let mut again: Option<Instant> = None;
        for id in ids {
            self.ask_what(id, source, now);
            let rests = self.with_suggested(id, source, |suggested, _| {
                let until = suggested.rests_until(is_idle, now);
                (until, matches!(suggested.state, State::Asked { .. }))
            });
            let Some((until, is_asked)) = rests else {
                continue;
            };
            let Some(until) = until else {
                return Suggests::Any;
            };
            again = Some(again.map_or(until, |again| again.min(until)));
            // Of one after the other: what is suggested is suggested to nobody else, and would lie here until that of the first
            // has come.
            if is_asked {
                break;
            }
        }
        again.map_or(Suggests::Any, Suggests::Nothing)
    }

    /// A transfer broke off: what it was to bring is asked of its source again as if that had just suggested it. It has not sent
    /// it, and suggests it to nobody else for a while.
    pub(super) fn suggest_again(&mut self, transfer: &Transfer<Source>) {
        if transfer.priority != Priority::Background {
            return;
        }
        self.with_suggested(transfer.content, transfer.source, |suggested, _| {
            for part in transfer.parts.iter().rev() {
                if suggested.numbers.len() < SUGGESTED_MAX {
                    suggested.numbers.push_front(part.number);
                }
            }
        });
    }

    /// Asks a source what it suggests of a content, if it is time to.
    fn ask_what(&mut self, id: ContentId, source: Source, now: Instant) {
        let asks = self.with_suggested(id, source, |suggested, _| suggested.asks(now));
        let content = self.contents.get(&id);
        if let (Some(Some(count)), Some(content)) = (asks, content) {
            let subject = content.subject.clone();
            self.actions.push(Action::Suggest {
                content: id,
                source,
                count,
                subject,
            });
        }
    }

    /// Does something with what a source suggests of a content.
    fn with_suggested<T>(
        &mut self,
        id: ContentId,
        source: Source,
        with: impl FnOnce(&mut Suggested, &Content<Source, Subject>) -> T,
    ) -> Option<T> {
        let content = self.contents.get_mut(&id)?;
        let mut suggested = content.suggested_of(source)?;
        let done = with(&mut suggested, content);
        content.suggests(source, suggested);
        Some(done)
    }
}

impl<Source: Copy + Ord, Subject> Content<Source, Subject> {
    /// Whether a part that nobody is in a hurry for is pending that nobody has who has not all.
    fn is_anything_new(&self) -> bool {
        let mut pending = self.background.iter();
        pending.any(|number| self.spread_of(number) == 0)
    }

    /// Takes what a source suggests out of what it offers.
    fn suggested_of(&mut self, source: Source) -> Option<Suggested> {
        let offer = self.offers.get_mut(&source)?;
        Some(std::mem::take(&mut offer.suggested))
    }

    /// Puts it back.
    fn suggests(&mut self, source: Source, suggested: Suggested) {
        if let Some(offer) = self.offers.get_mut(&source) {
            offer.suggested = suggested;
        }
    }
}

impl Suggested {
    fn answer(&mut self, suggestion: Suggestion, parts: u32, pending: &ChunkSet, now: Instant) {
        let anything = State::Any(now + AGAIN);
        if let State::Asked { at, .. } = self.state {
            self.answer_took = now.saturating_duration_since(at);
        }
        self.state = match suggestion {
            Suggestion::Chunks(runs) => {
                let numbers = runs
                    .into_iter()
                    .flat_map(|run| run.start..run.end.min(parts));
                let numbers: Vec<u32> = numbers.take(SUGGESTED_MAX).collect();
                let of_use = numbers.iter().filter(|&&number| pending.contains(number));
                let of_use = of_use.count();
                let room = SUGGESTED_MAX.saturating_sub(self.numbers.len());
                self.waits_since = None;
                self.numbers.extend(numbers.iter().take(room));
                // Who has much of it already is not helped by what it does not need.
                if 2 * of_use > numbers.len() {
                    State::Open
                } else {
                    anything
                }
            }
            Suggestion::Later(after) => {
                let until = now + after.max(WAIT_MIN);
                let latest = *self.waits_since.get_or_insert(now) + WAIT_MAX;
                if until < latest {
                    State::Later(until)
                } else {
                    self.waits_since = None;
                    anything
                }
            }
            Suggestion::Any => anything,
        };
    }

    /// The next ones, if they are still pending and nobody has them who has not all: those that lie together.
    fn next<Source: Copy + Ord, Subject>(
        &mut self,
        content: &Content<Source, Subject>,
        most: usize,
    ) -> Vec<u32> {
        let mut next: Vec<u32> = Vec::new();
        while let Some(&number) = self.numbers.front() {
            if content.background.contains(number) && content.spread_of(number) == 0 {
                let goes_on = next.last().is_none_or(|&last| last + 1 == number);
                if next.len() == most || !goes_on {
                    break;
                }
                next.push(number);
                self.taken += 1;
            }
            self.numbers.pop_front();
        }
        next
    }

    /// How many it is to be asked to suggest now: as many as are taken in twice the time that it takes to answer, and no more, for others wait
    /// for them.
    fn asks(&mut self, now: Instant) -> Option<usize> {
        let ahead = self.taken_in(2 * self.answer_took, now);
        let can_be_asked = match self.state {
            State::New | State::Open => true,
            State::Asked { at, .. } => at + PATIENCE + AGAIN <= now,
            State::Later(until) | State::Any(until) => until <= now,
        };
        if !can_be_asked || self.numbers.len() > ahead + 1 {
            return None;
        }
        let is_first = matches!(self.state, State::New);
        self.asked = Some(now);
        self.taken = 0;
        self.state = State::Asked { at: now, is_first };
        let count = (2 * ahead + 3).saturating_sub(self.numbers.len());
        Some(count.min(SUGGESTED_MAX))
    }

    /// What is taken in so long a time, as it was since it was asked last.
    fn taken_in(&self, time: Duration, now: Instant) -> usize {
        let since = self.asked.map(|asked| now.saturating_duration_since(asked));
        let since = since.filter(|since| !since.is_zero()).unwrap_or(time);
        let part = time.as_secs_f64() / since.as_secs_f64().max(1e-9);
        (self.taken as f64 * part) as usize
    }

    /// Until when it is to be asked for nothing without its word.
    fn rests_until(&mut self, is_idle: bool, now: Instant) -> Option<Instant> {
        let until = match &mut self.state {
            State::New | State::Open | State::Any(_) => return None,
            // Once, so that the time to it and back is not lost.
            State::Asked { is_first, .. } if *is_first && is_idle => {
                *is_first = false;
                return None;
            }
            State::Asked { at, .. } => *at + PATIENCE,
            State::Later(until) => *until,
        };
        (until > now).then_some(until)
    }
}
