// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What holds whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::limits::SUGGESTED_MAX;
use crate::Suggestion;

const SOURCES: u8 = 5;
const PARTS: u32 = 24;

#[derive(Clone, Debug)]
enum Event {
    Order(u8, u32, u32, Priority),
    /// Another node asks for a part to be fetched.
    OrderThrough(u8, u32, Priority),
    Cancel(usize),
    Offer(u8, u8),
    Gained(u8, u8, u32, u32),
    Gone(u8),
    Ban(u8),
    Measured(u8, u64),
    /// A transfer brings its next part.
    Part(usize),
    /// It ends, having brought whatever it has.
    End(usize, End),
    Unstorable(u8, u32),
    Sought(u8),
    Suggested(u8, u8, Suggestion),
    Wait(u64),
}

fn suggestion() -> impl Strategy<Value = Suggestion> {
    prop_oneof![
        3 => (0..2 * PARTS, 1..9_u32)
            .prop_map(|(first, count)| Suggestion::Chunks(vec![first..first + count, first + 20..first + 21])),
        2 => (0..70_000_u64).prop_map(|ms| Suggestion::Later(Duration::from_millis(ms))),
        1 => Just(Suggestion::Any),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let priority = prop::sample::select(Priority::ALL.to_vec());
    let ahead = priority.clone();
    let end = prop_oneof![
        Just(End::Answered),
        Just(End::Failed),
        (0..5_u64).prop_map(|s| End::Busy {
            retry_after: Duration::from_secs(s)
        }),
    ];
    prop_oneof![
        4 => (0..3_u8, 0..PARTS, 1..9_u32, priority)
            .prop_map(|(pack, first, count, priority)| Event::Order(pack, first, count, priority)),
        1 => (0..3_u8, 0..PARTS + 1, ahead)
            .prop_map(|(pack, number, priority)| Event::OrderThrough(pack, number, priority)),
        1 => (0..64_usize).prop_map(Event::Cancel),
        4 => (0..3_u8, 0..SOURCES).prop_map(|(pack, source)| Event::Offer(pack, source)),
        3 => (0..3_u8, 0..SOURCES, 0..PARTS, 1..PARTS)
            .prop_map(|(pack, source, first, count)| Event::Gained(pack, source, first, count)),
        1 => (0..SOURCES).prop_map(Event::Gone),
        1 => (0..SOURCES).prop_map(Event::Ban),
        1 => (0..SOURCES, 1..100_u64).prop_map(|(source, ms)| Event::Measured(source, ms)),
        12 => (0..64_usize).prop_map(Event::Part),
        2 => (0..64_usize, end).prop_map(|(transfer, end)| Event::End(transfer, end)),
        1 => (0..3_u8, 0..PARTS).prop_map(|(pack, number)| Event::Unstorable(pack, number)),
        2 => (0..3_u8).prop_map(Event::Sought),
        2 => (0..3_u8, 0..SOURCES, suggestion())
            .prop_map(|(pack, source, suggestion)| Event::Suggested(pack, source, suggestion)),
        4 => prop_oneof![0..20_u64, 0..2000_u64, Just(30_000)].prop_map(Event::Wait),
    ]
}

/// A scheduler and what whoever owns it knows.
struct Owner {
    scheduler: Scheduler<u8, ()>,
    now: Instant,
    start: Instant,
    tickets: Vec<Ticket>,
    open: BTreeMap<Ticket, Instant>,
    running: BTreeMap<TransferId, (u8, ContentId, Vec<Part>, Priority)>,
    /// Transfers of sources that are to fetch what they bring.
    through: BTreeSet<TransferId>,
    /// Parts on the way that nobody wanted at some time since they were asked for, as they had come from elsewhere: they may
    /// be wanted again before they come, and then are asked for as any others.
    unwanted: BTreeSet<(TransferId, u32)>,
    /// Parts that were asked for as somebody waited for them; and those of them that were asked of a second source.
    demand: u64,
    hedged: u64,
}

impl Owner {
    fn nth(&self, place: usize) -> Option<TransferId> {
        let count = self.running.len();
        let place = place.checked_rem(count)?;
        self.running.keys().nth(place).copied()
    }

    fn apply(&mut self, event: Event) {
        let pack = |number: u8| pack(number + 10, 1);
        match event {
            Event::Order(number, first, count, priority) => {
                let deadline = self.now + Duration::from_secs(25);
                let ticket = self.scheduler.order(Order {
                    content: pack(number),
                    parts: (first..(first + count).min(PARTS))
                        .map(Part::Chunk)
                        .collect(),
                    priority,
                    deadline,
                    extent: Extent {
                        parts: PARTS,
                        part_length: CHUNK,
                    },
                    subject: (),
                });
                if let Ok(ticket) = ticket {
                    self.tickets.push(ticket);
                    self.open.insert(ticket, deadline);
                }
            }
            Event::OrderThrough(number, part, priority) => {
                let deadline = self.now + Duration::from_secs(5);
                let part = Part::Chunk(part);
                let ordered = self
                    .scheduler
                    .order_through(pack(number), part, priority, deadline);
                if let Ok(Some(ticket)) = ordered {
                    self.tickets.push(ticket);
                    self.open.insert(ticket, deadline);
                }
            }
            Event::Cancel(place) => {
                let ticket = place
                    .checked_rem(self.tickets.len())
                    .map(|place| self.tickets[place]);
                if let Some(ticket) = ticket {
                    self.scheduler.cancel(ticket);
                    self.open.remove(&ticket);
                }
            }
            Event::Offer(number, source) => {
                // One is no node.
                match source {
                    0 => self.scheduler.classify(source, Class::Origin),
                    _ => self.scheduler.identify(source, source.into()),
                }
                self.scheduler.offer(pack(number), source, Have::Complete);
            }
            Event::Gained(number, source, first, count) => {
                let run = first..first + count;
                self.scheduler
                    .gained(pack(number), source, std::slice::from_ref(&run), self.now);
            }
            Event::Gone(source) => self.scheduler.gone(source),
            Event::Ban(source) => drop(self.scheduler.ban(source)),
            Event::Measured(source, ms) => {
                self.scheduler.measured(source, Duration::from_millis(ms));
            }
            Event::Part(place) => {
                let Some(id) = self.nth(place) else {
                    return;
                };
                let (_, content, parts, _) = self.running.get_mut(&id).unwrap();
                let (part, content) = (parts.remove(0), *content);
                let is_last = parts.is_empty();
                self.scheduler.arrived(id, part, CHUNK, self.now);
                self.scheduler.received(id, content, part, self.now);
                if is_last {
                    self.running.remove(&id);
                    self.scheduler.ended(id, End::Answered, self.now);
                }
            }
            Event::End(place, end) => {
                if let Some(id) = self.nth(place) {
                    self.running.remove(&id);
                    self.scheduler.ended(id, end, self.now);
                }
            }
            Event::Unstorable(number, part) => {
                let part = Part::Chunk(part);
                self.scheduler.unstorable(pack(number), part, 28);
            }
            Event::Sought(number) => self.scheduler.sought(pack(number), self.now),
            Event::Suggested(number, source, suggestion) => {
                self.scheduler
                    .suggested(pack(number), source, suggestion, self.now);
            }
            Event::Wait(ms) => self.now += Duration::from_millis(ms),
        }
    }

    /// Notes what is on its way and not wanted.
    fn note_unwanted(&mut self) {
        for (transfer, (_, id, parts, _)) in &self.running {
            let content = self.scheduler.contents.get(id);
            let is_wanted = |number| content.is_some_and(|one| one.wants.contains_key(&number));
            let unwanted = parts.iter().map(|part| part.number());
            let unwanted = unwanted.filter(|&number| !is_wanted(number));
            self.unwanted
                .extend(unwanted.map(|number| (*transfer, number)));
        }
    }

    fn poll(&mut self) {
        self.note_unwanted();
        for action in self.scheduler.poll(self.now) {
            match action {
                Action::Seek { .. } => (),
                Action::Suggest { source, count, .. } => {
                    assert!(source > 0 && (1..=SUGGESTED_MAX).contains(&count));
                }
                Action::Start {
                    transfer,
                    source,
                    content,
                    parts,
                    priority,
                    through,
                    ..
                } => {
                    self.check_start(source, content, &parts, priority);
                    if through {
                        self.check_through(source, content, &parts);
                        self.through.insert(transfer);
                    }
                    let new = (source, content, parts, priority);
                    assert!(self.running.insert(transfer, new).is_none());
                }
                Action::Stop { transfer } => {
                    assert!(self.running.remove(&transfer).is_some());
                }
                Action::Finish { ticket, .. } => {
                    assert!(self.open.remove(&ticket).is_some(), "ends once");
                }
            }
        }
        assert!(self.open.values().all(|&deadline| deadline > self.now));
        let wakeup = self.scheduler.next_wakeup();
        assert!(wakeup.is_none_or(|at| at > self.now), "polls in a circle");
        self.check_demand();
        self.check_books();
    }

    /// A part that is on its way is asked of a second source as a hedge, or to overtake; or near the end.
    fn check_start(&mut self, source: u8, id: ContentId, parts: &[Part], priority: Priority) {
        let carries = |part: &Part| {
            let running = self.running.iter();
            running
                .filter(|(_, (_, other, parts, _))| *other == id && parts.contains(part))
                .filter(|(transfer, _)| !self.unwanted.contains(&(**transfer, part.number())))
                // What is to be fetched first is waited for in another way.
                .filter(|(transfer, _)| !self.through.contains(*transfer))
                .map(|(_, (source, .., priority))| (*source, *priority))
                .collect::<Vec<_>>()
        };
        for part in parts {
            let carriers = carries(part);
            let all_bulk = carriers.iter().all(|(_, p)| *p != Priority::Demand);
            match priority {
                Priority::Demand => {
                    assert!(carriers.len() <= 2, "{carriers:?}");
                    self.demand += u64::from(carriers.is_empty());
                    if !all_bulk {
                        assert!(!carriers.iter().any(|(other, _)| *other == source));
                        self.hedged += 1;
                    }
                }
                _ => {
                    assert!(carriers.len() <= 1, "none is asked of a third");
                    assert!(!carriers.iter().any(|(other, _)| *other == source));
                }
            }
        }
        let seconds = (self.now - self.start).as_secs();
        let free = 4 * (seconds / 10 + 1);
        assert!(
            self.hedged <= (self.demand + self.hedged) / 20 + free,
            "{} of {}",
            self.hedged,
            self.demand
        );
    }

    /// Who is asked to fetch something is a node, and has not said that it has it; an origin has.
    fn check_through(&self, source: u8, id: ContentId, parts: &[Part]) {
        let offers = &self.scheduler.contents[&id].offers;
        for part in parts {
            let has = |source| {
                let offer: Option<&content::Offer> = offers.get(source);
                offer.is_some_and(|offer| offer.has(part.number()))
            };
            assert!(source > 0 && !has(&source) && has(&0));
        }
    }

    /// Nobody waits for a part that a free source has.
    fn check_demand(&self) {
        for id in &self.scheduler.listed.demand {
            let content = &self.scheduler.contents[id];
            for &(_, number) in &content.demand {
                let free = content.offers.iter().any(|(source, offer)| {
                    let state = &self.scheduler.sources[source];
                    offer.has(number)
                        && state.takes(Priority::Demand, self.now)
                        && state.transfers.len() < self.scheduler.limits.transfers_per_source
                });
                let is_full = self.scheduler.transfers.len() >= self.scheduler.limits.transfers;
                assert!(!free || is_full, "{number} waits");
            }
        }
    }

    /// What is counted is what there is.
    fn check_books(&self) {
        let scheduler = &self.scheduler;
        assert!(scheduler.transfers.keys().eq(self.running.keys()));
        let mut bulk = (0, 0, 0);
        for (source, state) in &scheduler.sources {
            let mut loads = [(0, 0, 0); 2];
            for id in &state.transfers {
                let transfer = &scheduler.transfers[id];
                assert_eq!(transfer.source, *source);
                let load = &mut loads[usize::from(transfer.priority == Priority::Demand)];
                load.0 += 1;
                load.1 += transfer.parts.iter().filter(|part| part.length > 0).count();
                load.2 += transfer.parts.iter().map(|part| part.length).sum::<u64>();
            }
            let books = |load: &source::Load| (load.transfers, load.parts, load.bytes);
            assert_eq!(loads, [books(&state.bulk), books(&state.demand)]);
            bulk = (
                bulk.0 + loads[0].0,
                bulk.1 + loads[0].1,
                bulk.2 + loads[0].2,
            );
            let offers = scheduler.contents.values();
            let offers = offers.filter(|content| content.offers.contains_key(source));
            assert_eq!(offers.count(), state.offers);
        }
        let all = &scheduler.bulk;
        assert_eq!(bulk, (all.transfers, all.parts, all.bytes));
        for (id, content) in &scheduler.contents {
            for (number, want) in &content.wants {
                let entry = (want.sequence, *number);
                let pending = match want.priority {
                    Priority::Demand => content.demand.contains(&entry),
                    Priority::Readahead => content.readahead.contains(&entry),
                    Priority::Background => content.background.contains(*number),
                };
                assert!(
                    pending || !want.transfers.is_empty(),
                    "{id} {number} is lost"
                );
            }
            let pending = content.demand.len() + content.readahead.len();
            assert!(pending + content.background.iter().count() <= content.wants.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_happens(
        seed in any::<u64>(),
        transfers in 1..12_usize,
        events in prop::collection::vec(event(), 1..200),
    ) {
        let limits = Limits {
            orders: 24,
            contents: 2,
            transfers,
            transfers_per_source: 4,
            parts_per_transfer: 3,
            overtake_from: 2,
            ..Limits::default()
        };
        let now = Instant::now();
        let mut owner = Owner {
            scheduler: Scheduler::new(limits, seed, 0),
            now,
            start: now,
            tickets: Vec::new(),
            open: BTreeMap::new(),
            running: BTreeMap::new(),
            through: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            demand: 0,
            hedged: 0,
        };
        for event in events {
            owner.apply(event);
            owner.poll();
        }
        // In the end every order ends, whatever is on the way.
        owner.now += Duration::from_secs(26);
        owner.poll();
        prop_assert!(owner.open.is_empty());
        prop_assert!(owner.running.is_empty());
        prop_assert!(owner.scheduler.contents.values().all(|content| content.wants.is_empty()));
    }
}
