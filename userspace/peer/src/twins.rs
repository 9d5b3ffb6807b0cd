// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Other machines that have this node's key: a store was copied with its key, and none of the two can
//! connect to the other.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;

use crate::network::ip_of;

/// The machines that are told of, each once.
const TOLD_MAX: usize = 16;

/// The addresses that are read of one message.
const ADDRESSES_MAX: usize = 64;

/// How long after the first time a machine must still be seen on the link: an address that the node itself
/// had a moment ago is no other machine's.
const STILL_THERE: Duration = Duration::from_secs(10);
/// To which multicast DNS is sent.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// The most bytes of a multicast DNS message.
const MESSAGE_MAX: usize = 9000;

/// Tells of them.
#[derive(Debug, Default)]
pub(crate) struct Twins {
    told: HashSet<IpAddr>,
    /// Those that the link told of, and since when.
    seen: HashMap<IpAddr, Instant>,
}

impl Twins {
    /// Whoever answered at this address has the node's key; the node itself listens at `own`.
    pub(crate) fn met(&mut self, address: &Multiaddr, own: &[Multiaddr]) {
        if is_own(address, own) {
            tracing::info!(%address, "a bootstrap address is this node's own and is passed over");
        } else {
            self.tell(address);
        }
    }

    /// Somebody with the node's key came from this address, of which the port says nothing.
    pub(crate) fn came(&mut self, from: &Multiaddr, own: &[Multiaddr]) {
        // The node has dialled itself: whether at an address of its own is seen where it dials.
        if !own.iter().any(|own| ip_of(own) == ip_of(from)) {
            self.tell(from);
        }
    }

    /// Multicast DNS names this address of a node with the node's key.
    pub(crate) fn seen(&mut self, address: &Multiaddr, own: &[Multiaddr], now: Instant) {
        if self.is_still_there(address, own, now) {
            self.tell(address);
        }
    }

    fn is_still_there(&mut self, address: &Multiaddr, own: &[Multiaddr], now: Instant) -> bool {
        let Some(ip) = ip_of(address).filter(|_| !is_own(address, own)) else {
            return false;
        };
        if self.seen.len() >= TOLD_MAX && !self.seen.contains_key(&ip) {
            return false;
        }
        let since = *self.seen.entry(ip).or_insert(now);
        now.saturating_duration_since(since) >= STILL_THERE
    }

    fn tell(&mut self, address: &Multiaddr) {
        if self.is_new(address) {
            tracing::warn!(
                %address,
                "a node there has this node's key, so the two cannot connect; unless that is this very \
                 machine, stop one of them, remove its key file, and start it: it gets a key of its own"
            );
        }
    }

    fn is_new(&mut self, address: &Multiaddr) -> bool {
        ip_of(address).is_some_and(|ip| self.told.len() < TOLD_MAX && self.told.insert(ip))
    }
}

/// Hears what nodes on the link say of themselves; libp2p's own part passes over those with the node's key.
pub(crate) struct Ear {
    socket: UdpSocket,
    message: Vec<u8>,
}

impl Ear {
    /// Beside libp2p's socket at the same port, which joins the group on each interface; each socket gets
    /// all messages to the group, and this one gets nothing else.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&std::net::SocketAddr::from((GROUP, 5353)).into())?;
        Ok(Ear {
            socket: UdpSocket::from_std(socket.into())?,
            message: vec![0; MESSAGE_MAX],
        })
    }

    /// The addresses that the next message names of a node with this id.
    pub(crate) async fn hear(&mut self, id: &PeerId) -> io::Result<Vec<Multiaddr>> {
        let length = self.socket.recv(&mut self.message).await?;
        let message = self.message.get(..length).unwrap_or_default();
        Ok(addresses_of(message, id))
    }
}

/// The addresses in a message that end with this id.
fn addresses_of(message: &[u8], id: &PeerId) -> Vec<Multiaddr> {
    let mut addresses = addresses_in(message);
    addresses.retain(|address| address.iter().last() == Some(Protocol::P2p(*id)));
    addresses
}

/// The addresses in a message's TXT records `dnsaddr=<address>`, some dozens at most. A text has its length before it, and
/// is never compressed.
pub(crate) fn addresses_in(message: &[u8]) -> Vec<Multiaddr> {
    const KEY: &[u8] = b"dnsaddr=";
    let mut addresses = Vec::new();
    for (place, window) in message.windows(KEY.len()).enumerate() {
        if window != KEY || addresses.len() >= ADDRESSES_MAX {
            continue;
        }
        let length = place.checked_sub(1).and_then(|before| message.get(before));
        let text = length
            .and_then(|length| message.get(place + KEY.len()..place + usize::from(*length)))
            .and_then(|text| std::str::from_utf8(text).ok());
        let address = text.and_then(|text| text.parse::<Multiaddr>().ok());
        addresses.extend(address);
    }
    addresses
}

/// Whether a node that listens at `own` is the one at this address.
pub(crate) fn is_own(address: &Multiaddr, own: &[Multiaddr]) -> bool {
    let there = socket(address);
    there.is_some() && own.iter().any(|own| socket(own) == there)
}

fn socket(address: &Multiaddr) -> Option<(IpAddr, u16)> {
    match address.iter().nth(1)? {
        Protocol::Tcp(port) => Some((ip_of(address)?, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_is_told_of_once_and_there_are_not_many() {
        let mut twins = Twins::default();
        let address = |host: usize, port: u16| -> Multiaddr {
            format!("/ip4/192.0.2.{host}/tcp/{port}").parse().unwrap()
        };
        assert!(twins.is_new(&address(1, 1)));
        assert!(!twins.is_new(&address(1, 2)));
        let told = (2..200).filter(|host| twins.is_new(&address(*host, 1)));
        assert_eq!(told.count(), TOLD_MAX - 1);
        assert!(!twins.is_new(&"/dns4/a.example/tcp/1".parse().unwrap()));
    }

    #[test]
    fn a_machine_on_the_link_is_told_of_when_it_is_still_there() {
        let (mut twins, now) = (Twins::default(), Instant::now());
        let address =
            |host: u8| -> Multiaddr { format!("/ip4/192.0.2.{host}/tcp/1").parse().unwrap() };
        let own = [address(1)];
        for later in [Duration::ZERO, STILL_THERE, STILL_THERE * 2] {
            assert!(!twins.is_still_there(&address(1), &own, now + later));
        }
        assert!(!twins.is_still_there(&address(2), &own, now));
        assert!(!twins.is_still_there(&address(2), &own, now + STILL_THERE / 2));
        assert!(twins.is_still_there(&address(2), &own, now + STILL_THERE));
        for host in 3..=255 {
            twins.is_still_there(&address(host), &own, now);
        }
        assert_eq!(twins.seen.len(), TOLD_MAX);
    }

    #[test]
    fn messages_are_searched_for_the_own_id_and_never_panic() {
        let (own, other) = (PeerId::random(), PeerId::random());
        let text = |id: &PeerId| {
            let text = format!("dnsaddr=/ip4/192.0.2.7/tcp/4001/p2p/{id}");
            [&[text.len() as u8], text.as_bytes()].concat()
        };
        let message = [&b"\0\0some header"[..], &text(&other), b"\x05", &text(&own)].concat();
        let found = addresses_of(&message, &own);
        let expected: Multiaddr = format!("/ip4/192.0.2.7/tcp/4001/p2p/{own}")
            .parse()
            .unwrap();
        assert_eq!(found, [expected]);
        for end in 0..message.len() {
            assert!(addresses_of(&message[..end], &own).is_empty());
        }
        assert!(addresses_of(b"dnsaddr=", &own).is_empty());
        assert!(addresses_of(b"\x01dnsaddr=", &own).is_empty());
    }
}
