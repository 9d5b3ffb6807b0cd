// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What nobody waits for: bound late, the rarest first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::Priority;

use super::chunk_set::numbers;
use super::content::{Content, Offer, PEERS_ANSWER};
use super::shares::{Place, Share};
use super::source::SourceState;
use super::suggested::Suggests;
use super::{Class, ContentId, Scheduler};

/// A source always has so many parts on the way, however slow it is: one comes, and one is next.
const PARTS_MIN: usize = 2;
/// With so many parts on the way from all of them, one is enough.
const PARTS_ENOUGH: usize = 8;
/// What a source may have on the way is asked for in so many transfers.
const BATCHES: usize = 8;
/// The transfers of an origin when there are no peers: then each is as long as it may be.
const ORIGIN_TRANSFERS: usize = 3;
/// Contents that are looked at for the rarest chunk.
const CONTENTS: usize = 4;
/// After so many chunks, on average, a run is left for another place: for the same reason as for [`inner`].
const RUN: u32 = 8;
/// So much of a run is looked at in each direction.
const RUN_SEEN: u32 = 512;
/// A part is not asked of a second source before.
const OVERDUE_MIN: Duration = Duration::from_millis(100);

/// What a source is asked for at once.
pub(super) struct Room {
    parts: usize,
    bytes: u64,
}

pub(super) struct Pick {
    pub(super) content: ContentId,
    pub(super) priority: Priority,
    pub(super) numbers: Vec<u32>,
}

impl<Source, Subject> Scheduler<Source, Subject>
where
    Source: Copy + Hash + Ord,
    Subject: Clone,
{
    /// Has those sources asked for more of which something has changed.
    pub(super) fn assign_bulk(&mut self, now: Instant) {
        if self.is_full(now) {
            return;
        }
        // The nearest and quickest first; they take turns. Mostly there is room for one of many: so they are not sorted, and those that
        // do not get their turn stay where they are.
        let mut turn: BinaryHeap<_> = self
            .changed
            .iter()
            .map(|source| {
                let state = self.sources.get(source);
                let quick = state.map(|state| (state.class, state.expected_last(1)));
                Reverse((quick, self.random.u32(..), *source))
            })
            .collect();
        let mut filled = Vec::new();
        let mut is_first_round = true;
        while !self.is_full(now) {
            let Some(next) = turn.pop() else {
                if filled.is_empty() {
                    return;
                }
                turn.extend(filled.drain(..));
                is_first_round = false;
                continue;
            };
            let Reverse((_, _, source)) = next;
            self.changed.remove(&source);
            if self.fill(source, now) {
                filled.push(next);
            }
        }
        if is_first_round {
            turn.clear();
        }
        let waiting = turn.into_iter().chain(filled);
        self.changed
            .extend(waiting.map(|Reverse((_, _, source))| source));
    }

    /// Whether no more may be on the way that nobody waits for.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        let most = self.limits.transfers;
        let must_give_way = |limit| self.bulk.bytes >= limit;
        self.transfers.len() >= most
            || self.bulk.transfers >= most - most / 8
            || self.give_way.limit(now).is_some_and(must_give_way)
    }

    /// Asks a source for more, if it has room for it; false if not.
    fn fill(&mut self, source: Source, now: Instant) -> bool {
        let Some(pick) = self.pick(source, now) else {
            self.look_when_peers_answered(source, now);
            return false;
        };
        if pick.priority == Priority::Background {
            if let (Some(state), Some(&last)) = (self.sources.get_mut(&source), pick.numbers.last())
            {
                state.cursor = Some((pick.content, last));
            }
        }
        let how = (pick.priority, false);
        self.start(source, pick.content, how, &pick.numbers, now);
        true
    }

    fn pick(&mut self, source: Source, now: Instant) -> Option<Pick> {
        let state = self.sources.get(&source)?;
        let room = self.room(state)?;
        if !state.takes(Priority::Readahead, now) {
            return None;
        }
        if let Some(pick) = self.pick_readahead(source, &room, now) {
            return Some(pick);
        }
        if !state.takes(Priority::Background, now) {
            return None;
        }
        match self.pick_suggested(source, &room, now) {
            Suggests::This(pick) => return Some(pick),
            Suggests::Nothing(until) => {
                self.look_again(source, until, now);
                return None;
            }
            Suggests::Any => (),
        }
        match self.pick_background(source, &room, now) {
            Some(pick) => Some(pick),
            None => {
                let helps_at = self.sources.get(&source).and_then(SourceState::helps_at);
                if let Some(at) = helps_at.filter(|at| *at > now) {
                    self.look_again(source, at, now);
                }
                self.pick_again(source, now)
            }
        }
    }

    /// What a source may be asked for at once, if it may be asked for anything.
    pub(super) fn room(&self, state: &SourceState) -> Option<Room> {
        let slots = self.limits.transfers_per_source.saturating_sub(1).max(1);
        if state.bulk.transfers >= slots || state.transfers.len() > slots {
            return None;
        }
        let parts = self.limits.parts_per_transfer;
        if state.class == Class::Origin && !self.has_peers() {
            let is_free = state.bulk.transfers < ORIGIN_TRANSFERS;
            return is_free.then_some(Room {
                parts,
                bytes: u64::MAX,
            });
        }
        let window = state.pace.window(self.limits.window_ahead);
        let window = window.min(self.limits.window_max);
        let bytes = window / BATCHES.min(slots) as u64;
        let least = if self.bulk.parts < PARTS_ENOUGH {
            PARTS_MIN
        } else {
            1
        };
        let has_room = state.bulk.parts < least || state.bulk.bytes + bytes <= window;
        has_room.then_some(Room { parts, bytes })
    }

    fn has_peers(&self) -> bool {
        let mut sources = self.sources.values();
        sources.any(|state| state.class == Class::Peer)
    }

    /// Whether a source may be asked for a part that it has: an origin only if no peer can be, and not as long as peers were
    /// just asked whether they have it.
    fn may_ask(
        &self,
        class: Class,
        content: &Content<Source, Subject>,
        number: u32,
        now: Instant,
    ) -> bool {
        if class != Class::Origin {
            return true;
        }
        if content.is_first_sought(now) && self.has_peers() {
            return false;
        }
        !self.is_at_peers(content, number, Priority::Background, now)
    }

    /// Whether somebody has a part who is no origin and may be asked for something so urgent.
    pub(super) fn is_at_peers(
        &self,
        content: &Content<Source, Subject>,
        number: u32,
        priority: Priority,
        now: Instant,
    ) -> bool {
        content.peers_with(number) > 0
            && content.offers.iter().any(|(source, offer)| {
                let state = self.sources.get(source);
                offer.has(number)
                    && state.is_some_and(|state| {
                        state.class != Class::Origin
                            && !state.is_suspect
                            && state.takes(priority, now)
                    })
            })
    }

    /// The oldest readahead that the source has.
    fn pick_readahead(&self, source: Source, room: &Room, now: Instant) -> Option<Pick> {
        let class = self.sources.get(&source)?.class;
        let may = |id: ContentId, number| {
            self.offer_of(id, source).is_some_and(|(content, offer)| {
                offer.has(number)
                    && self.may_ask(class, content, number, now)
                    && (class != Class::Origin || self.fetches_ahead(id, number, now).is_none())
            })
        };
        let of_content = |id: &ContentId| {
            let (content, _) = self.offer_of(*id, source)?;
            let mut rest = content.readahead.iter();
            let first = rest.find(|&&(_, number)| may(*id, number))?;
            Some((first.0, *id, first.1))
        };
        let (sequence, id, first) = self.listed.readahead.iter().filter_map(of_content).min()?;
        let content = self.contents.get(&id)?;
        let from = content.readahead.range((sequence, first)..);
        let most = room.most(content.extent.part_length);
        let numbers = from
            .map(|&(_, number)| number)
            .filter(|&number| may(id, number))
            .take(most)
            .collect();
        Some(Pick {
            content: id,
            priority: Priority::Readahead,
            numbers,
        })
    }

    /// The chunks that the fewest peers have: after the one that the source was asked for last, otherwise from a random
    /// place.
    fn pick_background(&mut self, source: Source, room: &Room, now: Instant) -> Option<Pick> {
        let (id, first, share) = self.rarest(source, now)?;
        let state = self.sources.get(&source)?;
        let content = self.contents.get(&id)?;
        let offer = content.offers.get(&source)?;
        let spread = content.spread_of(first);
        let place = share.place(first);
        // A run of equally rare ones: what lies together is read, and asked of an origin, at once. Of what falls to others
        // there is none.
        let goes_on = |&number: &u32| {
            content.background.contains(number)
                && offer.has(number)
                && content.spread_of(number) <= spread
                && share.place(number) == place
                && self.may_ask(state.class, content, number, now)
        };
        let most = match place {
            Place::First | Place::Second => room.most(content.extent.part_length),
            Place::Later => 1,
        };
        let run = (first..content.extent.parts).take_while(goes_on).take(most);
        Some(Pick {
            content: id,
            priority: Priority::Background,
            numbers: run.collect(),
        })
    }

    /// The content and the chunk of it with which to begin, and the share of the content.
    fn rarest(&mut self, source: Source, now: Instant) -> Option<(ContentId, u32, Share)> {
        let (start, place) = (self.random.u64(..), self.random.u32(..));
        let (stays, somewhere) = (self.random.u32(..RUN) > 0, self.random.u32(..));
        let state = self.sources.get(&source)?;
        let class = state.class;
        // Of an origin, what lies together is read at once: ever longer runs are good there.
        let stays = stays || class != Class::Peer;
        let listed = &self.listed.background;
        // Where to begin among the contents: their ids are as good as random, so one of them is as good as another.
        let middle = usize::try_from(start % listed.len().max(1) as u64).ok()?;
        let others = listed.iter().skip(middle).chain(listed.iter().take(middle));
        let last = state.cursor.filter(|(id, _)| listed.contains(id));
        let last_id = last.map(|(id, _)| id);
        let others = others.copied().filter(|id| Some(*id) != last_id);
        let mut best: Option<(u16, ContentId, u32, Share)> = None;
        let mut looked_at = 0;
        for id in last_id.into_iter().chain(others) {
            let Some((content, offer)) = self.offer_of(id, source) else {
                continue;
            };
            let share = self.share(id, source, now);
            let may = |number| self.may_ask(class, content, number, now);
            let found = if share.is_all() {
                rarest_of(content, offer, place, may).map(|(spread, number)| {
                    let as_rare = |number: u32| {
                        content.background.contains(number)
                            && offer.has(number)
                            && content.spread_of(number) == spread
                    };
                    let last = last.filter(|(last, _)| *last == id);
                    let next = last.map(|(_, cursor)| cursor.saturating_add(1));
                    let next = next.filter(|&next| stays && as_rare(next) && may(next));
                    let number = next.unwrap_or_else(|| {
                        let inner = inner(number, somewhere, as_rare);
                        if may(inner) {
                            inner
                        } else {
                            number
                        }
                    });
                    (content.peers_with(number), number)
                })
            } else {
                let is_idle = state.helps_at().is_none_or(|at| at <= now) && state.bulk.parts == 0;
                let number = of_share(content, offer, &share, is_idle.then_some(place), may);
                number.map(|number| (0, number))
            };
            // What is left of a share was looked for in all of the content, even if there is none.
            looked_at += usize::from(found.is_some() || !share.is_all());
            match found {
                Some((peers, number))
                    if best.as_ref().is_none_or(|(fewest, ..)| peers < *fewest) =>
                {
                    best = Some((peers, id, number, share));
                }
                _ => (),
            }
            if looked_at == CONTENTS {
                break;
            }
        }
        best.map(|(_, id, number, share)| (id, number, share))
    }

    /// This node's share of what a source has all of, among the peers that just fetch the same.
    fn share(&self, id: ContentId, source: Source, now: Instant) -> Share {
        let class = self.sources.get(&source).map(|state| state.class);
        let offered = self.offer_of(id, source);
        let shared = offered.filter(|(_, offer)| offer.is_whole());
        let fellows = shared.map_or(Vec::new(), |(content, _)| {
            let growing = content
                .offers
                .iter()
                .filter(|(_, offer)| offer.is_growing(now));
            let identities = growing.filter_map(|(other, _)| self.sources.get(other)?.identity);
            identities.collect()
        });
        Share::new(id, class.unwrap_or_default(), self.identity, fellows)
    }

    pub(super) fn offer_of(
        &self,
        id: ContentId,
        source: Source,
    ) -> Option<(&Content<Source, Subject>, &Offer)> {
        let content = self.contents.get(&id)?;
        Some((content, content.offers.get(&source)?))
    }

    /// Near the end, when all is asked for: what is overdue at one source, of a second one that has nothing else to do.
    fn pick_again(&mut self, source: Source, now: Instant) -> Option<Pick> {
        let state = self.sources.get(&source)?;
        if state.bulk.parts > 0 {
            return None;
        }
        let mut first: Option<(Instant, ContentId, u32, Priority)> = None;
        for &id in &self.listed.assigned {
            let Some((content, offer)) = self.offer_of(id, source) else {
                continue;
            };
            if content.wants.len() >= 2 * content.offers.len() {
                continue;
            }
            for (&number, want) in &content.wants {
                let &[carrier] = want.transfers.as_slice() else {
                    continue;
                };
                let Some(transfer) = self.transfers.get(&carrier) else {
                    continue;
                };
                let Some(part) = transfer.part(number).filter(|part| part.length > 0) else {
                    continue;
                };
                if transfer.source == source
                    || want.priority == Priority::Demand
                    || !offer.has(number)
                    || !self.may_ask(state.class, content, number, now)
                {
                    continue;
                }
                let overdue = transfer.started + (2 * part.expected).max(OVERDUE_MIN);
                if first.is_none_or(|(at, ..)| overdue < at) {
                    first = Some((overdue, id, number, want.priority));
                }
            }
        }
        let (overdue, content, number, priority) = first?;
        if overdue > now {
            self.look_again(source, overdue, now);
            return None;
        }
        Some(Pick {
            content,
            priority,
            numbers: vec![number],
        })
    }

    /// Has an origin looked at again when peers had time to say what they have.
    fn look_when_peers_answered(&mut self, source: Source, now: Instant) {
        let class = self.sources.get(&source).map(|state| state.class);
        if class != Some(Class::Origin) {
            return;
        }
        let lists = [&self.listed.background, &self.listed.readahead];
        let waits = lists.into_iter().flatten().any(|id| {
            let content = self.contents.get(id);
            content.is_some_and(|content| content.is_first_sought(now))
        });
        if waits {
            self.look_again(source, now + PEERS_ANSWER, now);
        }
    }

    /// Looks at a source again at this time, or earlier if it was to be looked at earlier.
    fn look_again(&mut self, source: Source, at: Instant, now: Instant) {
        if let Some(state) = self.sources.get_mut(&source) {
            let before = state.look_at.filter(|before| *before > now);
            if before.is_some_and(|before| before <= at) {
                return;
            }
            if let Some(before) = state.look_at.replace(at) {
                self.rests.remove(&(before, source));
            }
            self.rests.insert((at, source));
        }
    }
}

/// A number from the middle of the run in which this one is. Those who are at work in it come from its beginning: who
/// began close behind another one would ask for the same as that, before it hears of it, all along the run.
fn inner(number: u32, somewhere: u32, is_in: impl Fn(u32) -> bool) -> u32 {
    let before = (1..=number.min(RUN_SEEN)).take_while(|&step| is_in(number - step));
    let after = (1..RUN_SEEN).take_while(|&step| is_in(number.saturating_add(step)));
    let (before, after) = (before.count() as u32, after.count() as u32);
    let length = before + 1 + after;
    number - before + length / 4 + somewhere % (length / 2).max(1)
}

impl Room {
    /// The parts of this length that there is room for; one at least.
    pub(super) fn most(&self, length: u64) -> usize {
        let parts = usize::try_from(self.bytes / length.max(1)).unwrap_or(usize::MAX);
        parts.clamp(1, self.parts.max(1))
    }
}

/// The pending chunk that a node asks for next of somebody who has all, among others who fetch the same: of its own share the
/// first one; then the last one of those in which it is second; then, with a place to begin at, any.
fn of_share<Source: Copy + Ord, Subject>(
    content: &Content<Source, Subject>,
    offer: &Offer,
    share: &Share,
    place: Option<u32>,
    may: impl Fn(u32) -> bool,
) -> Option<u32> {
    let words = content.background.words();
    let is_new = |number: u32| content.spread_of(number) == 0 && may(number);
    let word = |place| content.background.word(place) & offer.word(place);
    let mut second = None;
    for place in 0..words {
        for number in numbers(place, word(place)).filter(|&number| is_new(number)) {
            match share.place(number) {
                Place::First => return Some(number),
                Place::Second => second = Some(number),
                Place::Later => (),
            }
        }
    }
    second.or_else(|| Some(rarest_of(content, offer, place?, may)?.1))
}

/// The pending chunk that the fewest peers have of those that a source has and may be asked for: the first one from a
/// place on; and how many have it.
fn rarest_of<Source: Copy + Ord, Subject>(
    content: &Content<Source, Subject>,
    offer: &Offer,
    place: u32,
    may: impl Fn(u32) -> bool,
) -> Option<(u16, u32)> {
    let words = content.background.words();
    let from = place % (64 * words).max(1);
    let mut best: Option<(u16, u32)> = None;
    // The word in which it begins comes twice: its higher bits first, its lower ones last.
    let mask = u64::MAX << (from % 64);
    for step in 0..=words {
        let place = (from / 64 + step) % words.max(1);
        let mut word = content.background.word(place) & offer.word(place);
        if step == 0 {
            word &= mask;
        } else if step == words {
            word &= !mask;
        }
        for number in numbers(place, word) {
            let spread = content.spread_of(number);
            if best.is_none_or(|(fewest, _)| spread < fewest) && may(number) {
                if spread == 0 {
                    return Some((spread, number));
                }
                best = Some((spread, number));
            }
        }
    }
    best
}
