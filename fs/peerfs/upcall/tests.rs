// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the queue, and of waiting for an answer. They run when the module is loaded.

#![forbid(unsafe_code)]

use super::{
    message::Message,
    queue::{FileId, MountId, Queue, CANCEL_MAX, DEMAND_MAX, READAHEAD_LIFETIME, READAHEAD_MAX},
    request::{Wanted, WantedBlob, WantedChunks},
    Readers, Upcall,
};
use crate::rust::fs::DirectoryId;
use crate::store::Fetched;
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Delta, Instant, Monotonic},
};
use peerfs_format::{
    upcall::{
        BlobKind, FetchBlob, FetchChunks, Header, Operation, Priority, Workload, FETCH_CHUNKS_MAX,
    },
    Digest, METADATA_MAX,
};

const MOUNT: MountId = MountId(u64::MAX);
const OTHER_MOUNT: MountId = MountId(u64::MAX - 1);

fn workload() -> Workload {
    Workload::new("web").unwrap_or_default()
}

fn chunks(first: u32, count: u32) -> WantedChunks {
    WantedChunks {
        pack: Digest([1; Digest::SIZE]),
        index: Digest([2; Digest::SIZE]),
        manifest: Digest([3; Digest::SIZE]),
        workload: workload(),
        first,
        count,
        again: false,
    }
}

fn run(first: u32, count: u32) -> Wanted {
    Wanted::Chunks(chunks(first, count))
}

fn blob(length: u64) -> WantedBlob {
    WantedBlob {
        digest: Digest([4; Digest::SIZE]),
        manifest: Digest([5; Digest::SIZE]),
        workload: workload(),
        kind: BlobKind::InodeShard,
        length,
    }
}

fn now() -> Instant<Monotonic> {
    Instant::now()
}

/// A queue, and a file that is attached.
fn queue_and_file() -> Result<(Queue, FileId)> {
    let mut queue = Queue::new();
    let file = queue.attach(now())?;
    Ok((queue, file))
}

fn operation(message: &Message) -> Result<Operation> {
    let (header, _) = Header::parse(message.as_slice()).map_err(|_| EINVAL)?;
    Ok(header.operation)
}

/// Reads a message that must be a request for chunks.
fn fetch_chunks(message: Option<Message>) -> Result<(u64, FetchChunks)> {
    let message = message.ok_or(ENOENT)?;
    let (header, payload) = Header::parse(message.as_slice()).map_err(|_| EINVAL)?;
    if header.operation != Operation::FetchChunks {
        return Err(EINVAL);
    }
    let chunks = FetchChunks::parse(payload).map_err(|_| EINVAL)?;
    Ok((header.id, chunks))
}

/// Reads a message that must be a cancellation.
fn cancelled(message: Option<Message>) -> Result<u64> {
    let message = message.ok_or(ENOENT)?;
    let (header, payload) = Header::parse(message.as_slice()).map_err(|_| EINVAL)?;
    match header.operation {
        Operation::Cancel if payload.is_empty() => Ok(header.id),
        _ => Err(EINVAL),
    }
}

#[kunit_tests(peerfs_upcall_queue)]
mod queue_tests {
    use super::*;

    #[test]
    fn demand_is_handed_out_before_readahead() -> Result {
        let (mut queue, file) = queue_and_file()?;
        queue.prefetch(MOUNT, run(0, 8), now());
        queue.prefetch(MOUNT, run(8, 8), now());
        let demand = queue.demand(MOUNT, run(100, 2), now())?;
        assert!(queue.has_next(file));

        let (id, request) = fetch_chunks(queue.next(file, now()))?;
        assert_eq!(id, demand.id);
        assert_eq!(
            request,
            FetchChunks {
                pack: Digest([1; Digest::SIZE]),
                index: Digest([2; Digest::SIZE]),
                manifest: Digest([3; Digest::SIZE]),
                workload: workload(),
                first_chunk: 100,
                chunk_count: 2,
                priority: Priority::Demand as u32,
                flags: 0,
            }
        );
        for first in [0, 8] {
            let (_, request) = fetch_chunks(queue.next(file, now()))?;
            assert_eq!(request.first_chunk, first);
            assert_eq!(request.priority, Priority::Readahead as u32);
        }
        assert!(!queue.has_next(file));
        assert!(queue.next(file, now()).is_none());
        Ok(())
    }

    #[test]
    fn blob_request_is_encoded() -> Result {
        let (mut queue, file) = queue_and_file()?;
        queue.demand(MOUNT, Wanted::Blob(blob(77)), now())?;
        let message = queue.next(file, now()).ok_or(ENOENT)?;
        let (header, payload) = Header::parse(message.as_slice()).map_err(|_| EINVAL)?;
        assert_eq!(header.operation, Operation::FetchBlob);
        assert_eq!(header.length as usize, message.as_slice().len());
        let expected = FetchBlob {
            digest: Digest([4; Digest::SIZE]),
            manifest: Digest([5; Digest::SIZE]),
            workload: workload(),
            length: 77,
            kind: BlobKind::InodeShard as u32,
            priority: Priority::Demand as u32,
        };
        assert_eq!(FetchBlob::parse(payload), Ok(expected));
        Ok(())
    }

    #[test]
    fn demands_coalesce() -> Result {
        let mut queue = Queue::new();
        let first = queue.demand(MOUNT, run(10, 10), now())?;
        // The same, its ends, its middle.
        for (start, count) in [(10, 10), (10, 1), (19, 1), (12, 5)] {
            assert_eq!(queue.demand(MOUNT, run(start, count), now())?.id, first.id);
        }
        // Not wholly in it.
        for (start, count) in [(9, 1), (20, 1), (9, 11), (19, 2)] {
            assert!(queue.demand(MOUNT, run(start, count), now())?.id != first.id);
        }
        let again = WantedChunks {
            again: true,
            ..chunks(10, 10)
        };
        let other_pack = WantedChunks {
            pack: Digest([9; Digest::SIZE]),
            ..chunks(10, 10)
        };
        // Each workload is to be known what it reads.
        let other_workload = WantedChunks {
            workload: Workload::default(),
            ..chunks(10, 10)
        };
        for wanted in [
            Wanted::Chunks(again),
            Wanted::Chunks(other_pack),
            Wanted::Chunks(other_workload),
            Wanted::Blob(blob(1)),
        ] {
            assert!(queue.demand(MOUNT, wanted, now())?.id != first.id);
        }
        // Whoever asks.
        assert_eq!(queue.demand(OTHER_MOUNT, run(11, 2), now())?.id, first.id);

        let blob_request = queue.demand(MOUNT, Wanted::Blob(blob(2)), now())?;
        let same = queue.demand(MOUNT, Wanted::Blob(blob(2)), now())?;
        assert_eq!(same.id, blob_request.id);
        let other = queue.demand(MOUNT, Wanted::Blob(blob(3)), now())?;
        assert!(other.id != blob_request.id);
        assert_eq!(queue.statistics(now()).coalesced, 6);
        Ok(())
    }

    #[test]
    fn demand_raises_queued_readahead() -> Result {
        let (mut queue, file) = queue_and_file()?;
        queue.prefetch(MOUNT, run(0, 8), now());
        queue.prefetch(MOUNT, run(8, 8), now());
        let demand = queue.demand(MOUNT, run(9, 1), now())?;
        let (id, request) = fetch_chunks(queue.next(file, now()))?;
        assert_eq!(id, demand.id);
        assert_eq!((request.first_chunk, request.chunk_count), (8, 8));
        assert_eq!(request.priority, Priority::Demand as u32);
        // It is handed out as a demand: the next one joins.
        assert_eq!(queue.demand(MOUNT, run(10, 1), now())?.id, demand.id);
        Ok(())
    }

    #[test]
    fn demand_does_not_wait_for_readahead_that_was_handed_out() -> Result {
        let (mut queue, file) = queue_and_file()?;
        queue.prefetch(MOUNT, run(0, 8), now());
        let (readahead, _) = fetch_chunks(queue.next(file, now()))?;
        let demand = queue.demand(MOUNT, run(0, 1), now())?;
        assert!(demand.id != readahead);
        let (id, request) = fetch_chunks(queue.next(file, now()))?;
        assert_eq!(id, demand.id);
        assert_eq!(request.priority, Priority::Demand as u32);
        // But readahead of what is on its way is not asked for twice.
        queue.prefetch(MOUNT, run(2, 2), now());
        assert!(!queue.has_next(file));
        Ok(())
    }

    #[test]
    fn a_request_is_for_one_of_the_files() -> Result {
        let (mut queue, file) = queue_and_file()?;
        let second = queue.attach(now())?;
        queue.demand(MOUNT, run(0, 1), now())?;
        assert!(queue.has_next(file) && queue.has_next(second));
        assert!(queue.next(second, now()).is_some());
        assert!(queue.next(file, now()).is_none());
        Ok(())
    }

    #[test]
    fn only_the_holder_answers_and_once() -> Result {
        let (mut queue, file) = queue_and_file()?;
        let second = queue.attach(now())?;
        let id = queue.demand(MOUNT, run(0, 1), now())?.id;
        assert_eq!(queue.take(file, id, false).err(), Some(ENOENT));
        fetch_chunks(queue.next(file, now()))?;
        assert_eq!(queue.find(second, id).err(), Some(ENOENT));
        assert_eq!(queue.take(second, id, false).err(), Some(ENOENT));
        assert_eq!(queue.take(file, id + 1, false).err(), Some(ENOENT));
        assert_eq!(queue.take(file, 0, false).err(), Some(ENOENT));
        assert_eq!(queue.find(file, id)?.id, id);
        assert_eq!(queue.take(file, id, true)?.id, id);
        assert_eq!(queue.take(file, id, true).err(), Some(ENOENT));
        let statistics = queue.statistics(now());
        assert_eq!((statistics.answered, statistics.failed), (1, 1));
        assert_eq!(statistics.pending, 0);
        assert!(statistics.oldest.is_none());
        Ok(())
    }

    #[test]
    fn what_a_dead_daemon_held_is_queued_again_in_order() -> Result {
        let (mut queue, file) = queue_and_file()?;
        let mut ids = [0; 4];
        for (id, first) in ids.iter_mut().zip(0..) {
            *id = queue.demand(MOUNT, run(first, 1), now())?.id;
        }
        for _ in 0..3 {
            fetch_chunks(queue.next(file, now()))?;
        }
        queue.detach(file, now());
        assert!(!queue.has_next(file));
        assert!(queue.next(file, now()).is_none());
        assert_eq!(queue.take(file, 1, false).err(), Some(ENOENT));

        let successor = queue.attach(now())?;
        for id in ids {
            assert_eq!(fetch_chunks(queue.next(successor, now()))?.0, id);
        }
        assert!(queue.next(successor, now()).is_none());
        Ok(())
    }

    #[test]
    fn requests_end_with_their_last_waiter() -> Result {
        let (mut queue, file) = queue_and_file()?;
        // Queued: nobody learns of it.
        let request = queue.demand(MOUNT, run(0, 1), now())?;
        queue.demand(MOUNT, run(0, 1), now())?;
        assert!(queue.leave(&request, true));
        assert!(queue.has_next(file));
        assert!(queue.leave(&request, false));
        assert!(!queue.has_next(file));
        assert!(!queue.leave(&request, true));

        // Handed out: the holder is told.
        let request = queue.demand(MOUNT, run(1, 1), now())?;
        fetch_chunks(queue.next(file, now()))?;
        assert!(queue.leave(&request, true));
        assert!(queue.has_next(file));
        assert_eq!(cancelled(queue.next(file, now()))?, request.id);
        assert_eq!(queue.take(file, request.id, false).err(), Some(ENOENT));

        let statistics = queue.statistics(now());
        assert_eq!((statistics.timed_out, statistics.pending), (2, 0));
        Ok(())
    }

    #[test]
    fn cancellations_are_bounded_and_come_first() -> Result {
        let (mut queue, file) = queue_and_file()?;
        let mut requests = KVec::new();
        for first in 0..=CANCEL_MAX as u32 {
            requests.push(queue.demand(MOUNT, run(first, 1), now())?, GFP_KERNEL)?;
            fetch_chunks(queue.next(file, now()))?;
        }
        for request in &requests {
            queue.leave(request, false);
        }
        queue.demand(MOUNT, run(0, 1), now())?;
        for _ in 0..CANCEL_MAX {
            cancelled(queue.next(file, now()))?;
        }
        fetch_chunks(queue.next(file, now()))?;
        Ok(())
    }

    #[test]
    fn messages_that_were_not_read_go_back() -> Result {
        let (mut queue, file) = queue_and_file()?;
        let second = queue.attach(now())?;
        queue.demand(MOUNT, run(0, 1), now())?;
        queue.demand(MOUNT, run(5, 1), now())?;
        let message = queue.next(file, now()).ok_or(ENOENT)?;
        assert_eq!(operation(&message)?, Operation::FetchChunks);
        // Only by the one who has it.
        queue.put_back(second, &message, now());
        assert_eq!(fetch_chunks(queue.next(second, now()))?.1.first_chunk, 5);
        queue.put_back(file, &message, now());
        assert_eq!(fetch_chunks(queue.next(second, now()))?.1.first_chunk, 0);
        Ok(())
    }

    #[test]
    fn demands_are_bounded() -> Result {
        let mut queue = Queue::new();
        for first in 0..DEMAND_MAX as u32 {
            queue.demand(MOUNT, run(first, 1), now())?;
        }
        let refused = queue.demand(MOUNT, run(DEMAND_MAX as u32, 1), now());
        assert_eq!(refused.err(), Some(EBUSY));
        // Who joins costs nothing, and other mounts of the store have their own.
        queue.demand(MOUNT, run(7, 1), now())?;
        queue.demand(OTHER_MOUNT, run(DEMAND_MAX as u32, 1), now())?;
        Ok(())
    }

    #[test]
    fn readahead_is_bounded_and_needs_a_daemon() -> Result {
        let mut queue = Queue::new();
        queue.prefetch(MOUNT, run(0, 1), now());
        let file = queue.attach(now())?;
        for first in 0..=READAHEAD_MAX as u32 {
            queue.prefetch(MOUNT, run(first, 1), now());
        }
        let statistics = queue.statistics(now());
        assert_eq!((statistics.pending, statistics.dropped), (READAHEAD_MAX, 2));
        for _ in 0..READAHEAD_MAX {
            fetch_chunks(queue.next(file, now()))?;
        }
        // Demand is not held up by it.
        queue.demand(MOUNT, run(1000, 1), now())?;
        Ok(())
    }

    #[test]
    fn readahead_expires() -> Result {
        let (mut queue, file) = queue_and_file()?;
        let start = now();
        queue.prefetch(MOUNT, run(0, 1), start);
        queue.prefetch(MOUNT, run(1, 1), start);
        let (id, _) = fetch_chunks(queue.next(file, start))?;
        queue.demand(MOUNT, run(2, 1), start)?;

        let later = start + READAHEAD_LIFETIME + Delta::from_secs(1);
        queue.prefetch(MOUNT, run(0, 1), later);
        assert_eq!(cancelled(queue.next(file, later))?, id);
        assert_eq!(fetch_chunks(queue.next(file, later))?.1.first_chunk, 2);
        let (renewed, request) = fetch_chunks(queue.next(file, later))?;
        assert_eq!(request.first_chunk, 0);
        assert!(renewed != id);
        assert!(queue.next(file, later).is_none());
        Ok(())
    }

    #[test]
    fn requests_must_be_valid() -> Result {
        let mut queue = Queue::new();
        for wanted in [
            run(0, 0),
            run(0, FETCH_CHUNKS_MAX + 1),
            run(u32::MAX, 1),
            Wanted::Blob(blob(METADATA_MAX + 1)),
        ] {
            assert_eq!(queue.demand(MOUNT, wanted, now()).err(), Some(EINVAL));
        }
        queue.demand(MOUNT, run(u32::MAX - 1, 1), now())?;
        Ok(())
    }
}

#[kunit_tests(peerfs_upcall)]
mod upcall_tests {
    use super::*;
    use kernel::{time::msecs_to_jiffies, workqueue};

    fn upcall() -> Result<Arc<Upcall>> {
        Arc::pin_init(Upcall::new(true), GFP_KERNEL)
    }

    fn readers() -> Result<Arc<Readers>> {
        Arc::pin_init(Readers::new(), GFP_KERNEL)
    }

    const STORE: DirectoryId = DirectoryId(1);
    const OTHER_STORE: DirectoryId = DirectoryId(2);

    /// Another task attaches, takes one request and answers it.
    fn daemon(upcall: &Arc<Upcall>, answer: fn() -> Result<Fetched>) -> Result {
        let store = upcall.store(STORE)?;
        workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
            let serve = || {
                let readers = readers()?;
                let file = store.attach(&readers)?;
                let id = store
                    .wait_next(file, &readers)?
                    .request_id()
                    .ok_or(EINVAL)?;
                store.answer(file, id, answer())?;
                store.detach(file);
                Ok::<(), Error>(())
            };
            if serve().is_err() {
                pr_err!("peerfs_upcall: the daemon of the test failed\n");
            }
        })?;
        Ok(())
    }

    #[test]
    fn without_upcalls_there_is_no_data() -> Result {
        let upcall = Arc::pin_init(Upcall::new(false), GFP_KERNEL)?;
        let store = upcall.store(STORE)?;
        let outcome = store.fetch(run(0, 1), 1000);
        assert_eq!(outcome.err(), Some(ENODATA));
        store.prefetch(run(0, 1));
        assert_eq!(upcall.statistics().made, 0);
        Ok(())
    }

    #[test]
    fn without_a_daemon_time_runs_out() -> Result {
        let upcall = upcall()?;
        let store = upcall.store(STORE)?;
        let outcome = store.fetch(run(0, 1), msecs_to_jiffies(20));
        assert_eq!(outcome.err(), Some(ETIMEDOUT));
        let outcome = store.fetch(Wanted::Blob(blob(1)), 0);
        assert_eq!(outcome.err(), Some(ETIMEDOUT));
        let statistics = upcall.statistics();
        assert_eq!((statistics.timed_out, statistics.pending), (2, 0));
        Ok(())
    }

    #[test]
    fn answers_reach_who_waits() -> Result {
        let upcall = upcall()?;
        let store = upcall.store(STORE)?;
        let timeout = msecs_to_jiffies(20_000);

        daemon(&upcall, || Err(EHOSTUNREACH))?;
        let outcome = store.fetch(Wanted::Blob(blob(0)), timeout);
        assert_eq!(outcome.err(), Some(EHOSTUNREACH));

        let statistics = upcall.statistics();
        assert_eq!((statistics.answered, statistics.failed), (1, 1));
        Ok(())
    }

    #[test]
    fn each_store_has_its_own() -> Result {
        let upcall = upcall()?;
        let (store, same, other) = (
            upcall.store(STORE)?,
            upcall.store(STORE)?,
            upcall.store(OTHER_STORE)?,
        );
        let file = store.attach(&readers()?)?;
        assert!(same.is_attached() && !other.is_attached());
        other.prefetch(run(0, 1));
        assert!(!store.has_next(file));
        same.prefetch(run(0, 1));
        assert!(store.has_next(file));
        Ok(())
    }

    #[test]
    fn what_nobody_took_goes_with_the_store() -> Result {
        let upcall = upcall()?;
        let (mount, daemon) = (upcall.store(STORE)?, upcall.store(STORE)?);
        let file = daemon.attach(&readers()?)?;
        mount.prefetch(run(0, 1));
        assert_eq!(upcall.statistics().pending, 1);
        daemon.detach(file);
        drop((mount, daemon));
        let statistics = upcall.statistics();
        assert_eq!((statistics.pending, statistics.made), (0, 1));
        // Another directory may be where that was.
        let daemon = upcall.store(STORE)?;
        let file = daemon.attach(&readers()?)?;
        assert!(!daemon.has_next(file));
        Ok(())
    }
}
