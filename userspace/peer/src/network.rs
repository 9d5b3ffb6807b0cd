// SPDX-License-Identifier: GPL-2.0 OR MIT

//! From where a peer comes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libp2p::multiaddr::Protocol;
use libp2p::Multiaddr;

/// A network of which one party has all addresses: /24 of IPv4, /56 of IPv6.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Network {
    V4([u8; 3]),
    V6([u8; 7]),
}

impl Network {
    /// The network of an address on the Internet; none for a local one, from which any number of peers may
    /// come.
    pub(crate) fn outside(address: &Multiaddr) -> Option<Self> {
        match ip_of(address)?.to_canonical() {
            IpAddr::V4(ip) if !is_local_v4(ip) => {
                let [a, b, c, _] = ip.octets();
                Some(Network::V4([a, b, c]))
            }
            IpAddr::V6(ip) if !is_local_v6(ip) => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                Some(Network::V6([a, b, c, d, e, f, g]))
            }
            _ => None,
        }
    }
}

/// The IP address at the beginning of an address.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// The address and port that a peer is reached at without another one.
pub(crate) fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    match tcp_port(address)? {
        Protocol::Tcp(port) if !is_relayed(address) => Some(SocketAddr::new(ip_of(address)?, port)),
        _ => None,
    }
}

/// The TCP port of an address.
pub(crate) fn tcp_port(address: &Multiaddr) -> Option<Protocol<'_>> {
    let port = address.iter().nth(1)?;
    matches!(port, Protocol::Tcp(_)).then_some(port)
}

/// Whether a peer is reached through a third one.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Those of private networks, of the link, of the machine, and those behind a provider's address translation (RFC 6598).
fn is_local_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    let is_shared = a == 100 && b & 0xc0 == 64;
    ip.is_loopback() || ip.is_private() || ip.is_link_local() || is_shared
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside(address: &str) -> Option<Network> {
        Network::outside(&address.parse().unwrap())
    }

    #[test]
    fn only_addresses_of_the_internet_have_one() {
        for local in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/ip4/169.254.1.1/tcp/1",
            "/ip4/100.127.0.1/tcp/1",
            "/ip6/::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
        ] {
            assert_eq!(outside(local), None, "{local}");
        }
        assert!(outside("/ip4/100.128.0.1/tcp/1").is_some());
        let v4 = Some(Network::V4([198, 51, 100]));
        assert_eq!(outside("/ip4/198.51.100.1/tcp/1"), v4);
        assert_eq!(outside("/ip4/198.51.100.254/tcp/2"), v4);
        assert_eq!(outside("/ip6/::ffff:198.51.100.7/tcp/2"), v4);
        assert_ne!(outside("/ip4/198.51.101.1/tcp/1"), v4);
        let v6 = outside("/ip6/2001:db8:1:200::1/tcp/1");
        assert!(v6.is_some());
        assert_eq!(outside("/ip6/2001:db8:1:2ff:1::/tcp/1"), v6);
        assert_ne!(outside("/ip6/2001:db8:1:300::1/tcp/1"), v6);
    }
}
