// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Nodes on an Internet of network namespaces: one in the middle that all reach, and others that reach nothing else.
//! Needs root and `ip`.

use std::collections::BTreeSet;
use std::fs::File;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{identify, kad, noise, yamux, Multiaddr, StreamProtocol, SwarmBuilder};
use nix::sched::{setns, CloneFlags};
use peerfs_exchange::Priority;
use peerfs_peer::{Identity, InternetConfig, Node, NodeConfig, PeerId, Reachability, RequestError};
use peerfs_swarm::SwarmKey;
use tokio::sync::{mpsc, oneshot};

use crate::mdns::ip;
use crate::raw::PROTOCOL;
use crate::support::*;

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A machine in the middle, and others on networks of their own with it.
struct Internet {
    middle: String,
    sides: Vec<String>,
}

impl Internet {
    /// `None` where it is not permitted. The machine in the middle has the addresses `5.5.N.1`, the others `5.5.N.2`, and
    /// a network of their own with it on which it has `10.5.N.1`.
    fn new(sides: usize) -> Option<Self> {
        let id = format!(
            "peerfs-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let internet = Internet {
            middle: format!("{id}-m"),
            sides: (1..=sides).map(|side| format!("{id}-{side}")).collect(),
        };
        let middle = internet.middle.as_str();
        let mut made =
            ip(&["netns", "add", middle]) && ip(&["-n", middle, "link", "set", "lo", "up"]);
        for (side, name) in (1..).zip(&internet.sides) {
            let link = format!("side{side}");
            let address = |network: &str, host| format!("{network}.5.{side}.{host}/24");
            made = made
                && ip(&["netns", "add", name])
                && ip(&[
                    "-n", middle, "link", "add", &link, "type", "veth", "peer", "name", "eth0",
                    "netns", name,
                ])
                && ip(&["-n", middle, "addr", "add", &address("5", 1), "dev", &link])
                && ip(&["-n", middle, "addr", "add", &address("10", 1), "dev", &link])
                && ip(&["-n", middle, "link", "set", &link, "up"])
                && ip(&["-n", name, "addr", "add", &address("5", 2), "dev", "eth0"])
                && ip(&["-n", name, "addr", "add", &address("10", 2), "dev", "eth0"])
                && ip(&["-n", name, "link", "set", "lo", "up"])
                && ip(&["-n", name, "link", "set", "eth0", "up"])
                && ip(&[
                    "-n",
                    name,
                    "route",
                    "add",
                    "default",
                    "via",
                    &format!("5.5.{side}.1"),
                ]);
        }
        made.then_some(internet)
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for name in self.sides.iter().chain([&self.middle]) {
            ip(&["netns", "del", name]);
        }
    }
}

/// Runs a command in a namespace.
fn run_in(namespace: &str, command: &str) -> bool {
    ip(&["netns", "exec", namespace, "sh", "-c", command])
}

impl Internet {
    /// Makes routers of the machines at the sides, which let nothing in that was not asked for, and puts others behind
    /// them. `None` if that is not possible here.
    fn behind_routers(&mut self) -> Option<Vec<String>> {
        let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
        let mut made = run_in(&self.middle, forward);
        let mut homes = Vec::new();
        for (side, router) in self.sides.clone().into_iter().enumerate() {
            let home = format!("{router}-h");
            let (own, gateway) = (format!("192.168.{side}.2/24"), format!("192.168.{side}.1"));
            let translate = "iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE && \
                             iptables -A INPUT -i eth0 -m state --state NEW -j DROP && \
                             iptables -A FORWARD -i eth0 -m state --state NEW -j DROP";
            made = made
                && ip(&["netns", "add", &home])
                && ip(&[
                    "-n", &router, "link", "add", "home", "type", "veth", "peer", "name", "eth0",
                    "netns", &home,
                ])
                && ip(&[
                    "-n",
                    &router,
                    "addr",
                    "add",
                    &format!("{gateway}/24"),
                    "dev",
                    "home",
                ])
                && ip(&["-n", &router, "link", "set", "home", "up"])
                && ip(&["-n", &home, "addr", "add", &own, "dev", "eth0"])
                && ip(&["-n", &home, "link", "set", "lo", "up"])
                && ip(&["-n", &home, "link", "set", "eth0", "up"])
                && ip(&["-n", &home, "route", "add", "default", "via", &gateway])
                && run_in(&router, forward)
                && run_in(&router, translate);
            homes.push(home);
        }
        self.sides.extend(homes.iter().cloned());
        made.then_some(homes)
    }
}

/// A thread in a namespace, and a runtime in it.
fn inside<F: Future>(
    namespace: &str,
    run: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<F::Output>
where
    F::Output: Send + 'static,
{
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(run())
    })
}

/// A node in a namespace, with a thread and a runtime of its own.
pub struct Machine {
    pub node: Node,
    /// Dropped, it lets the thread end.
    ends: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    pub async fn start(namespace: &str, config: NodeConfig, store: Store) -> Self {
        let (started, mut starts) = mpsc::channel(1);
        let (ends, end) = oneshot::channel::<()>();
        let thread = inside(namespace, || async move {
            let node = start(config, store).await;
            started.send(node.clone()).await.unwrap();
            drop(started);
            let _ = end.await;
            node.shutdown().await;
        });
        Machine {
            node: starts.recv().await.unwrap(),
            ends: Some(ends),
            thread: Some(thread),
        }
    }

    async fn reachability(&self) -> Option<Reachability> {
        self.node.network().await.unwrap().reachability
    }

    async fn becomes(&self, reachability: Reachability) {
        for _ in 0..200 {
            if self.reachability().await == Some(reachability) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{:?}, not {reachability:?}", self.reachability().await);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.ends.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            if !thread::panicking() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn internet(bootstrap: Option<&str>) -> NodeConfig {
    let mut config = NodeConfig::new(Identity::generate());
    config.mdns = false;
    config.listen = vec!["/ip4/0.0.0.0/tcp/4001".parse().unwrap()];
    config.bootstrap = bootstrap
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    config.internet = Some(InternetConfig {
        upnp: false,
        test_interval: Duration::from_secs(1),
        ..InternetConfig::default()
    });
    config
}

fn relay() -> NodeConfig {
    let mut config = internet(None);
    let settings = config.internet.as_mut().unwrap();
    settings.relay = true;
    settings.external = vec!["/ip4/5.5.1.1/tcp/4001".parse().unwrap()];
    config
}

#[derive(NetworkBehaviour)]
struct Curious {
    identify: identify::Behaviour,
    dht: kad::Behaviour<MemoryStore>,
    streams: libp2p_stream::Behaviour,
}

/// The addresses that the node at this one tells of itself, and those that the DHT names of it and of others.
async fn told(address: Multiaddr) -> BTreeSet<String> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            Default::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|keypair| {
            let id = keypair.public().to_peer_id();
            let dht = kad::Config::new(StreamProtocol::new("/peerfs/kad/2"));
            Curious {
                identify: identify::Behaviour::new(identify::Config::new(
                    "/peerfs/2".to_owned(),
                    keypair.public(),
                )),
                dht: kad::Behaviour::with_config(id, MemoryStore::new(id), dht),
                streams: libp2p_stream::Behaviour::new(),
            }
        })
        .unwrap()
        .with_swarm_config(|settings| {
            settings.with_idle_connection_timeout(Duration::from_secs(60))
        })
        .build();
    // Others are sent away.
    let _streams = swarm
        .behaviour()
        .streams
        .new_control()
        .accept(PROTOCOL)
        .unwrap();
    swarm.dial(address.clone()).unwrap();
    let mut told = BTreeSet::new();
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(CuriousEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) if told.is_empty() => {
                told.extend(info.listen_addrs.iter().map(ToString::to_string));
                let dht = &mut swarm.behaviour_mut().dht;
                dht.add_address(&peer_id, address.clone());
                dht.get_closest_peers(PeerId::random());
            }
            SwarmEvent::Behaviour(CuriousEvent::Dht(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(found),
                ..
            })) => {
                let peers = found.unwrap().peers.into_iter();
                let addresses = peers.flat_map(|peer| peer.addrs);
                told.extend(
                    addresses
                        .filter(|one| *one != address)
                        .map(|one| one.to_string()),
                );
                return told;
            }
            _ => {}
        }
    }
}

/// What a stranger is told by two nodes which are connected by an address of the network that is their own.
async fn told_by_neighbours(on_the_internet: bool) -> Option<BTreeSet<String>> {
    let net = Internet::new(1)?;
    let mut configs = [internet(None), internet(Some("/ip4/10.5.1.1/tcp/4001"))];
    for (config, address) in configs.iter_mut().zip(["5.5.1.1", "5.5.1.2"]) {
        match on_the_internet {
            true => {
                let external = format!("/ip4/{address}/tcp/4001").parse().unwrap();
                config.internet.as_mut().unwrap().external = vec![external];
            }
            false => config.internet = None,
        }
    }
    let [middle, side] = configs;
    let middle = Machine::start(&net.middle, middle, Store::default()).await;
    let side = Machine::start(&net.sides[0], side, Store::default()).await;
    for (node, other) in [(&middle, &side), (&side, &middle)] {
        connected(&node.node, other.node.peer_id()).await;
        let begun = Instant::now();
        while node.node.network().await.unwrap().dht_nodes == 0 {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "alone in the DHT"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let mut all = BTreeSet::new();
    for address in ["/ip4/5.5.1.1/tcp/4001", "/ip4/5.5.1.2/tcp/4001"] {
        let asking = inside(&net.sides[0], || told(address.parse().unwrap()));
        all.append(&mut asking.join().unwrap());
    }
    Some(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn local_addresses_are_told_on_a_local_network_alone() {
    let Some(on_a_lan) = told_by_neighbours(false).await else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let is_local = |address: &&String| !address.starts_with("/ip4/5.5.");
    assert!(
        on_a_lan.iter().any(|address| is_local(&address)),
        "{on_a_lan:?}"
    );
    let outside = told_by_neighbours(true).await.unwrap();
    assert!(outside.len() >= 2, "{outside:?}");
    assert_eq!(outside.iter().find(is_local), None, "{outside:?}");
}

#[tokio::test]
async fn nodes_that_meet_at_a_relay_alone_exchange_chunks() {
    let Some(net) = Internet::new(3) else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let middle = Machine::start(&net.middle, relay(), Store::default()).await;
    assert_eq!(middle.reachability().await, Some(Reachability::Direct));
    // It listens where nobody else comes to.
    let mut hidden = internet(Some("/ip4/5.5.2.1/tcp/4001"));
    hidden.listen = vec!["/ip4/127.0.0.1/tcp/4001".parse().unwrap()];
    let hidden = Machine::start(&net.sides[1], hidden, store_with_pack(40, 50_000)).await;
    let open = Machine::start(
        &net.sides[2],
        internet(Some("/ip4/5.5.3.1/tcp/4001")),
        Store::default(),
    )
    .await;
    hidden.node.provide(PACK).await;
    hidden.becomes(Reachability::Relayed).await;
    open.becomes(Reachability::Direct).await;

    let peer = hidden.node.peer_id();
    let mut found = Vec::new();
    for _ in 0..100 {
        found = providers(&open.node, PACK).await;
        if !found.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(found, [peer]);
    let address = open
        .node
        .peers()
        .into_iter()
        .find(|info| info.id == peer)
        .unwrap()
        .address;
    assert!(address.to_string().contains("p2p-circuit"), "{address}");
    let numbers: Vec<u32> = (0..40).collect();
    let mut chunks = fetch(&open.node, peer, &numbers, Priority::Demand);
    let mut arrived = 0;
    while let Some(chunk) = chunks.next().await {
        chunk.unwrap();
        arrived += 1;
    }
    assert_eq!(arrived, 40);

    // Only who is reached is a part of the DHT.
    assert_eq!(middle.node.network().await.unwrap().dht_nodes, 1);
    assert_eq!(hidden.node.network().await.unwrap().dht_nodes, 2);
}

/// Whether one node is connected to another, and not by a relay alone.
fn is_direct(node: &Node, peer: PeerId) -> bool {
    let mut peers = node.peers().into_iter();
    let found = peers.find(|info| info.id == peer);
    found.is_some_and(|info| !info.address.to_string().contains("p2p-circuit"))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_behind_routers_connect_without_the_relay() {
    meet_behind_routers(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_private_swarm_connect_behind_routers_too() {
    meet_behind_routers(Some(SwarmKey::generate().unwrap())).await;
}

async fn meet_behind_routers(key: Option<SwarmKey>) {
    let private = |mut config: NodeConfig| {
        config.swarm_key.clone_from(&key);
        config
    };
    let mut net = Internet::new(2);
    let Some(homes) = net.as_mut().and_then(Internet::behind_routers) else {
        eprintln!("skipped: it needs root, `ip` and `iptables`");
        return;
    };
    let net = net.unwrap();
    let middle = Machine::start(&net.middle, private(relay()), Store::default()).await;
    let home = private(internet(Some("/ip4/5.5.1.1/tcp/4001")));
    let another = NodeConfig {
        identity: Identity::generate(),
        ..home.clone()
    };
    let one = Machine::start(&homes[0], home, store_with_pack(10, 50_000)).await;
    let other = Machine::start(&homes[1], another, Store::default()).await;
    one.node.provide(PACK).await;
    one.becomes(Reachability::Relayed).await;
    connected(&other.node, middle.node.peer_id()).await;
    let begun = Instant::now();
    while !is_direct(&other.node, one.node.peer_id()) {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "no hole is punched"
        );
        providers(&other.node, PACK).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("connected without the relay after {:?}", begun.elapsed());
    // The other connection goes, and what is asked for comes all the same.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(is_direct(&one.node, other.node.peer_id()));
    // Who has just asked by the one that goes asks again.
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut chunks = fetch(&other.node, one.node.peer_id(), &[3], Priority::Demand);
        match chunks.next().await.unwrap() {
            Err(RequestError::Disconnected) => {}
            answer => answers.push(answer.is_ok()),
        }
    }
    assert!(!answers.is_empty() && answers.iter().all(|came| *came));
}
