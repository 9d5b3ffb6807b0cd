// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Private swarms: nodes with one key exchange, and nobody else gets anywhere.

use std::time::Duration;

use crate::internet::Machine;
use crate::mdns::Link;
use crate::support::*;
use libp2p::multiaddr::Protocol;
use libp2p::Multiaddr;
use peerfs_peer::{Identity, Node, NodeConfig};
use peerfs_swarm::SwarmKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout, Instant};

/// Bytes that each end sends first, at random.
const NONCE: usize = 24;
/// How long nodes have for connecting here.
const CONNECT: Duration = Duration::from_millis(1500);

fn member(key: Option<&SwarmKey>, bootstrap: Vec<Multiaddr>) -> NodeConfig {
    let mut config = config();
    config.swarm_key = key.cloned();
    config.bootstrap = bootstrap;
    config.connect_timeout = CONNECT;
    config
}

/// Two nodes of a swarm, of which the second one dials the first.
async fn swarm(key: Option<&SwarmKey>) -> (Node, Node) {
    let first = start(member(key, Vec::new()), store_with_pack(10, 1000)).await;
    let known = first.listen_addresses();
    let second = start(member(key, known), Store::default()).await;
    connected(&second, first.peer_id()).await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn swarms_on_one_network_do_not_meet() {
    let keys = [(); 2].map(|()| SwarmKey::generate().unwrap());
    let swarms = [
        swarm(Some(&keys[0])).await,
        swarm(Some(&keys[1])).await,
        swarm(None).await,
    ];
    // Each is told of all others, by their ids and by their addresses alone.
    let nodes = swarms.each_ref().map(|(first, second)| [first, second]);
    for node in nodes.as_flattened() {
        for other in nodes.as_flattened() {
            let address = other.listen_addresses().swap_remove(0);
            node.connect(address.clone()).await;
            node.connect(address.with(Protocol::P2p(other.peer_id())))
                .await;
        }
    }
    sleep(2 * CONNECT).await;
    for (first, second) in &swarms {
        for (node, other) in [(first, second), (second, first)] {
            let peers = node.peers();
            assert!(
                peers.iter().all(|peer| peer.id == other.peer_id()),
                "{peers:?}"
            );
            assert!(!peers.is_empty());
        }
        exchange(first, second).await;
    }
    // Who has been told a key is let in.
    let late = member(Some(&keys[0]), swarms[0].1.listen_addresses());
    let late = start(late, store_with_pack(10, 1000)).await;
    connected(&swarms[0].1, late.peer_id()).await;
    exchange(&late, &swarms[0].1).await;
}

/// What comes on a connection until it is closed, and after how long that is.
async fn told(mut socket: TcpStream) -> (usize, Duration) {
    let begun = Instant::now();
    let mut bytes = Vec::new();
    // It may be reset, which is as good.
    let _ = timeout(4 * CONNECT, socket.read_to_end(&mut bytes))
        .await
        .expect("it is not closed");
    (bytes.len(), begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_dials_is_told_a_nonce_and_cut_off() {
    let key = SwarmKey::generate().unwrap();
    let (first, second) = swarm(Some(&key)).await;
    let Some(Protocol::Tcp(port)) = first.listen_addresses()[0].iter().last() else {
        panic!("no port");
    };
    let garbage = [0xa5; NONCE + 4000];
    let mut strangers = Vec::new();
    // Nothing, a part of a nonce, one with nothing behind it, and one with what is no greeting by this key.
    for length in [0, NONCE - 1, NONCE, garbage.len()] {
        let bytes = &garbage[..length];
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        strangers.push((length, tokio::spawn(told(socket))));
    }
    exchange(&first, &second).await;
    for (length, stranger) in strangers {
        let (bytes, lasted) = stranger.await.unwrap();
        assert_eq!(bytes, NONCE, "{length}");
        assert!(lasted < 2 * CONNECT, "{length}: {lasted:?}");
    }
    assert_eq!(first.peers().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_is_dialled_learns_nothing_and_is_dialled_ever_less() {
    let key = SwarmKey::generate().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let server = start(member(Some(&key), Vec::new()), store_with_pack(10, 1000)).await;
    let mut known = server.listen_addresses();
    known.push(address);
    let node = start(member(Some(&key), known), Store::default()).await;
    let begun = Instant::now();
    let mut dialled = Vec::new();
    while let Ok(accepted) = timeout(2 * CONNECT, listener.accept()).await {
        let (mut socket, _) = accepted.unwrap();
        dialled.push(begun.elapsed());
        match dialled.len() {
            // It says nothing.
            1 => assert_eq!(told(socket).await.0, NONCE),
            // It says something by another key.
            2 => {
                socket.write_all(&[0x5a; NONCE + 100]).await.unwrap();
                // Besides the nonce no more than a greeting, which has the same length for everybody and is encrypted.
                let (bytes, _) = told(socket).await;
                assert!(bytes < NONCE + 64, "{bytes}");
            }
            3 => break,
            _ => unreachable!(),
        }
    }
    let pauses: Vec<_> = dialled.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(
        pauses.len() == 2 && pauses[0] >= CONNECT && pauses[1] >= Duration::from_secs(1),
        "{pauses:?}"
    );
    assert_eq!(node.peers().len(), 1);
    exchange(&server, &node).await;
}

#[tokio::test]
async fn neighbours_of_other_swarms_are_found_and_not_met() {
    let Some(link) = Link::new("swarms", ["10.78.0.1/24", "10.78.0.2/24"]) else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let keys = [(); 2].map(|()| SwarmKey::generate().unwrap());
    let neighbour = |key: Option<&SwarmKey>| NodeConfig {
        swarm_key: key.cloned(),
        ..NodeConfig::new(Identity::generate())
    };
    let mut machines = Vec::new();
    for namespace in &link.names {
        for key in [Some(&keys[0]), Some(&keys[1]), None] {
            let store = store_with_pack(10, 1000);
            let machine = Machine::start(namespace, neighbour(key), store).await;
            machines.push(machine);
        }
    }
    let (here, there) = machines.split_at(3);
    for (one, other) in here.iter().zip(there) {
        connected(&one.node, other.node.peer_id()).await;
    }
    // What asks for neighbours is repeated after pauses, and may be lost.
    let all_found = async {
        for machine in &machines {
            while machine.node.network().await.unwrap().neighbours != Some(5) {
                sleep(Duration::from_millis(100)).await;
            }
        }
    };
    timeout(Duration::from_secs(60), all_found)
        .await
        .expect("not all neighbours are found");
    // Whoever finds somebody dials at once, and again after pauses.
    sleep(Duration::from_secs(4)).await;
    for (one, other) in here.iter().zip(there) {
        for (node, other) in [(&one.node, &other.node), (&other.node, &one.node)] {
            let ids: Vec<_> = node.peers().iter().map(|peer| peer.id).collect();
            assert_eq!(ids, [other.peer_id()]);
        }
        exchange(&one.node, &other.node).await;
    }
}
