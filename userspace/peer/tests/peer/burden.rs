// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a peer can cause for the little that it sends, and whom it can keep away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::hostile::raw_peer_of;
use crate::raw::{frame, raw_peer, PROTOCOL};
use crate::support::*;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use peerfs_exchange::Progress;
use peerfs_peer::{Event, NodeConfig};
use tokio::time::{sleep, timeout, Instant};

const LONG: Duration = Duration::from_secs(20);

/// 56 bytes ask for a blob, of which all is read and hashed before the first piece is sent. Whoever goes away
/// then causes so much of that, and no more; whoever takes what it asked for pays with it.
#[tokio::test(flavor = "multi_thread")]
async fn work_for_nothing_is_bounded() {
    const LENGTH: u64 = 8 * 1024 * 1024;
    /// What a peer may owe, as `work.rs` says.
    const DEBT: u64 = 32 * 1024 * 1024;
    let hashed = Arc::new(AtomicU64::new(0));
    let store = Store {
        blobs: [(digest(1), chunk(1, LENGTH as usize))].into(),
        hashed: Some(hashed.clone()),
        ..Store::default()
    };
    let server = start(config(), store).await;
    let mut control = raw_peer_of(&server).await;
    let peer = server.peer_id();
    let mut stream = control.open_stream(peer, PROTOCOL).await.unwrap();
    let begun = Instant::now();
    stream
        .write_all(&frame(1, 0, &(32u32 << 20).to_le_bytes()))
        .await
        .unwrap();
    let mut refused = false;
    for request in 0..20u32 {
        let want = [&[1; 32][..], &LENGTH.to_le_bytes(), &[0; 4]].concat();
        stream.write_all(&frame(3, request, &want)).await.unwrap();
        stream.flush().await.unwrap();
        let answer = timeout(LONG, answer_to(&mut stream, request)).await;
        refused |= answer.expect("no answer") == 22;
        stream.write_all(&frame(5, request, &[])).await.unwrap();
    }
    assert!(refused, "never Busy");
    let first = hashed.load(Ordering::Relaxed);
    let forgiven = (begun.elapsed().as_secs() + 1) * 1024 * 1024;
    let paid = 20 * 1024 * 1024;
    assert!(
        (LENGTH..=DEBT + forgiven + paid).contains(&first),
        "{first} bytes were hashed"
    );

    // Others are served as ever.
    let client = start(config_with_bootstrap(&server), Store::default()).await;
    connected(&client, peer).await;
    let priority = peerfs_exchange::Priority::Demand;
    let fetched = client
        .fetch_blob(
            peer,
            digest(1),
            LENGTH,
            priority,
            soon(),
            &Progress::default(),
        )
        .await;
    assert_eq!(fetched.unwrap().len() as u64, LENGTH);
}

/// The type of the next frame for this request.
async fn answer_to(stream: &mut libp2p::Stream, request: u32) -> u8 {
    loop {
        let rest = next_frame(stream).await;
        if rest[4..8] == request.to_le_bytes() {
            return rest[0];
        }
    }
}

/// The next frame behind its length field.
async fn next_frame(stream: &mut libp2p::Stream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.unwrap();
    let mut rest = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut rest).await.unwrap();
    rest
}

/// A question that is not served is one like others: it is on the account of who asks, who is told when to ask again.
#[tokio::test(flavor = "multi_thread")]
async fn questions_that_are_not_served_are_bounded() {
    const BATCH: u32 = 250;
    let server = start(config(), Store::default()).await;
    let mut control = raw_peer_of(&server).await;
    let mut stream = control
        .open_stream(server.peer_id(), PROTOCOL)
        .await
        .unwrap();
    let mut served = 0;
    let asking = async {
        loop {
            let questions = (0..BATCH).flat_map(|request| frame(10, request, &[0; 32]));
            let questions: Vec<u8> = questions.collect();
            stream.write_all(&questions).await.unwrap();
            stream.flush().await.unwrap();
            for _ in 0..BATCH {
                let answer = next_frame(&mut stream).await;
                match answer[0] {
                    26 => served += 1,
                    22 => return u32::from_le_bytes(answer[8..].try_into().unwrap()),
                    other => panic!("type {other}"),
                }
            }
        }
    };
    let retry_after = timeout(LONG, asking).await.expect("never Busy");
    // 32 MiB at a KiB each, and what was forgiven meanwhile.
    assert!((32 * 1024..100_000).contains(&served), "{served}");
    assert!(retry_after <= 1000, "{retry_after}");
}

/// A node that is full of strangers who want nothing still comes to the peers of its own choice.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_reaches_its_bootstrap_peer() {
    let mut settings = config();
    let before = start(settings.clone(), Store::default()).await;
    settings.listen = before.listen_addresses();
    let mut crowded = config_with_bootstrap(&before);
    crowded.connections_max = 8;
    before.shutdown().await;
    let node = start(crowded, Store::default()).await;
    let mut strangers = Vec::new();
    while strangers.len() < 8 {
        strangers.push(stranger_of(&node));
    }
    sleep(Duration::from_secs(1)).await;
    let inside = node.peers().len();
    assert!((1..=4).contains(&inside), "{inside} strangers");
    let bootstrap = start(settings, Store::default()).await;
    let mut events = node.subscribe();
    let reached = async {
        while !node
            .peers()
            .iter()
            .any(|info| info.id == bootstrap.peer_id())
        {
            let _ = events.recv().await;
        }
    };
    timeout(LONG, reached).await.expect("shut off");
}

/// Connects to a node, whether or not it lets one in, and does nothing.
fn stranger_of(node: &peerfs_peer::Node) -> tokio::task::JoinHandle<()> {
    let (mut swarm, _) = raw_peer();
    swarm.dial(node.listen_addresses().swap_remove(0)).unwrap();
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    })
}

/// A peer that lets nobody in is not dialled twice a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_room_is_left_alone_for_longer_each_time() {
    let server = start(
        NodeConfig {
            connections_max: 1,
            ..config()
        },
        Store::default(),
    )
    .await;
    let first = start(config_with_bootstrap(&server), Store::default()).await;
    connected(&first, server.peer_id()).await;
    let second = start(config_with_bootstrap(&server), Store::default()).await;
    let mut events = second.subscribe();
    let mut attempts = 0;
    let end = Instant::now() + Duration::from_secs(10);
    while let Ok(event) = tokio::time::timeout_at(end, events.recv()).await {
        attempts += usize::from(event == Ok(Event::PeerConnected(server.peer_id())));
    }
    assert!(attempts <= 6, "dropped {attempts} times in 10 s");
    assert_eq!(server.peers().len(), 1);
}
