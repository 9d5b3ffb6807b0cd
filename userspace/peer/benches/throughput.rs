// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How fast chunks come from a peer, over the loopback interface and over a line with a delay, many at once
//! and one after the other, as a reader waits for them. The delay is made by a relay, so that it needs no
//! privileges.

#[path = "../tests/peer/relay.rs"]
mod relay;
#[path = "../tests/peer/support.rs"]
mod support;

use std::time::{Duration, Instant};

use peerfs_exchange::Priority;
use support::*;

const CHUNKS: u32 = 2000;
const CHUNK: usize = 64 * 1024;
const LONE_CHUNKS: u32 = 500;
const DELAY: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() {
    for delay in [Duration::ZERO, DELAY] {
        let (rate, wait) = measure(delay).await;
        println!(
            "{:?} round trip: {rate:.0} MB/s, a lone chunk in {:.3} ms",
            2 * delay,
            wait.as_secs_f64() * 1e3
        );
    }
}

/// Megabytes per second, and the median of how long one chunk takes.
async fn measure(delay: Duration) -> (f64, Duration) {
    let server = start(config(), store_with_pack(CHUNKS, CHUNK)).await;
    let mut address = server.listen_addresses().swap_remove(0);
    if !delay.is_zero() {
        address = delayed(&address, delay);
    }
    let mut settings = config();
    settings.bootstrap = vec![address];
    let client = start(settings, Store::default()).await;
    connected(&client, server.peer_id()).await;

    let numbers: Vec<u32> = (0..CHUNKS).collect();
    let begun = Instant::now();
    let mut chunks = fetch(&client, server.peer_id(), &numbers, Priority::Demand);
    let mut bytes = 0;
    while let Some(answer) = chunks.next().await {
        bytes += answer.unwrap().1.unwrap().len();
    }
    let seconds = begun.elapsed().as_secs_f64();

    let mut waits = Vec::new();
    for number in 0..LONE_CHUNKS {
        let begun = Instant::now();
        let mut chunk = fetch(&client, server.peer_id(), &[number], Priority::Demand);
        assert!(chunk.next().await.is_some_and(|answer| answer.is_ok()));
        waits.push(begun.elapsed());
    }
    waits.sort();
    client.shutdown().await;
    server.shutdown().await;
    (bytes as f64 / 1e6 / seconds, waits[waits.len() / 2])
}
