// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What only an origin has and readers on several nodes wait for.

use super::super::through::PATIENCE_MIN;
use super::*;

const MS: Duration = Duration::from_millis(1);
const FELLOWS: [&str; 3] = ["a", "b", "c"];
const CHUNKS: u32 = 64;

/// A node with an origin, and with others that have begun with the same pack.
fn among_fellows() -> Bench {
    let mut bench = Bench::new(Limits::default());
    bench.join();
    bench
}

impl Bench {
    /// Others have begun with a pack that an origin has, and that is read here.
    fn join(&mut self) {
        self.scheduler.classify("origin", Class::Origin);
        for (place, fellow) in FELLOWS.into_iter().enumerate() {
            self.scheduler.identify(fellow, place as u64 + 1);
        }
        // So that the pack is known.
        self.chunks(PACK, 4000..4001, Priority::Demand);
        self.scheduler.offer(PACK, "origin", Have::Complete);
        self.scheduler.sought(PACK, self.now);
        self.deliver("origin");
        for fellow in FELLOWS {
            self.scheduler.measured(fellow, MS);
            self.gain(fellow, 4000..4001);
        }
    }

    /// Somebody has got more of the pack.
    fn gain(&mut self, source: &'static str, run: std::ops::Range<u32>) {
        let runs = std::slice::from_ref(&run);
        self.scheduler.gained(PACK, source, runs, self.now);
    }

    /// A reader comes to a chunk; who was asked for it, and whether to fetch it.
    fn read(&mut self, number: u32, priority: Priority) -> Vec<(&'static str, bool)> {
        self.chunks(PACK, number..number + 1, priority);
        self.poll();
        self.carriers(number)
    }

    /// Who is to bring a chunk, and whether by fetching it.
    fn carriers(&self, number: u32) -> Vec<(&'static str, bool)> {
        let running = self.running.iter();
        let carrying = running.filter(|(.., parts)| parts.contains(&Part::Chunk(number)));
        let through = |id| self.scheduler.transfers[id].through;
        carrying
            .map(|(id, source, ..)| (*source, through(id)))
            .collect()
    }

    /// The end of what somebody was asked for first.
    fn end(&mut self, source: &str, end: End) {
        let place = self
            .running
            .iter()
            .position(|(_, name, ..)| *name == source);
        let (transfer, ..) = self.running.remove(place.unwrap());
        self.scheduler.ended(transfer, end, self.now);
        self.poll();
    }
}

#[test]
fn each_part_is_asked_of_one_node_that_all_agree_on() {
    for priority in [Priority::Demand, Priority::Readahead] {
        let mut bench = among_fellows();
        let mut counts = BTreeMap::from([("origin", 0)]);
        for number in 0..CHUNKS {
            let asked = bench.read(number, priority);
            let &[(source, through)] = asked.as_slice() else {
                panic!("{number} of {asked:?}, {priority:?}");
            };
            assert_eq!(through, source != "origin");
            *counts.entry(source).or_default() += 1;
            // The same node by the scores, with itself as 0.
            let all = ["origin", "a", "b", "c"].into_iter().enumerate();
            let score = |(identity, _): &(usize, &str)| {
                shares::score(PACK, Class::Origin, number, *identity as u64)
            };
            assert_eq!(all.max_by_key(score).unwrap().1, source);
            bench.deliver(source);
        }
        let fair = CHUNKS / 8..CHUNKS / 2;
        assert!(
            counts.values().all(|count| fair.contains(count)),
            "{counts:?}"
        );
    }
}

/// Who is far away does not fetch for others, and it would take long to hear that.
#[test]
fn nodes_of_other_networks_are_not_asked_to_fetch() {
    let mut bench = among_fellows();
    for (place, far) in ["x", "y", "z"].into_iter().enumerate() {
        bench.scheduler.identify(far, place as u64 + 10);
        bench.scheduler.measured(far, 80 * MS);
        bench.gain(far, 4000..4001);
    }
    for number in 0..CHUNKS {
        for (source, _) in bench.read(number, Priority::Demand) {
            assert!(source == "origin" || FELLOWS.contains(&source));
            bench.deliver(source);
        }
    }
}

/// What nobody waits for is shared otherwise, blobs are small, and what a peer has is asked of it.
#[test]
fn nothing_else_is_fetched_by_others() {
    let mut bench = among_fellows();
    for number in 0..CHUNKS {
        for (_, through) in bench.read(number, Priority::Background) {
            assert!(!through);
        }
    }
    let mut bench = among_fellows();
    bench.gain("a", 0..CHUNKS);
    for number in 0..CHUNKS / 2 {
        let [demand, ahead] = [Priority::Demand, Priority::Readahead];
        assert_eq!(bench.read(number, demand), [("a", false)]);
        bench.deliver("a");
        let number = number + CHUNKS / 2;
        assert_eq!(bench.read(number, ahead), [("a", false)]);
        bench.deliver("a");
    }
    bench.order(BLOB, vec![Part::Whole], Priority::Demand);
    bench.scheduler.offer(BLOB, "origin", Have::Complete);
    bench.scheduler.gained(BLOB, "a", &[], bench.now);
    bench.poll();
    assert_eq!(bench.carriers(0), []);
    assert_eq!(bench.asked("origin"), [Part::Whole]);
}

/// A number that falls to somebody else.
fn foreign(bench: &mut Bench) -> (u32, &'static str) {
    let found = (0..CHUNKS).find_map(|number| match bench.read(number, Priority::Demand)[..] {
        [(source, true)] => Some((number, source)),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn who_refuses_is_not_asked_again_and_the_reader_hardly_waits() {
    let mut bench = among_fellows();
    let (number, fellow) = foreign(&mut bench);
    bench.end(fellow, End::Answered);
    // One question in vain, whoever else there is.
    assert_eq!(bench.carriers(number), [("origin", false)]);
    bench.deliver("origin");
    for number in CHUNKS..2 * CHUNKS {
        let asked = bench.read(number, Priority::Demand);
        assert!(asked.iter().all(|(source, _)| *source != fellow));
        bench.deliver(asked[0].0);
    }
    // What it lacks counts for nothing else: it still has what it said.
    bench.gain(fellow, 3000..3001);
    assert_eq!(bench.read(3000, Priority::Demand), [(fellow, false)]);
}

#[test]
fn who_is_late_is_not_waited_for_longer_than_that() {
    let mut bench = among_fellows();
    let (number, fellow) = foreign(&mut bench);
    bench.wait(PATIENCE_MIN - MS);
    assert_eq!(bench.carriers(number), [(fellow, true)]);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.carriers(number), [(fellow, true), ("origin", false)]);
    // Nor is it the next time, and it counts as slow for nothing else.
    let others = (CHUNKS..2 * CHUNKS).all(|number| {
        let asked = bench.read(number, Priority::Demand);
        asked.iter().all(|(source, _)| *source != fellow)
    });
    assert!(others);
    bench.gain(fellow, 3000..3001);
    assert_eq!(bench.read(3000, Priority::Demand), [(fellow, false)]);
}

/// It has fetched it, says so, and has many to send it to: the origin is asked later.
#[test]
fn who_has_fetched_it_has_more_time_to_send_it() {
    let mut bench = among_fellows();
    let (number, fellow) = foreign(&mut bench);
    let asked_at = bench.now;
    let expected = bench.scheduler.expected_through(fellow, PACK, number);
    bench.wait(expected - MS);
    bench.gain(fellow, number..number + 1);
    bench.wait(expected - MS);
    assert_eq!(bench.carriers(number), [(fellow, true)]);
    while bench.carriers(number).len() < 2 {
        assert!(bench.now < asked_at + 3 * expected);
        bench.wait(10 * MS);
    }
    // It is asked to fetch something else all the same.
    let others = (CHUNKS..2 * CHUNKS).map(|number| bench.read(number, Priority::Demand));
    assert!(others.flatten().any(|asked| asked == (fellow, true)));
}

/// A neighbour with much to send is no reason for all others to ask the origin.
#[test]
fn a_slow_neighbour_has_its_time_before_the_origin_is_asked() {
    let mut bench = Bench::new(Limits::default());
    bench.measure("a", MS, MS);
    bench.join();
    bench.gain("a", 0..1);
    assert_eq!(bench.read(0, Priority::Demand), [("a", false)]);
    let asked_at = bench.now;
    for _ in 0..40 {
        bench.wait(10 * MS);
        let asks_origin = bench.carriers(0).contains(&("origin", false));
        assert_eq!(asks_origin, bench.now >= asked_at + PATIENCE_MIN);
    }
}

#[test]
fn what_another_node_asks_for_is_asked_of_the_origin_and_never_passed_on() {
    let mut bench = among_fellows();
    let deadline = bench.now + Duration::from_secs(5);
    let order = |bench: &mut Bench, content, number| {
        let (part, demand) = (Part::Chunk(number), Priority::Demand);
        let ordered = bench
            .scheduler
            .order_through(content, part, demand, deadline);
        bench.poll();
        ordered.unwrap()
    };
    for number in 0..8 {
        assert!(order(&mut bench, PACK, number).is_some());
        assert_eq!(bench.carriers(number), [("origin", false)]);
    }
    // Of nothing that is not read here, does not exist, or that no origin has.
    assert_eq!(order(&mut bench, OTHER_PACK, 0), None);
    assert_eq!(order(&mut bench, PACK, EXTENT.parts), None);
    bench.chunks(OTHER_PACK, 0..1, Priority::Demand);
    bench.scheduler.offer(OTHER_PACK, "a", Have::Complete);
    bench.poll();
    assert_eq!(order(&mut bench, OTHER_PACK, 1), None);

    // Two nodes that are at odds do not wait for each other.
    let mut bench = among_fellows();
    let (number, fellow) = foreign(&mut bench);
    assert!(order(&mut bench, PACK, number).is_some());
    assert_eq!(bench.carriers(number), [(fellow, true), ("origin", false)]);
    // And what is on its way already is not asked for again.
    assert!(order(&mut bench, PACK, number).is_some());
    assert_eq!(bench.carriers(number).len(), 2);
    assert_eq!(bench.deliver("origin").len(), 1 + number as usize);
    let complete = bench.finished.iter();
    let complete = complete.filter(|(_, outcome)| *outcome == Outcome::Complete);
    assert!(complete.count() >= 3);
}

/// How long a neighbour takes for what it fetches first says nothing of its line.
#[test]
fn what_is_fetched_first_is_no_measure() {
    let mut bench = among_fellows();
    let (_, fellow) = foreign(&mut bench);
    bench.deliver_each(fellow, 250 * MS);
    let state = &bench.scheduler.sources[fellow];
    assert!(!state.pace.is_measured() && state.pace.patience() < 2.0);
}
