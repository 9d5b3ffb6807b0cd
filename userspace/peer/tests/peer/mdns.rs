// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Nodes on one link find each other with no configuration: two network namespaces with a pair of
//! virtual interfaces between them, and a process in each. Needs root and `ip`.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::*;
use peerfs_peer::{Identity, NodeConfig};
use tokio::time::timeout;

/// The network namespaces of this test; they are gone with it.
pub struct Link {
    pub names: [String; 2],
}

impl Link {
    /// `None` where it is not permitted.
    pub fn new(name: &str, addresses: [&str; 2]) -> Option<Self> {
        let id = std::process::id();
        let link = Link {
            names: ["a", "b"].map(|side| format!("peerfs-{id}-{name}-{side}")),
        };
        let [a, b] = &link.names;
        let made = ip(&["netns", "add", a])
            && ip(&["netns", "add", b])
            && ip(&[
                "-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b,
            ]);
        let up = |name, address| {
            let mut add = vec!["-n", name, "addr", "add", address, "dev", "eth0"];
            // Without waiting whether another one has it.
            add.extend(address.contains(':').then_some("nodad"));
            ip(&add)
                && ip(&["-n", name, "link", "set", "lo", "up"])
                && ip(&["-n", name, "link", "set", "eth0", "up"])
        };
        let [of_a, of_b] = addresses;
        (made && up(a, of_a) && up(b, of_b)).then_some(link)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&["netns", "del", name]);
        }
    }
}

pub fn ip(arguments: &[&str]) -> bool {
    Command::new("ip")
        .args(arguments)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// This program again, as a node in a namespace.
fn node_in(namespace: &str) -> Child {
    Command::new("ip")
        .args(["netns", "exec", namespace])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "mdns::node_in_a_namespace",
            "--ignored",
            "--nocapture",
        ])
        .spawn()
        .unwrap()
}

fn find_each_other(name: &str, addresses: [&str; 2]) {
    let Some(link) = Link::new(name, addresses) else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let begun = Instant::now();
    let nodes = link.names.each_ref().map(|name| node_in(name));
    for mut node in nodes {
        assert!(node.wait().unwrap().success());
    }
    println!("both nodes were done after {:?}", begun.elapsed());
}

#[test]
fn nodes_on_a_link_find_each_other() {
    find_each_other("v4", ["10.77.0.1/24", "10.77.0.2/24"]);
}

#[test]
fn nodes_on_a_link_without_ipv4_find_each_other() {
    find_each_other("v6", ["fd77::1/64", "fd77::2/64"]);
}

/// Not a test by itself: one of the nodes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by nodes_on_a_link_find_each_other"]
async fn node_in_a_namespace() {
    let node = start(
        NodeConfig::new(Identity::generate()),
        store_with_pack(10, 100),
    )
    .await;
    let begun = Instant::now();
    let mut events = node.subscribe();
    if node.peers().is_empty() {
        let found = timeout(Duration::from_secs(15), events.recv()).await;
        found.expect("no peer was found").unwrap();
    }
    println!("found a peer after {:?}", begun.elapsed());
    let peer = node.peers().swap_remove(0).id;
    assert_eq!(providers(&node, PACK).await, [peer]);
    // The other one may still be looking.
    tokio::time::sleep(Duration::from_secs(2)).await;
}
