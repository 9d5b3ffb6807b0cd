// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Nodes find each other, and who has what.

use std::time::Duration;

use crate::support::*;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn connected_peers_say_what_they_have() {
    let (server, client) = pair(store_with_pack(10, 100)).await;
    let begun = Instant::now();
    assert_eq!(providers(&client, PACK).await, [server.peer_id()]);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(providers(&client, digest(3)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dht_names_a_provider_that_is_not_connected() {
    let bootstrap = start(config(), Store::default()).await;
    let server = start(config_with_bootstrap(&bootstrap), store_with_pack(10, 100)).await;
    // Before there is anybody to tell it to.
    server.provide(PACK).await;
    connected(&server, bootstrap.peer_id()).await;
    let client = start(config_with_bootstrap(&bootstrap), Store::default()).await;
    connected(&client, bootstrap.peer_id()).await;
    assert!(!client
        .peers()
        .iter()
        .any(|info| info.id == server.peer_id()));

    let mut found = Vec::new();
    let begun = Instant::now();
    while found.is_empty() && begun.elapsed() < Duration::from_secs(15) {
        found = providers(&client, PACK).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(found, [server.peer_id()]);
    assert!(client.have(server.peer_id(), PACK, soon()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_connects_during_a_search_is_asked() {
    let server = start(config(), store_with_pack(10, 100)).await;
    let slow = start(config(), Store::default()).await;
    let client = start(config_with_bootstrap(&slow), Store::default()).await;
    connected(&client, slow.peer_id()).await;
    let address = server.listen_addresses().swap_remove(0);
    client.connect(address).await;
    connected(&client, server.peer_id()).await;
    assert_eq!(providers(&client, PACK).await, [server.peer_id()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_peers_a_search_ends_at_once() {
    let alone = start(config(), Store::default()).await;
    let begun = Instant::now();
    assert!(providers(&alone, PACK).await.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(1));
}
