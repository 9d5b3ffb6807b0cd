// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A node that can't listen, provider records kept by others, and what an idle one costs.

use async_trait::async_trait;
use futures::StreamExt;

use super::*;
use crate::{BlobPiece, Identity, Work};

/// A store with nothing in it.
struct Nothing;

#[async_trait]
impl Provider for Nothing {
    async fn blob_length(&self, _: &Digest, _: &Work) -> Option<u64> {
        None
    }

    fn blob_max(&self) -> u64 {
        u64::MAX
    }

    async fn read_blob(&self, _: &Digest, _: bool, _: u64, _: &Work) -> Option<BlobPiece> {
        None
    }

    async fn have(&self, _: &Digest, _: &Work) -> Have {
        Have::Absent
    }

    async fn read_chunk(&self, _: &Digest, _: &Digest, _: u32, _: &Work) -> Option<Bytes> {
        None
    }
}

async fn node(bootstrap: Vec<Multiaddr>) -> Node {
    let mut config = NodeConfig::new(Identity::generate());
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    config.bootstrap = bootstrap;
    Node::start(config, Arc::new(Nothing)).await.unwrap()
}

/// The providers that the DHT names.
async fn named(node: &Node, digest: Digest) -> Vec<PeerId> {
    let (found, mut named) = mpsc::channel(8);
    node.command(Command::FindProviders { digest, found }).await;
    let mut peers = Vec::new();
    while let Some(peer) = named.recv().await {
        peers.push(peer);
    }
    peers
}

#[tokio::test]
async fn it_is_said_why_nobody_can_listen() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (address, reason) in [
        (format!("/ip4/127.0.0.1/tcp/{port}"), "in use"),
        ("/ip4/127.0.0.1/udp/1/quic-v1".to_owned(), "only TCP"),
    ] {
        let mut config = NodeConfig::new(Identity::generate());
        config.listen = vec![address.parse().unwrap()];
        config.mdns = false;
        let Err(error) = Node::start(config, Arc::new(Nothing)).await else {
            panic!("listens at {address}");
        };
        let text = Causes(&error).to_string();
        assert!(text.contains(&address) && text.contains(reason), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_records_are_kept_by_other_nodes() {
    let digest = Digest([7; 32]);
    let bootstrap = node(Vec::new()).await;
    let provider = node(bootstrap.listen_addresses()).await;
    provider.provide(digest).await;
    // It is announced again a second after there is somebody to tell.
    tokio::time::sleep(Duration::from_secs(3)).await;
    // What is found now is not what the provider itself says.
    provider.shutdown().await;
    let client = node(bootstrap.listen_addresses()).await;
    let begun = Instant::now();
    while !named(&client, digest).await.contains(&provider.peer_id()) {
        assert!(begun.elapsed() < Duration::from_secs(15), "no record");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let found: Vec<_> = client
        .find_providers(digest, None, HashSet::new())
        .collect()
        .await;
    assert!(found.is_empty());
}

/// The messages of the DHT of all nodes, when there come no more.
async fn settled(nodes: &[Node]) -> u64 {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut sum = 0;
        for node in nodes {
            sum += node.network().await.unwrap().dht_messages;
        }
        if sum == before {
            return sum;
        }
        before = sum;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_sends_and_receives_little() {
    use crate::{behaviour, driver, heartbeat};
    const NODES: u64 = 24;
    const LAST: usize = NODES as usize - 1;
    const ANNOUNCED: u64 = 10;
    let mut nodes = vec![node(Vec::new()).await];
    while (nodes.len() as u64) < NODES {
        let bootstrap = nodes[0].listen_addresses();
        nodes.push(node(bootstrap).await);
    }
    // Those that keep a record are known.
    let begun = Instant::now();
    while nodes[LAST].network().await.unwrap().dht_nodes < 20 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no DHT");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let before = settled(&nodes).await;
    for number in 0..ANNOUNCED {
        nodes[LAST].provide(Digest([number as u8 + 1; 32])).await;
    }
    // Sent by one is received by another: both count it.
    let an_announcement = (settled(&nodes).await - before).div_ceil(ANNOUNCED) / 2;
    assert!((20..100).contains(&an_announcement), "{an_announcement}");

    // An hour with 48 connections and 100 images, if all nodes do the same.
    const CONNECTIONS: u64 = 48;
    const IMAGES: u64 = 100;
    let hour = 3600.0;
    let pings = CONNECTIONS as f64 * 2.0 * hour / heartbeat::CALM.as_secs_f64();
    let lifetime = NodeConfig::new(Identity::generate()).provider_record_lifetime;
    let interval = lifetime.as_secs_f64() / 2.0 * 0.75;
    let announced = IMAGES as f64 * hour / interval * an_announcement as f64 * 2.0;
    // A lookup for each bucket, of which so many nodes fill some ten at most.
    let lookups = 10.0 * hour / driver::BOOTSTRAP_INTERVAL.as_secs_f64();
    let filled = lookups * 40.0 * 2.0;
    // One node of a link asks, all answer, and hear each other's answers.
    let asked = hour / behaviour::MDNS_QUERY_INTERVAL.as_secs_f64();
    let mdns = asked * (1.0 + CONNECTIONS as f64);
    let messages = pings + announced + filled + mdns;
    println!("{pings} + {announced} + {filled} + {mdns} = {messages} an hour");
    assert!(messages < 10_000.0, "{messages}");
}
