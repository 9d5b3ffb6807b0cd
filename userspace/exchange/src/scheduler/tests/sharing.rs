// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How what is wanted is shared among sources.

use std::collections::BTreeMap;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn map(chunks: &[u32]) -> Have {
    let mut bits = vec![0_u8; 4096 / 8];
    for chunk in chunks {
        bits[(chunk / 8) as usize] |= 1 << (chunk % 8);
    }
    Have::Partial(ChunkMap::new(4096, bits.into()).unwrap())
}

#[test]
fn several_sources_share_one_pack() {
    let mut bench = Bench::new(Limits::default());
    bench.chunks(PACK, 0..16, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.scheduler.offer(PACK, "b", Have::Complete);
    bench.scheduler.offer(PACK, "c", map(&[0, 15]));
    bench.poll();
    let (a, b, c) = (bench.asked("a"), bench.asked("b"), bench.asked("c"));
    assert!(!a.is_empty() && !b.is_empty(), "{a:?} {b:?}");
    assert!(
        c.iter()
            .all(|part| matches!(part, Part::Chunk(0) | Part::Chunk(15))),
        "{c:?}"
    );
    assert_eq!(a.len() + b.len() + c.len(), 16);
}

#[test]
fn a_quick_source_gets_more_than_a_slow_one() {
    let mut bench = Bench::new(Limits::default());
    bench.measure("quick", MS, 10 * MS);
    bench.measure("slow", MS, 100 * MS);
    bench.chunks(PACK, 0..22, Priority::Demand);
    bench.scheduler.offer(PACK, "quick", Have::Complete);
    bench.scheduler.offer(PACK, "slow", Have::Complete);
    bench.poll();
    assert_eq!(bench.asked("quick").len(), 20);
    assert_eq!(bench.asked("slow").len(), 2);
}

#[test]
fn readers_ask_those_that_were_measured_and_not_all_the_same_one() {
    let mut bench = Bench::new(Limits::default());
    let measured = ["a", "b", "c"];
    for source in measured {
        bench.measure(source, MS, MS);
    }
    let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
    for number in 0..100 {
        bench.chunks(PACK, number..number + 1, Priority::Demand);
        for source in measured.into_iter().chain(["new"]) {
            bench.scheduler.offer(PACK, source, Have::Complete);
        }
        bench.poll();
        for source in measured {
            *asked.entry(source).or_default() += bench.deliver_each(source, MS).len();
        }
        assert_eq!(bench.asked("new"), []);
    }
    assert!(asked.values().all(|&parts| parts > 15), "{asked:?}");
}

/// What is on the way is what the line takes in the time to the source and back, and a little more.
#[test]
fn bulk_is_bound_late() {
    for (round_trip, part, parts) in [
        (20 * MS, 100 * MS, 2),
        (40 * MS, 10 * MS, 10),
        (MS, MS / 10, 32),
    ] {
        let mut bench = Bench::new(Limits::default());
        bench.measure("a", round_trip, part);
        bench.chunks(PACK, 0..1000, Priority::Background);
        bench.scheduler.offer(PACK, "a", Have::Complete);
        bench.poll();
        let asked = bench.asked("a").len();
        assert!(
            (parts..=parts * 3 / 2).contains(&asked),
            "{asked} of {parts}"
        );
        let transfers = bench.running.len();
        assert!(transfers < 16, "{transfers} transfers");
    }
}

#[test]
fn the_rarest_comes_first_and_runs_are_kept_together() {
    let mut bench = Bench::new(Limits::default());
    bench.chunks(PACK, 0..64, Priority::Background);
    bench.scheduler.offer(PACK, "all", Have::Complete);
    let common: Vec<u32> = (0..64)
        .filter(|number| !(20..30).contains(number))
        .collect();
    bench
        .scheduler
        .gained(PACK, "other", &[0..20, 30..64], bench.now);
    let mut brought = Vec::new();
    bench.poll();
    while let Some(place) = bench
        .running
        .iter()
        .position(|(_, source, ..)| *source == "all")
    {
        let (transfer, _, content, parts) = bench.running.remove(place);
        for part in parts {
            brought.push(part.number());
            bench.scheduler.received(transfer, content, part, bench.now);
        }
        bench.scheduler.ended(transfer, End::Answered, bench.now);
        if brought.len() >= 30 {
            break;
        }
        bench.poll();
    }
    let (rare, rest) = brought.split_at(10);
    assert!(
        rare.iter().all(|number| (20..30).contains(number)),
        "{brought:?}"
    );
    assert!(rest.iter().all(|number| common.contains(number)));
    let next = brought.windows(2).filter(|pair| pair[1] == pair[0] + 1);
    assert!(next.count() > 20, "{brought:?}");
}

#[test]
fn nodes_that_begin_together_ask_for_different_parts() {
    let mut asked = BTreeSet::new();
    for seed in 0..50 {
        let mut bench = Bench::new(Limits::default());
        bench.scheduler = Scheduler::new(Limits::default(), seed, 0);
        bench.chunks(PACK, 0..4096, Priority::Background);
        bench.scheduler.offer(PACK, "seed", Have::Complete);
        bench.poll();
        asked.extend(bench.asked("seed"));
    }
    assert!(asked.len() >= 95, "{}", asked.len());
}

#[test]
fn an_origin_is_asked_for_what_no_peer_has() {
    let mut bench = Bench::new(Limits::default());
    bench.scheduler.classify("origin", Class::Origin);
    bench.chunks(PACK, 0..8, Priority::Background);
    bench.scheduler.offer(PACK, "origin", Have::Complete);
    bench
        .scheduler
        .offer(PACK, "peer", map(&[0, 1, 2, 3, 4, 5]));
    // Not before the peers were asked what they have, or had time to say it.
    bench.poll();
    assert_eq!(bench.asked("origin"), []);
    bench.wait(200 * MS);
    let brought = bench.deliver("origin");
    assert_eq!(brought.len(), 2, "{brought:?}");
    // A reader too.
    bench.chunks(PACK, 0..1, Priority::Demand);
    bench.poll();
    assert_eq!(bench.asked("origin"), []);
    bench.fail("peer", End::Failed);
    while !bench.asked("peer").is_empty() {
        bench.fail("peer", End::Failed);
    }
    assert!(!bench.asked("origin").is_empty());
}

/// Without peers an origin gets long requests, from the first one on.
#[test]
fn an_origin_alone_is_asked_for_much_at_a_time() {
    let mut bench = Bench::new(Limits::default());
    bench.scheduler.classify("origin", Class::Origin);
    bench.chunks(PACK, 0..4096, Priority::Background);
    bench.scheduler.offer(PACK, "origin", Have::Complete);
    bench.poll();
    assert_eq!(bench.running.len(), 3);
    assert!(bench.asked("origin").len() > 32);
}

#[test]
fn a_reader_overtakes_readahead_that_is_on_its_way() {
    let mut bench = Bench::new(Limits::default());
    bench.measure("one", MS, MS / 10);
    bench.chunks(PACK, 0..24, Priority::Readahead);
    bench.scheduler.offer(PACK, "one", Have::Complete);
    bench.poll();
    assert_eq!(bench.asked("one").len(), 24);

    // Comes soon: waited for.
    bench.chunks(PACK, 2..3, Priority::Demand);
    bench.poll();
    assert_eq!(bench.asked("one").len(), 24);

    // Comes late: asked for again, once, and not waited for in the other place.
    let late = bench.chunks(PACK, 23..24, Priority::Demand);
    bench.chunks(PACK, 23..24, Priority::Demand);
    bench.poll();
    let (transfer, .., parts) = bench.running.last().unwrap();
    assert_eq!(*parts, [Part::Chunk(23)]);
    let transfer = *transfer;
    assert_eq!(bench.asked("one").len(), 25);
    let now = bench.now;
    bench
        .scheduler
        .received(transfer, PACK, Part::Chunk(23), now);
    bench.scheduler.ended(transfer, End::Answered, now);
    bench.poll();
    assert!(bench.finished.contains(&(late, Outcome::Complete)));
    bench.running.retain(|(id, ..)| *id != transfer);
    bench.deliver("one");
    assert_eq!(bench.finished.len(), 4);
}

/// At the end, what is overdue at one source is asked of a second one that has nothing else to do, and of no third.
#[test]
fn the_last_parts_are_not_left_to_a_slow_source() {
    let mut bench = Bench::new(Limits::default());
    for source in ["quick", "other"] {
        bench.measure(source, MS, MS);
    }
    bench.measure("slow", MS, 20 * MS);
    let ticket = bench.chunks(PACK, 0..2, Priority::Background);
    bench.scheduler.offer(PACK, "slow", Have::Complete);
    bench.poll();
    assert_eq!(bench.asked("slow").len(), 2);
    bench.scheduler.offer(PACK, "quick", Have::Complete);
    bench.scheduler.offer(PACK, "other", Have::Complete);
    bench.wait(50 * MS);
    assert_eq!(bench.asked("quick").len() + bench.asked("other").len(), 0);
    for _ in 0..10 {
        bench.wait(20 * MS);
    }
    assert_eq!(bench.asked("quick").len() + bench.asked("other").len(), 2);
    bench.deliver("quick");
    bench.deliver("other");
    assert_eq!(bench.finished, [(ticket, Outcome::Complete)]);
    assert_eq!(bench.asked("slow"), []);
}

/// As long as readers' parts come late on the line, less is on the way that nobody waits for.
#[test]
fn bulk_gives_way_to_readers() {
    let mut bench = Bench::new(Limits::default());
    bench.measure("a", 20 * MS, 2 * MS);
    bench.chunks(PACK, 0..1000, Priority::Background);
    bench.chunks(OTHER_PACK, 0..1, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.scheduler.offer(OTHER_PACK, "a", Have::Complete);
    bench.poll();
    let before = bench.scheduler.bulk.bytes;
    let demand = bench.running.iter().find(|(_, _, id, _)| *id == OTHER_PACK);
    let (demand, ..) = *demand.unwrap();
    let late = bench.now + 100 * MS;
    bench.scheduler.arrived(demand, Part::Chunk(0), CHUNK, late);
    assert_eq!(bench.scheduler.give_way.limit(late), Some(before / 2));
    assert_eq!(bench.scheduler.give_way.limit(late + 2000 * MS), None);
}

/// Two nodes that fetch the same, each of which knows of the other: one copy leaves the seed before a second.
#[test]
fn nodes_that_fetch_the_same_ask_a_seed_for_different_parts_first() {
    let firsts = [(1, 2), (2, 1)].map(|(own, other)| {
        let mut bench = Bench::new(Limits::default());
        bench.scheduler = Scheduler::new(Limits::default(), own, own);
        bench.measure("seed", MS, MS);
        bench.chunks(PACK, 0..256, Priority::Background);
        bench.scheduler.identify("other", other);
        bench.scheduler.offer(PACK, "seed", Have::Complete);
        // It has begun.
        bench
            .scheduler
            .gained(PACK, "other", std::slice::from_ref(&(300..301)), bench.now);
        let mut brought = bench.deliver("seed");
        assert_eq!(
            brought.len(),
            256,
            "what the other one leaves undone is fetched all the same"
        );
        brought.truncate(100);
        brought
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
    });
    let [first, second] = firsts;
    assert!(first.is_disjoint(&second));
}
