// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sources that are slow, stall, fail or are busy.

use super::*;

fn busy(seconds: u64) -> End {
    End::Busy {
        retry_after: Duration::from_secs(seconds),
    }
}

/// A source of which nothing is known: within a fifth of a second.
#[test]
fn a_reader_does_not_wait_for_a_stalled_source() {
    let mut bench = Bench::new(Limits::default());
    let ticket = bench.chunks(PACK, 0..4, Priority::Demand);
    bench.scheduler.offer(PACK, "stalled", Have::Complete);
    bench.poll();
    bench.scheduler.offer(PACK, "other", Have::Complete);
    bench.wait(Duration::from_millis(200));
    assert_eq!(bench.asked("other"), []);
    bench.wait(Duration::from_millis(20));
    assert_eq!(bench.asked("other"), [Part::Chunk(0)]);
    bench.wait(Duration::from_millis(400));
    assert_eq!(bench.asked("other").len(), 4, "asked a second time");
    bench.deliver("other");
    assert_eq!(bench.finished, [(ticket, Outcome::Complete)]);
    assert_eq!(bench.stopped.len(), 1, "the stalled transfer is stopped");
}

/// One of four in the same network stands still: who reads from it once waits for some milliseconds, and nobody asks
/// it again as long as it says nothing.
#[test]
fn a_near_source_that_stands_still_is_noticed_at_once() {
    let mut bench = Bench::new(Limits::default());
    for source in ["a", "b", "c", "stopped"] {
        bench.measure(source, Duration::from_micros(300), Duration::from_millis(1));
        bench.scheduler.offer(PACK, source, Have::Complete);
    }
    let mut worst = Duration::ZERO;
    for number in 0..100 {
        let begun = bench.now;
        let ticket = bench.chunks(PACK, number..number + 1, Priority::Demand);
        for source in ["a", "b", "c", "stopped"] {
            bench.scheduler.offer(PACK, source, Have::Complete);
        }
        bench.poll();
        while bench.finished.last() != Some(&(ticket, Outcome::Complete)) {
            for source in ["a", "b", "c"] {
                bench.deliver_each(source, Duration::from_millis(1));
            }
            bench.wait(Duration::from_millis(1));
        }
        worst = worst.max(bench.now - begun);
        bench.now += Duration::from_millis(50);
    }
    assert!(worst <= Duration::from_millis(15), "{worst:?}");
    let stopped = bench.stopped.len();
    assert_eq!(stopped, 1, "asked of it in vain");
    bench
        .scheduler
        .measured("stopped", Duration::from_millis(1));
    bench.chunks(PACK, 200..220, Priority::Demand);
    bench.poll();
    assert!(!bench.asked("stopped").is_empty(), "it lives again");
}

#[test]
fn a_source_that_is_slow_by_nature_gets_more_time() {
    let mut bench = Bench::new(Limits::default());
    bench.measure(
        "slow",
        Duration::from_millis(100),
        Duration::from_millis(500),
    );
    bench.chunks(PACK, 0..1, Priority::Demand);
    bench.scheduler.offer(PACK, "slow", Have::Complete);
    bench.poll();
    bench.scheduler.offer(PACK, "other", Have::Complete);
    bench.wait(Duration::from_millis(800));
    assert_eq!(bench.asked("other"), []);
    bench.wait(Duration::from_millis(120));
    assert_eq!(bench.asked("other"), [Part::Chunk(0)]);
}

#[test]
fn who_is_busy_is_not_waited_for() {
    let mut bench = Bench::new(Limits::default());
    let ticket = bench.chunks(PACK, 0..1, Priority::Demand);
    bench.scheduler.offer(PACK, "busy", Have::Complete);
    bench.poll();
    bench.scheduler.offer(PACK, "other", Have::Complete);
    bench.fail("busy", busy(1));
    assert_eq!(bench.asked("other"), [Part::Chunk(0)]);
    bench.deliver("other");
    assert_eq!(bench.finished, [(ticket, Outcome::Complete)]);
}

#[test]
fn a_second_source_is_looked_for_when_the_only_one_stalls() {
    let mut bench = Bench::new(Limits::default());
    bench.chunks(PACK, 0..2, Priority::Demand);
    bench.poll();
    bench.scheduler.offer(PACK, "stalled", Have::Complete);
    bench.scheduler.sought(PACK, bench.now);
    bench.poll();
    assert_eq!(bench.asked("stalled").len(), 2);
    bench.wait(Duration::from_millis(500));
    bench.wait(Duration::from_millis(499));
    assert_eq!(bench.sought.len(), 1);
    bench.wait(Duration::from_millis(1));
    assert_eq!(bench.sought.len(), 2);
}

#[test]
fn a_stalled_transfer_is_broken_off_and_its_source_left_alone() {
    let mut bench = Bench::new(Limits::default());
    bench.chunks(PACK, 0..2, Priority::Readahead);
    bench.scheduler.offer(PACK, "stalled", Have::Complete);
    bench.poll();
    bench.wait(Duration::from_secs(19));
    assert_eq!(bench.stopped, []);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.stopped.len(), 2);
    assert_eq!(bench.asked("stalled"), []);
    bench.wait(Duration::from_millis(500));
    assert_eq!(bench.asked("stalled").len(), 2, "asked again after a while");
}

/// A source answers three transfers in turn over a slow line: each waits for longer than a stalled one may.
#[test]
fn transfers_that_take_turns_do_not_stall() {
    let mut bench = Bench::new(Limits {
        parts_per_transfer: 2,
        hedge_after_far: Duration::from_secs(3600),
        ..Limits::default()
    });
    let deadline = bench.now + Duration::from_secs(3600);
    let order = Order {
        content: PACK,
        parts: (0..6).map(Part::Chunk).collect(),
        priority: Priority::Demand,
        deadline,
        extent: EXTENT,
        subject: (),
    };
    bench.scheduler.order(order).unwrap();
    bench.scheduler.offer(PACK, "slow", Have::Complete);
    bench.poll();
    assert_eq!(bench.running.len(), 3);
    let transfers: Vec<_> = bench.running.iter().map(|(id, ..)| *id).collect();
    // A chunk takes 19 seconds, and its pieces less.
    for transfer in &transfers {
        for _ in 0..3 {
            bench.wait(Duration::from_secs(6));
            bench.scheduler.progressed(*transfer, bench.now);
        }
        bench.wait(Duration::from_secs(1));
        let (.., parts) = bench
            .running
            .iter()
            .find(|(id, ..)| id == transfer)
            .unwrap();
        let part = parts[0];
        bench.scheduler.received(*transfer, PACK, part, bench.now);
    }
    assert_eq!(bench.stopped, []);

    // But it must not serve some of them and never the others.
    let (served, starved) = (transfers[2], &transfers[..2]);
    for _ in 0..14 {
        bench.wait(Duration::from_secs(5));
        bench.scheduler.progressed(served, bench.now);
        bench.poll();
    }
    assert!(bench.stopped.starts_with(starved), "{:?}", bench.stopped);
    assert!(!bench.stopped.contains(&served));
}

/// One long part, such as a blob, may take as long as it keeps coming.
#[test]
fn a_part_that_keeps_coming_is_waited_for() {
    let mut bench = Bench::new(Limits::default());
    bench.order(BLOB, vec![Part::Whole], Priority::Background);
    bench.scheduler.offer(BLOB, "slow", Have::Complete);
    bench.poll();
    let (transfer, ..) = bench.running[0];
    for _ in 0..2 {
        bench.wait(Duration::from_secs(11));
        bench.scheduler.progressed(transfer, bench.now);
    }
    bench.poll();
    assert_eq!(bench.stopped, []);
    bench.wait(Duration::from_millis(500));
    assert_eq!(bench.asked("slow"), [Part::Whole]);
}

#[test]
fn a_source_that_fails_is_left_alone_longer_each_time() {
    let mut bench = Bench::new(Limits::default());
    bench.chunks(PACK, 0..1, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.poll();
    for pause in [250, 500, 1000] {
        bench.fail("a", End::Failed);
        bench.wait(Duration::from_millis(pause - 1));
        assert_eq!(bench.asked("a"), []);
        bench.wait(Duration::from_millis(1));
        assert_eq!(bench.asked("a"), [Part::Chunk(0)]);
    }
}

/// As when a connection ends, and there is another one.
#[test]
fn what_breaks_off_together_is_one_failure() {
    let mut bench = Bench::new(Limits {
        parts_per_transfer: 1,
        ..Limits::default()
    });
    bench.chunks(PACK, 0..8, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.poll();
    assert_eq!(bench.asked("a").len(), 8);
    for _ in 0..8 {
        bench.fail("a", End::Failed);
        bench.now += Duration::from_millis(1);
    }
    bench.wait(Duration::from_millis(250));
    assert_eq!(bench.asked("a").len(), 8);
}

#[test]
fn sources_that_only_fail_count_as_out_of_reach() {
    let mut bench = Bench::new(Limits::default());
    let ticket = bench.chunks(PACK, 0..1, Priority::Demand);
    bench.scheduler.offer(PACK, "off", Have::Complete);
    bench.poll();
    bench.fail("off", End::Failed);
    bench.now += Duration::from_secs(25);
    bench.poll();
    assert_eq!(bench.finished, [(ticket, Outcome::Unreachable)]);
}

#[test]
fn a_busy_source_rests_and_is_within_reach() {
    let mut bench = Bench::new(Limits::default());
    let ticket = bench.chunks(PACK, 0..1, Priority::Demand);
    bench.scheduler.offer(PACK, "busy", Have::Complete);
    bench.poll();
    bench.fail("busy", busy(0));
    assert_eq!(bench.asked("busy"), []);
    bench.wait(Duration::from_millis(250));
    assert_eq!(bench.asked("busy"), [Part::Chunk(0)]);
    bench.fail("busy", busy(0));
    bench.now += Duration::from_secs(25);
    bench.poll();
    assert_eq!(bench.finished, [(ticket, Outcome::TimedOut)]);
}

/// As long as it says, and no longer than a minute; and a reader is not refused what readahead was.
#[test]
fn a_busy_source_is_left_alone_as_long_as_it_says() {
    for (said, seconds) in [(7, 7), (3600, 60)] {
        let mut bench = Bench::new(Limits::default());
        bench.chunks(PACK, 0..1, Priority::Readahead);
        bench.scheduler.offer(PACK, "busy", Have::Complete);
        bench.poll();
        bench.fail("busy", busy(said));
        bench.chunks(OTHER_PACK, 5..6, Priority::Background);
        bench.scheduler.offer(OTHER_PACK, "busy", Have::Complete);
        let (begun, mut end) = (bench.now, bench.now);
        // Whoever ordered asks again meanwhile.
        while bench.asked("busy").is_empty() {
            bench.chunks(PACK, 0..1, Priority::Readahead);
            end = bench.scheduler.next_wakeup().unwrap();
            bench.wait(end - bench.now);
        }
        assert_eq!(end - begun, Duration::from_secs(seconds));
    }

    let mut bench = Bench::new(Limits::default());
    bench.chunks(PACK, 0..1, Priority::Readahead);
    bench.scheduler.offer(PACK, "busy", Have::Complete);
    bench.poll();
    bench.fail("busy", busy(7));
    bench.wait(Duration::from_secs(1));
    bench.chunks(PACK, 1..2, Priority::Demand);
    bench.poll();
    assert_eq!(bench.asked("busy"), [Part::Chunk(1)]);
}
