// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Multicast DNS over IPv6. That of libp2p names no interface, so that questions go out by any one.
//!
//! Only addresses that mean the same on all of the link are told: a link-local one takes the name of an interface to be
//! dialled, which is another one on each machine.

mod asking;
mod message;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{if_nametoindex, InterfaceFlags};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::addresses::useful;
use crate::dialer::peer_of;
use asking::{Asking, Message};
use message::Said;

/// To which multicast DNS is sent.
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const PORT: u16 = 5353;
/// The most bytes of a message.
const MESSAGE_MAX: usize = 9000;
/// How often it is looked which interfaces there are.
const LOOK: Duration = Duration::from_secs(2);
/// The interfaces that are listened to.
const INTERFACES_MAX: usize = 64;
/// The neighbours that are remembered, and for how long after they were heard.
const NEIGHBOURS_MAX: usize = 4096;
const LIVES: Duration = Duration::from_secs(15 * 60);

/// The links that have IPv6.
pub(crate) struct Links {
    socket: UdpSocket,
    interfaces: BTreeMap<u32, Interface>,
    looked: Option<Instant>,
    buffer: Vec<u8>,
}

struct Interface {
    addresses: Vec<Ipv6Addr>,
    asking: Asking,
}

impl Links {
    /// None that was looked at yet.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_multicast_hops_v6(255)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
        Ok(Links {
            socket: UdpSocket::from_std(socket.into())?,
            interfaces: BTreeMap::new(),
            looked: None,
            buffer: vec![0; MESSAGE_MAX],
        })
    }

    /// The addresses that somebody says next, each with its peer's id at its end. Asks and answers meanwhile, for the node that
    /// listens at `own`. May be dropped and called again.
    pub(crate) async fn hear(
        &mut self,
        id: &PeerId,
        own: impl Fn() -> Vec<Multiaddr>,
    ) -> io::Result<Vec<Multiaddr>> {
        loop {
            let wakes_at = self.speak(id, &own, Instant::now());
            let (length, from) = tokio::select! {
                heard = self.socket.recv_from(&mut self.buffer) => heard?,
                () = tokio::time::sleep_until(wakes_at.into()) => continue,
            };
            let SocketAddr::V6(from) = from else {
                continue;
            };
            let Some(interface) = self.interfaces.get_mut(&from.scope_id()) else {
                continue;
            };
            let said = self.buffer.get(..length).and_then(message::read);
            match said {
                // Its own question is heard, too.
                Some(Said::Question) if !interface.addresses.contains(from.ip()) => {
                    interface.asking.asked(fastrand::f64(), Instant::now());
                }
                Some(Said::Answer(mut addresses)) => {
                    addresses.retain(|address| peer_of(address) != Some(*id));
                    if !addresses.is_empty() {
                        interface.asking.answered(Instant::now());
                        return Ok(addresses);
                    }
                }
                _ => {}
            }
        }
    }

    /// Sends what is due; returns when something is again.
    fn speak(&mut self, id: &PeerId, own: impl Fn() -> Vec<Multiaddr>, now: Instant) -> Instant {
        if self.looked.is_none_or(|at| at + LOOK <= now) {
            self.looked = Some(now);
            self.look(now);
        }
        let mut wakes_at = now + LOOK;
        for (index, interface) in &mut self.interfaces {
            while let Some(due) = interface.asking.next(now) {
                let message = match due {
                    Message::Question => message::question(),
                    Message::Answer => {
                        let addresses = interface.told(&own());
                        if addresses.is_empty() {
                            continue;
                        }
                        message::answer(id, &addresses)
                    }
                };
                let to = SocketAddr::from(SocketAddrV6::new(GROUP, PORT, 0, *index));
                // What does not go out at once is lost, as any other may be.
                let sent = SockRef::from(&self.socket).send_to(&message, &to.into());
                if let Err(error) = sent {
                    tracing::debug!(index, %error, "cannot send multicast DNS");
                }
            }
            wakes_at = wakes_at.min(interface.asking.wakes_at());
        }
        wakes_at
    }

    /// Looks which interfaces there are.
    fn look(&mut self, now: Instant) {
        let mut found: BTreeMap<u32, Vec<Ipv6Addr>> = BTreeMap::new();
        let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST;
        for interface in getifaddrs().into_iter().flatten() {
            let address = interface.address.as_ref();
            let address = address.and_then(|address| address.as_sockaddr_in6().map(|v6| v6.ip()));
            let is_link = interface.flags.contains(wanted)
                && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            if let (Some(address), true) = (address, is_link) {
                if let Ok(index) = if_nametoindex(interface.interface_name.as_str()) {
                    found.entry(index).or_default().push(address);
                }
            }
        }
        self.interfaces.retain(|index, _| found.contains_key(index));
        for (index, addresses) in found.into_iter().take(INTERFACES_MAX) {
            match self.interfaces.get_mut(&index) {
                Some(known) if known.addresses == addresses => continue,
                Some(_) => {}
                None => match self.socket.join_multicast_v6(&GROUP, index) {
                    Ok(()) => {}
                    // It has been here before.
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                    Err(error) => {
                        tracing::debug!(index, %error, "no multicast DNS over IPv6");
                        continue;
                    }
                },
            }
            let asking = Asking::new(now);
            let interface = Interface { addresses, asking };
            self.interfaces.insert(index, interface);
        }
    }
}

impl Interface {
    /// Those of the node's addresses that are told on this link.
    fn told(&self, own: &[Multiaddr]) -> Vec<Multiaddr> {
        let is_told = |address: &&Multiaddr| match address.iter().next() {
            Some(Protocol::Ip6(ip)) => self.addresses.contains(&ip) && !ip.is_unicast_link_local(),
            _ => false,
        };
        useful(own.iter().filter(is_told).cloned())
    }
}

/// The neighbours that were heard over IPv6.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(HashMap<PeerId, (Vec<Multiaddr>, Instant)>);

impl Neighbours {
    /// Addresses were heard; returns whose they are.
    pub(crate) fn heard(&mut self, addresses: Vec<Multiaddr>, now: Instant) -> Vec<PeerId> {
        self.0.retain(|_, (_, until)| now < *until);
        let mut of_peers: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for address in addresses {
            if let Some(peer) = peer_of(&address) {
                of_peers.entry(peer).or_default().push(address);
            }
        }
        let mut heard = Vec::new();
        for (peer, addresses) in of_peers {
            let addresses = useful(addresses);
            let has_room = self.0.len() < NEIGHBOURS_MAX || self.0.contains_key(&peer);
            if has_room && !addresses.is_empty() {
                self.0.insert(peer, (addresses, now + LIVES));
                heard.push(peer);
            }
        }
        heard
    }

    /// Where a neighbour is.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let known = self.0.get(peer);
        known.map_or(Vec::new(), |(addresses, _)| addresses.clone())
    }

    /// All of them.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.0.keys()
    }
}
