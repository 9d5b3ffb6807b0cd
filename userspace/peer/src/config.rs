// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How a node is set up.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::Multiaddr;
use peerfs_swarm::SwarmKey;

use crate::{Identity, Membership};

/// The settings of a node that meets others on the Internet.
#[derive(Clone, Debug)]
pub struct InternetConfig {
    /// Where others reach it, if somebody knows: IP addresses with a TCP port. Nobody need find out then.
    pub external: Vec<Multiaddr>,
    /// Whether it leads others to those that can't be reached otherwise, and passes on what these exchange.
    pub relay: bool,
    /// Whether a router is asked to forward a port, by UPnP.
    pub upnp: bool,
    /// How long after the start, and after an attempt that told little, others try to connect.
    pub test_interval: Duration,
}

impl Default for InternetConfig {
    fn default() -> Self {
        InternetConfig {
            external: Vec::new(),
            relay: false,
            upnp: true,
            test_interval: Duration::from_secs(10),
        }
    }
}

/// The settings of a node. [`NodeConfig::new`] gives those that need no network administrator.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Who the node is.
    pub identity: Identity,
    /// The key of the private swarm that it belongs to: it speaks with nodes that have the same, and with nobody else. Without
    /// it, with those that have none.
    pub swarm_key: Option<SwarmKey>,
    /// Its membership of a swarm whose nodes are certified: it speaks with members, and with nobody else.
    pub membership: Option<Arc<Membership>>,
    /// Where it listens. Addresses that can't be listened on (IPv6 on a machine without it) are
    /// logged and passed over, unless there is no other.
    pub listen: Vec<Multiaddr>,
    /// Whether peers on the same link are found by multicast DNS.
    pub mdns: bool,
    /// For a node on the Internet. Without it all are told where it listens, as on a network whose nodes reach each other.
    pub internet: Option<InternetConfig>,
    /// Peers to stay connected to, each with or without `/p2p/<peer id>` at its end. They may begin
    /// with `/dns/<name>`, `/dns4/<name>` or `/dns6/<name>`; of several addresses all are tried if
    /// the peer id is given, otherwise the first.
    pub bootstrap: Vec<Multiaddr>,
    /// Where banned peers are remembered; without it they are forgotten when the process ends.
    pub ban_list: Option<PathBuf>,
    /// Bytes of data per second that are sent to all peers together; without it there is no limit.
    pub upload_limit: Option<NonZeroU64>,
    /// After this long without a byte of an answer, a peer with requests outstanding counts as stalled. Noise brings
    /// up to 64,511 bytes at once, so this bounds the slowest line.
    pub stall_timeout: Duration,
    /// How long connecting to a peer and opening a stream may take.
    pub connect_timeout: Duration,
    /// The most connections, inbound and outbound together.
    pub connections_max: u32,
    /// How long a provider record lives in the DHT after its last announcement; it is announced
    /// again in half of that, or somewhat less.
    pub provider_record_lifetime: Duration,
}

impl NodeConfig {
    /// Listens on any free TCP port, IPv4 and IPv6, with mDNS on and no bootstrap peers.
    pub fn new(identity: Identity) -> Self {
        let ips = [
            Multiaddr::from(Ipv4Addr::UNSPECIFIED),
            Multiaddr::from(Ipv6Addr::UNSPECIFIED),
        ];
        NodeConfig {
            identity,
            swarm_key: None,
            membership: None,
            listen: ips.map(|ip| ip.with(Protocol::Tcp(0))).to_vec(),
            mdns: true,
            internet: None,
            bootstrap: Vec::new(),
            ban_list: None,
            upload_limit: None,
            stall_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            connections_max: 512,
            provider_record_lifetime: Duration::from_secs(48 * 60 * 60),
        }
    }
}
