// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whoever follows an image knows in the end what is there of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::frame::Request;
use crate::limits::CROWDED_RETRY;
use crate::responder::{Found, Responder};
use crate::uplink::Copies;
use crate::{ChunkMap, Have};

const IMAGE: Digest = Digest([9; 32]);
const CHUNKS: u32 = 16;

fn pack(number: u8) -> Digest {
    Digest([number; 32])
}

/// A store with two packs of an image and one of another, and what it tells.
#[derive(Default)]
struct Store {
    is_known: bool,
    chunks: BTreeMap<Digest, BTreeSet<u32>>,
    arrivals: Arrivals,
}

impl Store {
    fn gains(&mut self, pack: Digest, number: u32) {
        self.chunks.entry(pack).or_default().insert(number);
        self.arrivals.push(Arrival::Chunk { pack, number });
    }

    fn loses(&mut self, pack: Digest, number: u32) {
        self.chunks.entry(pack).or_default().remove(&number);
        self.arrivals.push(Arrival::Changed(pack));
    }

    fn find(&self, step: &Step) -> Found {
        match step {
            Step::Image { .. } if self.is_known => Found::Image([pack(1), pack(2)].into()),
            Step::Map { pack, .. } => Found::Have(self.have(pack)),
            _ => Found::Nothing,
        }
    }

    fn have(&self, pack: &Digest) -> Have {
        let chunks = self.chunks.get(pack).cloned().unwrap_or_default();
        if chunks.is_empty() {
            return Have::Absent;
        }
        let mut bits = vec![0; CHUNKS as usize / 8];
        for number in chunks {
            bits[number as usize / 8] |= 1 << (number % 8);
        }
        Have::Partial(ChunkMap::new(CHUNKS, bits.into()).unwrap())
    }

    fn of_image(&self) -> BTreeMap<Digest, BTreeSet<u32>> {
        let of_image = |(digest, _): &(&Digest, &BTreeSet<u32>)| **digest != pack(3);
        let known = self.chunks.iter().filter(of_image);
        let some = known.filter(|(_, chunks)| !chunks.is_empty());
        some.map(|(pack, chunks)| (*pack, chunks.clone())).collect()
    }
}

/// What a follower knows.
#[derive(Default)]
struct View(BTreeMap<Digest, BTreeSet<u32>>);

impl View {
    fn take(&mut self, reply: Reply) {
        match reply {
            Reply::HaveMap { pack, have, .. } => {
                let chunks = (0..CHUNKS).filter(|number| have.chunk(*number)).collect();
                self.0.insert(pack, chunks);
            }
            Reply::HaveDelta { pack, runs, .. } => {
                let chunks = self.0.entry(pack).or_default();
                chunks.extend(runs.into_iter().flatten());
            }
            other => panic!("{other:?}"),
        }
        self.0.retain(|_, chunks| !chunks.is_empty());
    }
}

fn follow(request: u32) -> Request {
    Request::Follow {
        request,
        manifest: IMAGE,
    }
}

proptest! {
    /// However reads, arrivals, losses and the line take turns, and also if much was forgotten meanwhile.
    #[test]
    fn a_follower_comes_to_know_all(
        events in proptest::collection::vec((0..8_u32, 1..4_u8, 0..CHUNKS), 1..120),
        forgets in any::<bool>(),
    ) {
        let mut now = Instant::now();
        let (mut store, mut view) = (Store::default(), View::default());
        let mut responder = Responder::default();
        responder.receive(follow(1)).unwrap();
        let mut under_way: Option<(Step, Found)> = None;
        for (event, number, chunk) in events {
            match event {
                0 | 1 => store.gains(pack(number), chunk),
                2 => store.loses(pack(number), chunk),
                3 => {
                    store.is_known = true;
                    store.arrivals.push(Arrival::Image(IMAGE));
                }
                // What is read may be old when it is told.
                4 if under_way.is_none() => {
                    responder.tell(&store.arrivals, now);
                    under_way = responder.next_step(&Copies::default()).map(|step| {
                        let found = store.find(&step);
                        (step, found)
                    });
                }
                5 => if let Some((step, found)) = under_way.take() {
                    responder.finish(step, found);
                },
                6 => if let Some(next) = responder.next_reply() {
                    view.take(next.reply);
                },
                _ => now += Duration::from_millis(u64::from(chunk) * 10),
            }
        }
        if forgets {
            (0..20_000).for_each(|number| store.gains(pack(3), number % CHUNKS));
        }
        if let Some((step, found)) = under_way {
            responder.finish(step, found);
        }
        if !store.is_known {
            store.is_known = true;
            store.arrivals.push(Arrival::Image(IMAGE));
        }
        for _ in 0..20 {
            now += NEWS_INTERVAL;
            responder.tell(&store.arrivals, now);
            while let Some(step) = responder.next_step(&Copies::default()) {
                let found = store.find(&step);
                responder.finish(step, found);
            }
            while let Some(next) = responder.next_reply() {
                view.take(next.reply);
            }
        }
        prop_assert_eq!(view.0, store.of_image());
    }
}

/// At rest with an image that is known and of which nothing is here.
fn at_rest(now: Instant) -> (Responder, Store) {
    let (mut responder, mut store) = (Responder::default(), Store::default());
    store.is_known = true;
    responder.receive(follow(1)).unwrap();
    responder.tell(&store.arrivals, now);
    while let Some(step) = responder.next_step(&Copies::default()) {
        let found = store.find(&step);
        responder.finish(step, found);
    }
    assert_eq!(responder.next_reply(), None);
    (responder, store)
}

#[test]
fn news_are_told_at_once_and_then_together() {
    let start = Instant::now();
    let (mut responder, mut store) = at_rest(start);
    assert_eq!(responder.tells_at(start), Some(start));
    store.gains(pack(1), 5);
    responder.tell(&store.arrivals, start);
    let delta = |run| Reply::HaveDelta {
        request: 1,
        pack: pack(1),
        runs: vec![run],
    };
    let told = responder.next_reply().map(|next| next.reply);
    assert_eq!(told, Some(delta(5..6)));
    for number in [7, 9, 8, 8] {
        store.gains(pack(1), number);
        responder.tell(&store.arrivals, start);
        assert_eq!(responder.next_reply(), None);
    }
    assert_eq!(responder.tells_at(start), Some(start + NEWS_INTERVAL));
    responder.tell(&store.arrivals, start + NEWS_INTERVAL);
    let told = responder.next_reply().map(|next| next.reply);
    assert_eq!(told, Some(delta(7..10)));
}

#[test]
fn who_cancels_is_told_nothing_more() {
    let start = Instant::now();
    let (mut responder, mut store) = at_rest(start);
    assert!(responder.is_followed());
    store.gains(pack(1), 5);
    responder.tell(&store.arrivals, start);
    responder.receive(Request::Cancel { request: 1 }).unwrap();
    assert!(!responder.is_followed());
    store.gains(pack(1), 6);
    responder.tell(&store.arrivals, start + NEWS_INTERVAL);
    assert_eq!(responder.next_reply(), None);
    assert_eq!(responder.tells_at(start), None);
}

#[test]
fn nobody_follows_more_than_so_many() {
    let mut responder = Responder::default();
    for request in 0..=FOLLOWS_PER_STREAM as u32 {
        responder.receive(follow(request)).unwrap();
    }
    let refused = responder.next_reply().map(|next| next.reply);
    let busy = Reply::Busy {
        request: FOLLOWS_PER_STREAM as u32,
        retry_after: CROWDED_RETRY.as_millis() as u32,
    };
    assert_eq!(refused, Some(busy));
    // One that ends makes room.
    responder.receive(Request::Cancel { request: 0 }).unwrap();
    responder.receive(follow(1000)).unwrap();
    assert_eq!(responder.next_reply(), None);
}
