// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Swarms whose nodes are certified: members exchange, and nobody else gets anywhere.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::*;
use peerfs_names::{Certificate, SecretKey};
use peerfs_peer::{Event, Identity, Membership, Node, NodeConfig};
use tokio::time::{sleep, timeout};

/// How long nodes have for connecting here.
const CONNECT: Duration = Duration::from_millis(1500);

fn key() -> SecretKey {
    SecretKey::parse(&SecretKey::generate().unwrap()).unwrap()
}

/// A certificate that holds for so long.
fn certificate(identity: &Identity, key: &SecretKey, span: Duration) -> Certificate {
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + span;
    // In whole seconds, and no shorter.
    let end = end.as_secs() + 1;
    Certificate::issue(&identity.peer_id().to_string(), 0, end, key).unwrap()
}

fn settings(identity: Identity, certificate: Option<Certificate>) -> NodeConfig {
    NodeConfig {
        identity,
        membership: certificate.map(|own| Arc::new(Membership::new(own))),
        connect_timeout: CONNECT,
        ..config()
    }
}

fn member(key: &SecretKey) -> NodeConfig {
    let identity = Identity::generate();
    let own = certificate(&identity, key, Duration::from_secs(3600));
    settings(identity, Some(own))
}

#[tokio::test(flavor = "multi_thread")]
async fn members_meet_and_nobody_else_comes_in() {
    let [ours, theirs] = [key(), key()];
    let server = start(member(&ours), store_with_pack(10, 1000)).await;
    let address = server.listen_addresses().swap_remove(0);
    let one = start(member(&ours), Store::default()).await;
    let two = start(member(&ours), Store::default()).await;
    let other_swarm = start(member(&theirs), Store::default()).await;
    let open = start(settings(Identity::generate(), None), Store::default()).await;
    // It was copied from another node, whose key was not.
    let stolen = member(&ours).membership;
    let thief = NodeConfig {
        membership: stolen,
        ..settings(Identity::generate(), None)
    };
    let thief = start(thief, Store::default()).await;
    let strangers = [&other_swarm, &open, &thief];
    for node in strangers.into_iter().chain([&one, &two]) {
        node.connect(address.clone()).await;
    }
    for node in [&one, &two] {
        connected(node, server.peer_id()).await;
        exchange(&server, node).await;
    }
    // Nor does the server get in where it is a stranger.
    for node in strangers {
        server.connect(node.listen_addresses().swap_remove(0)).await;
    }
    sleep(2 * CONNECT).await;
    for node in strangers {
        assert!(node.peers().is_empty(), "{:?}", node.peers());
    }
    let mut met: Vec<_> = server.peers().iter().map(|peer| peer.id).collect();
    let mut members = [one.peer_id(), two.peer_id()];
    met.sort();
    members.sort();
    assert_eq!(met, members);
}

async fn gone(node: &Node, peer: &Node) {
    let mut events = node.subscribe();
    let leaves = async {
        while node.peers().iter().any(|one| one.id == peer.peer_id()) {
            let _ = timeout(Duration::from_millis(100), events.recv()).await;
        }
    };
    timeout(Duration::from_secs(10), leaves)
        .await
        .expect("it stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_or_expires_is_cut_off_and_the_others_stay() {
    let ours = key();
    let config = member(&ours);
    let membership = config.membership.clone().unwrap();
    let server = start(config, store_with_pack(10, 1000)).await;
    let bootstrap = server.listen_addresses();
    let identity = Identity::generate();
    let short = certificate(&identity, &ours, Duration::from_secs(2));
    let short = settings(identity, Some(short));
    let mut nodes = Vec::new();
    for config in [short, member(&ours), member(&ours)] {
        let config = NodeConfig {
            bootstrap: bootstrap.clone(),
            ..config
        };
        let node = start(config, Store::default()).await;
        connected(&node, server.peer_id()).await;
        nodes.push(node);
    }
    let [short, revoked, stays] = &nodes[..] else {
        unreachable!();
    };
    gone(&server, short).await;
    let mut events = stays.subscribe();
    membership.revoke([revoked.peer_id().to_string()].into());
    gone(&server, revoked).await;
    // They try to come back, as nodes do that were bootstrapped with.
    sleep(2 * CONNECT).await;
    assert_eq!(server.peers().len(), 1);
    exchange(&server, stays).await;
    while let Ok(event) = events.try_recv() {
        assert_ne!(event, Event::PeerDisconnected(server.peer_id()));
    }
    membership.revoke([].into());
    connected(&server, revoked.peer_id()).await;
}
