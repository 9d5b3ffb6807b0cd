// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Addresses that peers tell: which are of use, and how many are kept.

use std::net::IpAddr;

use libp2p::multiaddr::Protocol;
use libp2p::Multiaddr;

use crate::network::Network;

/// The addresses that are kept of one peer.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// Their bytes together. With those of 20 providers and 20 nearer nodes an answer of the DHT fits a packet of
/// 16 KiB, so that nobody hides a key behind long records.
const BYTES_MAX: usize = 256;

/// Those of a peer's addresses that can be dialled and kept, without the peer's id at their end.
pub(crate) fn useful(addresses: impl IntoIterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    let mut useful: Vec<Multiaddr> = Vec::new();
    let mut bytes = 0;
    for address in addresses {
        let Some(address) = tcp_of(&address).or_else(|| circuit_of(&address)) else {
            continue;
        };
        if useful.contains(&address) {
            continue;
        }
        bytes += address.len();
        if useful.len() == ADDRESSES_MAX || bytes > BYTES_MAX {
            break;
        }
        useful.push(address);
    }
    useful
}

/// Leaves out what means nothing on the Internet.
pub(crate) fn keep_outside(addresses: &mut Vec<Multiaddr>) {
    addresses.retain(|address| Network::outside(address).is_some());
}

/// Leaves out what means nothing here of the addresses that a peer told which is connected at `here`: addresses of a
/// private network, unless the peer is on one itself. Dialled, they would lead to machines of this node's own network.
pub(crate) fn keep_meaningful(addresses: &mut Vec<Multiaddr>, here: Option<&Multiaddr>) {
    let is_outside = here.is_some_and(|here| Network::outside(here).is_some());
    if is_outside {
        keep_outside(addresses);
    }
}

/// What is wrong with an address to listen on, if anything is: it is to be written behind the address.
pub fn listen_problem(address: &Multiaddr) -> Option<&'static str> {
    let mut parts = address.iter();
    match parts.next() {
        None => Some("is empty"),
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => {
            tcp_problem(parts.next()).or(parts.next().map(|_| "has something behind its port"))
        }
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => {
            Some("is a name; give an IP address of this machine, or 0.0.0.0 for all of them")
        }
        Some(_) => Some(NOT_AN_ADDRESS),
    }
}

/// What is wrong with the address of a bootstrap peer, if anything is.
pub fn bootstrap_problem(address: &Multiaddr) -> Option<&'static str> {
    let mut parts = address.iter();
    let names_no_machine = match parts.next() {
        None => return Some("is empty"),
        Some(Protocol::Ip4(ip)) => ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => ip.is_unspecified(),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => false,
        Some(_) => return Some(NOT_AN_ADDRESS),
    };
    if names_no_machine {
        return Some("names no machine");
    }
    let port = parts.next();
    if port == Some(Protocol::Tcp(0)) {
        return Some("has port 0, at which nobody listens");
    }
    tcp_problem(port).or(match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => None,
        _ => Some("has something else than /p2p/ and the peer's id behind its port"),
    })
}

/// What is wrong with an address at which others are to reach the node, if anything is.
pub fn external_problem(address: &Multiaddr) -> Option<&'static str> {
    listen_problem(address).or(match tcp_of(address) {
        None => Some("names no machine, or port 0"),
        Some(_) if Network::outside(address).is_none() => {
            Some("means nothing on the Internet: it is one of a local network")
        }
        Some(_) => None,
    })
}

const NOT_AN_ADDRESS: &str = "does not begin with an IP address or a host name";

fn tcp_problem(part: Option<Protocol<'_>>) -> Option<&'static str> {
    match part {
        Some(Protocol::Tcp(_)) => None,
        Some(_) => Some("is no TCP address, and peers speak nothing else"),
        None => Some("has no port"),
    }
}

/// The part of an address that is an IP address and a TCP port, if that and a peer's id is all of it.
pub(crate) fn tcp_of(address: &Multiaddr) -> Option<Multiaddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let port = match parts.next()? {
        Protocol::Tcp(port) if port != 0 => port,
        _ => return None,
    };
    let ends = match parts.next() {
        None => true,
        Some(Protocol::P2p(_)) => parts.next().is_none(),
        Some(_) => false,
    };
    (ends && !ip.is_unspecified()).then(|| Multiaddr::from(ip).with(Protocol::Tcp(port)))
}

/// The way to a relay, if an address is one through a relay that says which one that is.
fn circuit_of(address: &Multiaddr) -> Option<Multiaddr> {
    let mut parts = address.iter();
    let (ip, port) = (parts.next()?, parts.next()?);
    let relay = parts.next()?;
    let is_circuit =
        matches!(relay, Protocol::P2p(_)) && parts.next() == Some(Protocol::P2pCircuit);
    let ends = match parts.next() {
        None => true,
        Some(Protocol::P2p(_)) => parts.next().is_none(),
        Some(_) => false,
    };
    let way = tcp_of(&Multiaddr::empty().with(ip).with(port))?;
    (is_circuit && ends).then(|| way.with(relay).with(Protocol::P2pCircuit))
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_can_be_dialled_is_kept_and_once() {
        let id = PeerId::random();
        let told = [
            "",
            "/dns4/a.example/tcp/1",
            "/ip4/192.0.2.1/udp/1/quic-v1",
            "/ip4/192.0.2.1/tcp/0",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/192.0.2.1/tcp/1/ws",
            "/ip4/192.0.2.1/tcp/1/p2p-circuit",
            &format!("/ip4/0.0.0.0/tcp/1/p2p/{id}/p2p-circuit"),
            &format!("/p2p/{id}/p2p-circuit"),
            "/ip4/192.0.2.1/tcp/1",
            &format!("/ip4/192.0.2.1/tcp/1/p2p/{id}"),
            &format!("/ip4/192.0.2.1/tcp/1/p2p/{id}/p2p-circuit/p2p/{id}"),
            &format!("/ip4/192.0.2.1/tcp/1/p2p/{id}/p2p-circuit"),
            "/ip6/2001:db8::1/tcp/1",
        ];
        let kept = useful(told.iter().map(|text| address(text)));
        let good = [
            "/ip4/192.0.2.1/tcp/1",
            &format!("/ip4/192.0.2.1/tcp/1/p2p/{id}/p2p-circuit"),
            "/ip6/2001:db8::1/tcp/1",
        ];
        assert_eq!(kept, good.map(address));
    }

    #[test]
    fn private_addresses_mean_nothing_to_those_outside() {
        let told = [
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/198.51.100.1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
        ];
        let kept = |here: Option<&str>| {
            let mut addresses = told.map(address).to_vec();
            keep_meaningful(&mut addresses, here.map(address).as_ref());
            addresses
        };
        assert_eq!(kept(Some("/ip4/192.168.1.9/tcp/7")), told.map(address));
        assert_eq!(kept(None), told.map(address));
        assert_eq!(kept(Some("/ip4/203.0.113.9/tcp/7")), [address(told[1])]);
    }

    #[test]
    fn mistakes_are_named() {
        let id = PeerId::random();
        for good in ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/4001"] {
            assert_eq!(listen_problem(&address(good)), None, "{good}");
        }
        for (wrong, named) in [
            ("", "empty"),
            ("/dns4/a.example/tcp/1", "is a name"),
            ("/ip4/0.0.0.0", "no port"),
            ("/ip4/0.0.0.0/udp/1/quic-v1", "no TCP address"),
            ("/ip4/0.0.0.0/tcp/1/ws", "behind its port"),
            ("/unix/a", "does not begin"),
        ] {
            let problem = listen_problem(&address(wrong)).expect(wrong);
            assert!(problem.contains(named), "{wrong}: {problem}");
        }
        assert_eq!(
            external_problem(&address("/ip4/198.51.100.1/tcp/4001")),
            None
        );
        for (wrong, named) in [
            ("", "empty"),
            ("/ip4/198.51.100.1", "no port"),
            ("/ip4/198.51.100.1/tcp/0", "port 0"),
            ("/ip4/0.0.0.0/tcp/1", "no machine"),
            ("/ip4/192.168.1.2/tcp/1", "local network"),
        ] {
            let problem = external_problem(&address(wrong)).expect(wrong);
            assert!(problem.contains(named), "{wrong}: {problem}");
        }
        for good in [
            "/ip4/192.0.2.1/tcp/1",
            "/dns/a.example/tcp/1",
            &format!("/ip6/2001:db8::1/tcp/1/p2p/{id}"),
        ] {
            assert_eq!(bootstrap_problem(&address(good)), None, "{good}");
        }
        for (wrong, named) in [
            ("", "empty"),
            ("/ip4/0.0.0.0/tcp/1", "no machine"),
            ("/dns4/a.example", "no port"),
            ("/ip4/192.0.2.1/tcp/0", "port 0"),
            ("/ip4/192.0.2.1/udp/1/quic-v1", "no TCP address"),
            ("/ip4/192.0.2.1/tcp/1/ws", "behind its port"),
            (&format!("/p2p/{id}"), "does not begin"),
        ] {
            let problem = bootstrap_problem(&address(wrong)).expect(wrong);
            assert!(problem.contains(named), "{wrong}: {problem}");
        }
    }

    #[test]
    fn a_peer_has_few() {
        let many = (1..300).map(|port| address(&format!("/ip6/2001:db8::1/tcp/{port}")));
        let kept = useful(many);
        assert_eq!(kept.len(), ADDRESSES_MAX);
        assert!(kept.iter().map(Multiaddr::len).sum::<usize>() <= BYTES_MAX);
    }
}
