// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Two nodes exchange blobs and chunks.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::relay::Line;
use crate::support::*;
use peerfs_exchange::limits::THROUGH_TIMEOUT;
use peerfs_exchange::{Have, Priority, Progress};
use peerfs_peer::{Event, RequestError};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_many_pieces_arrives_whole() {
    let blob = chunk(0x01020304, 3 * 1024 * 1024 + 17);
    let store = Store {
        blobs: HashMap::from([(digest(1), blob.clone()), (digest(2), Default::default())]),
        ..Store::default()
    };
    let (server, client) = pair(store).await;
    let fetch_blob = |byte, maximum| {
        let (client, peer) = (client.clone(), server.peer_id());
        async move {
            client
                .fetch_blob(
                    peer,
                    digest(byte),
                    maximum,
                    Priority::Demand,
                    soon(),
                    &Progress::default(),
                )
                .await
        }
    };
    assert_eq!(fetch_blob(1, blob.len() as u64).await.unwrap(), blob);
    assert!(fetch_blob(2, 0).await.unwrap().is_empty());
    assert!(matches!(
        fetch_blob(1, 1000).await,
        Err(RequestError::TooLarge { length, maximum: 1000 }) if length == blob.len() as u64
    ));
    assert!(matches!(
        fetch_blob(3, 1000).await,
        Err(RequestError::NotFound)
    ));
    let received = client.peers().first().map(|info| info.bytes_received);
    assert_eq!(received, Some(blob.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_chunks_arrive_in_any_order() {
    const COUNT: u32 = 1000;
    let (server, client) = pair(store_with_pack(COUNT, 50_000)).await;
    let wanted: Vec<u32> = (0..COUNT).rev().chain([5, 5]).collect();
    let mut chunks = fetch(&client, server.peer_id(), &wanted, Priority::Readahead);
    let mut received = HashMap::new();
    while let Some(answer) = chunks.next().await {
        let (number, data) = answer.unwrap();
        assert!(received.insert(number, data.unwrap()).is_none());
    }
    assert_eq!(received.len(), COUNT as usize);
    for (number, data) in received {
        assert_eq!(data, chunk(number, 50_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_with_a_delay_is_kept_busy() {
    // Asking for one chunk after the other would take 20 s.
    const COUNT: u32 = 1000;
    let server = start(config(), store_with_pack(COUNT, 10_000)).await;
    let mut settings = config();
    let address = server.listen_addresses().swap_remove(0);
    settings.bootstrap = vec![delayed(&address, Duration::from_millis(10))];
    let client = start(settings, Store::default()).await;
    connected(&client, server.peer_id()).await;
    let numbers: Vec<u32> = (0..COUNT).collect();
    let begun = Instant::now();
    let mut chunks = fetch(&client, server.peer_id(), &numbers, Priority::Demand);
    let mut arrived = 0;
    while let Some(answer) = chunks.next().await {
        assert!(answer.unwrap().1.is_some());
        arrived += 1;
    }
    assert_eq!(arrived, COUNT);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// 100 kbit/s: a chunk takes longer than a peer may be silent, and comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_comes_over_a_slow_line() {
    const LENGTH: usize = 160 * 1024;
    let server = start(config(), store_with_pack(1, LENGTH)).await;
    let mut settings = config();
    let address = server.listen_addresses().swap_remove(0);
    let line = Line {
        delay: Duration::ZERO,
        rate: Some(12_500),
    };
    settings.bootstrap = vec![over(&address, line)];
    let stall_timeout = settings.stall_timeout;
    let client = start(settings, Store::default()).await;
    connected(&client, server.peer_id()).await;
    let begun = Instant::now();
    let progress = Progress::default();
    let mut chunks = client.fetch_chunks(
        server.peer_id(),
        PACK,
        INDEX,
        &[0],
        Priority::Demand,
        &progress,
    );
    let answer = chunks.next().await.unwrap().unwrap();
    assert_eq!(answer, (0, Some(chunk(0, LENGTH))));
    assert!(begun.elapsed() > stall_timeout, "{:?}", begun.elapsed());
    assert!(progress.take().is_some());
}

/// A server fetches what it is asked to, and nothing else; meanwhile others are served, and what does not come is soon said not
/// to be there.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_lacks_it_may_be_asked_to_fetch() {
    let store = Store {
        through_takes: Duration::from_millis(100),
        ..store_with_pack(3, 1000)
    };
    let (server, client) = pair(store).await;
    let peer = server.peer_id();
    let progress = Progress::default();
    let through = |numbers: &[u32]| {
        client.fetch_through(peer, PACK, INDEX, numbers, Priority::Demand, &progress)
    };
    let answer = fetch(&client, peer, &[7], Priority::Demand).next().await;
    assert!(matches!(answer, Some(Ok((7, None)))), "not asked to");
    let begun = Instant::now();
    let answer = through(&[7]).next().await.unwrap().unwrap();
    assert_eq!(answer, (7, Some(chunk(7, 1000))));
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let answer = through(&[2]).next().await.unwrap().unwrap();
    assert_eq!(answer, (2, Some(chunk(2, 1000))));

    let begun = Instant::now();
    let mut waiting = through(&[NEVER]);
    let answer = fetch(&client, peer, &[1], Priority::Demand).next().await;
    assert!(matches!(answer, Some(Ok((1, Some(_))))));
    assert!(begun.elapsed() < THROUGH_TIMEOUT);
    assert!(matches!(waiting.next().await, Some(Ok((NEVER, None)))));
    assert!(begun.elapsed() >= THROUGH_TIMEOUT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_may_come_as_a_zstd_frame() {
    let blob = chunk(7, 1024 * 1024);
    let frame = Bytes::from(zstd::bulk::compress(&blob, 1).unwrap());
    let digests = [digest(1), digest(2)];
    let mut store = Store::default();
    for digest in digests {
        store.blobs.insert(digest, blob.clone());
    }
    store.zstd.insert(digest(1), frame.clone());
    // As long as the other one, and no frame.
    store.zstd.insert(digest(2), blob.slice(..frame.len()));
    let (server, client) = pair(store).await;
    let peer = server.peer_id();
    let fetch = |digest| {
        let client = client.clone();
        async move {
            let (priority, progress) = (Priority::Demand, Progress::default());
            client
                .fetch_blob(peer, digest, 1024 * 1024, priority, soon(), &progress)
                .await
        }
    };
    assert_eq!(fetch(digest(1)).await.unwrap(), blob);
    let received = client.peers().first().map(|info| info.bytes_received);
    assert_eq!(received, Some(frame.len() as u64));
    let undecodable = fetch(digest(2)).await;
    assert!(
        matches!(undecodable, Err(RequestError::Undecodable)),
        "{undecodable:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_partly_there_is_said_and_the_rest_not_found() {
    let mut store = store_with_pack(20, 100);
    store
        .packs
        .get_mut(&PACK)
        .unwrap()
        .1
        .retain(|number, _| number % 3 == 0);
    let (server, client) = pair(store).await;
    let peer = server.peer_id();
    let have = client.have(peer, PACK, soon()).await.unwrap();
    assert!(matches!(&have, Have::Partial(map) if map.present() == 7 && map.chunk_count() == 20));
    assert_eq!(
        client.have(peer, digest(9), soon()).await.unwrap(),
        Have::Absent
    );

    let numbers: Vec<u32> = (0..25).collect();
    let mut chunks = fetch(&client, peer, &numbers, Priority::Demand);
    let mut answered = 0;
    while let Some(answer) = chunks.next().await {
        let (number, data) = answer.unwrap();
        assert_eq!(data.is_some(), have.chunk(number), "chunk {number}");
        answered += 1;
    }
    assert_eq!(answered, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_the_server_does_not_have_gives_nothing() {
    let (server, client) = pair(store_with_pack(3, 100)).await;
    let mut chunks = client.fetch_chunks(
        server.peer_id(),
        PACK,
        digest(1),
        &[1],
        Priority::Demand,
        &Progress::default(),
    );
    assert!(matches!(chunks.next().await, Some(Ok((1, None)))));
    assert!(chunks.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn untaken_bytes_hold_up_the_peer_but_not_more_urgent_requests() {
    // Twice the window, so that the server must wait.
    let (server, client) = pair(store_with_pack(64, 256 * 1024)).await;
    let peer = server.peer_id();
    let numbers: Vec<u32> = (0..64).collect();
    let mut untaken = fetch(&client, peer, &numbers, Priority::Readahead);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let received = client.peers().first().unwrap().bytes_received;
    assert!((1..=8 * 1024 * 1024).contains(&received), "{received}");

    let mut urgent = fetch(&client, peer, &[1], Priority::Demand);
    assert!(matches!(urgent.next().await, Some(Ok((1, Some(_))))));
    let mut taken = 0;
    while let Some(answer) = untaken.next().await {
        answer.unwrap();
        taken += 1;
    }
    assert_eq!(taken, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_stream_cancels_what_was_not_begun() {
    let store = Store {
        delay: Duration::from_millis(20),
        ..store_with_pack(2000, 1000)
    };
    let store = Arc::new(store);
    let server = peerfs_peer::Node::start(config(), store.clone())
        .await
        .unwrap();
    let client = start(config_with_bootstrap(&server), Store::default()).await;
    connected(&client, server.peer_id()).await;
    let numbers: Vec<u32> = (0..2000).collect();
    let mut chunks = fetch(&client, server.peer_id(), &numbers, Priority::Background);
    chunks.next().await.unwrap().unwrap();
    drop(chunks);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let read = || store.chunks_read.load(Ordering::Relaxed);
    let after = read();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(read(), after);
    assert!(after < 1000, "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_fails_its_requests_at_once() {
    let store = Store {
        delay: Duration::from_secs(60),
        ..store_with_pack(10, 1000)
    };
    let (server, client) = pair(store).await;
    let mut events = client.subscribe();
    let mut chunks = fetch(&client, server.peer_id(), &[1], Priority::Demand);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let start = Instant::now();
    server.shutdown().await;
    assert!(matches!(
        chunks.next().await,
        Some(Err(RequestError::Disconnected))
    ));
    assert!(chunks.next().await.is_none());
    assert!(start.elapsed() < Duration::from_secs(3));
    // Before that a ping may have been answered.
    let disconnected = Event::PeerDisconnected(server.peer_id());
    while events.recv().await.unwrap() != disconnected {}
    let have = client.have(server.peer_id(), PACK, soon()).await;
    assert!(
        matches!(have, Err(RequestError::Unreachable { .. })),
        "{have:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stalls_fails_its_requests_soon() {
    let store = Store {
        delay: Duration::from_secs(8),
        ..store_with_pack(10, 1000)
    };
    let server = start(config(), store).await;
    let mut settings = config_with_bootstrap(&server);
    settings.stall_timeout = Duration::from_millis(700);
    let client = start(settings, Store::default()).await;
    connected(&client, server.peer_id()).await;
    let begun = Instant::now();
    let mut chunks = fetch(&client, server.peer_id(), &[1], Priority::Demand);
    assert!(matches!(
        chunks.next().await,
        Some(Err(RequestError::Stalled(_)))
    ));
    let elapsed = begun.elapsed();
    assert!(elapsed >= Duration::from_millis(700) && elapsed < Duration::from_secs(3));
    // The connection is still good for something else.
    let have = client.have(server.peer_id(), PACK, soon()).await;
    assert!(have.is_ok(), "{have:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept() {
    let store = Store {
        blobs: HashMap::from([(digest(1), chunk(1, 1_000_000))]),
        ..Store::default()
    };
    let mut settings = config();
    settings.upload_limit = NonZeroU64::new(100_000);
    let server = start(settings, store).await;
    let client = start(config_with_bootstrap(&server), Store::default()).await;
    connected(&client, server.peer_id()).await;
    let deadline = Instant::now() + Duration::from_secs(1);
    let fetched = client
        .fetch_blob(
            server.peer_id(),
            digest(1),
            1_000_000,
            Priority::Demand,
            deadline,
            &Progress::default(),
        )
        .await;
    assert!(
        matches!(fetched, Err(RequestError::DeadlineExceeded)),
        "{fetched:?}"
    );
    assert!(Instant::now() < deadline + Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_limit_is_kept_and_shared_evenly() {
    const RATE: u64 = 4_000_000;
    let mut settings = config();
    settings.upload_limit = NonZeroU64::new(RATE);
    let server = start(settings, store_with_pack(1000, 20_000)).await;
    let peer = server.peer_id();
    let numbers: Vec<u32> = (0..1000).collect();
    let greedy = start(config_with_bootstrap(&server), Store::default()).await;
    connected(&greedy, peer).await;
    let modest = start(config_with_bootstrap(&server), Store::default()).await;
    connected(&modest, peer).await;

    let begun = Instant::now();
    let arrived = Arc::new(AtomicUsize::new(0));
    let mut chunks = fetch(&greedy, peer, &numbers, Priority::Readahead);
    let counter = arrived.clone();
    let rest = tokio::spawn(async move {
        while let Some(answer) = chunks.next().await {
            answer.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    // A tenth of what the other one wants, and asked for later.
    let mut chunks = fetch(&modest, peer, &numbers[..100], Priority::Readahead);
    while let Some(answer) = chunks.next().await {
        answer.unwrap();
    }
    let before = arrived.load(Ordering::Relaxed);
    assert!(
        before < 500,
        "{before} chunks went to the greedy one meanwhile"
    );
    rest.await.unwrap();
    let all = Duration::from_secs_f64(1100.0 * 20_000.0 / RATE as f64);
    assert!(begun.elapsed() > all * 9 / 10);
}

/// Two peers that want the same have something for each other before the seed sends anything twice.
#[tokio::test(flavor = "multi_thread")]
async fn one_copy_leaves_the_seed_before_a_second() {
    const COUNT: u32 = 60;
    let mut settings = config();
    settings.upload_limit = NonZeroU64::new(2_000_000);
    let server = start(settings, store_with_pack(COUNT, 20_000)).await;
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let wanted: Vec<u32> = (0..COUNT).collect();
    for _ in 0..2 {
        let client = start(config_with_bootstrap(&server), Store::default()).await;
        connected(&client, server.peer_id()).await;
        let (arrived, wanted) = (arrived.clone(), wanted.clone());
        let peer = server.peer_id();
        tokio::spawn(async move {
            let mut chunks = fetch(&client, peer, &wanted, Priority::Background);
            while let Some(answer) = chunks.next().await {
                arrived.send(answer.unwrap().0).unwrap();
            }
        });
    }
    let mut numbers = std::collections::HashSet::new();
    for _ in 0..COUNT {
        numbers.insert(arrivals.recv().await.unwrap());
    }
    // One of the two began a little earlier.
    assert!(numbers.len() as u32 >= COUNT * 8 / 10, "{numbers:?}");
    for _ in 0..COUNT {
        assert!(arrivals.recv().await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_holds() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(config(), store_with_pack(10, 1000)).await;
    let mut settings = config_with_bootstrap(&server);
    settings.ban_list = Some(folder.path().join("banned"));
    let client = start(settings.clone(), Store::default()).await;
    connected(&client, server.peer_id()).await;
    let peer = server.peer_id();
    client.ban(peer, "wrong bytes").await;
    disconnected(&client, peer).await;
    let have = client.have(peer, PACK, soon()).await;
    assert!(matches!(have, Err(RequestError::Banned(banned)) if banned == peer));
    assert!(providers(&client, PACK).await.is_empty());

    // In neither direction, and not after a restart either.
    let address = client.listen_addresses().swap_remove(0);
    server.connect(address).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(client.peers().is_empty());
    client.shutdown().await;
    let client = start(settings, Store::default()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(client.peers().is_empty());
    let banned: Vec<_> = client.bans().into_iter().map(|ban| ban.peer).collect();
    assert_eq!(banned, [peer]);

    // Until it is lifted.
    assert_eq!(client.unban(Some(peer)).await, [peer]);
    connected(&client, peer).await;
    assert_eq!(providers(&client, PACK).await, [peer]);
    assert!(client.unban(None).await.is_empty() && client.bans().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_peer_is_dialled_again() {
    let mut settings = config();
    let first = start(settings.clone(), Store::default()).await;
    settings.listen = first.listen_addresses();
    // By name, which is looked up each time.
    let mut client_settings = config_with_bootstrap(&first);
    let address = client_settings.bootstrap[0].to_string();
    let address = address.replace("/ip4/127.0.0.1/", "/dns4/localhost/");
    client_settings.bootstrap = vec![address.parse().unwrap()];
    let client = start(client_settings, Store::default()).await;
    connected(&client, first.peer_id()).await;
    first.shutdown().await;
    disconnected(&client, first.peer_id()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = start(settings, Store::default()).await;
    connected(&client, again.peer_id()).await;
}
