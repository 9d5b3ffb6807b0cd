// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which local addresses a node of the Internet dials.
//!
//! Whoever is met there can name any address, one of a machine of this node's own network too, in the DHT, in a list of
//! peers, for a hole to be punched or a connection to be tried. So local ones are dialled if they were configured, or belong to a
//! network that this machine is in; those of the machine itself if they were configured.

use std::collections::HashSet;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::core::Transport;
use libp2p::Multiaddr;
use nix::ifaddrs::{getifaddrs, InterfaceAddress};
use nix::sys::socket::SockaddrStorage;

use crate::addresses::tcp_of;
use crate::network::{ip_of, Network};

/// The addresses that are remembered because they were configured, host names with what they stand for.
const CONFIGURED_MAX: usize = 1024;

/// The local addresses that were configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Configured(Arc<Mutex<HashSet<IpAddr>>>);

impl Configured {
    /// Remembers an address that was configured.
    pub(crate) fn add(&self, address: &Multiaddr) {
        let mut configured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if configured.len() < CONFIGURED_MAX {
            configured.extend(ip_of(address));
        }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let configured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        configured.contains(&ip)
    }
}

/// A transport that dials no foreign local addresses.
pub(crate) struct Guard<T> {
    inner: T,
    /// None if all addresses are dialled.
    configured: Option<Configured>,
}

impl<T> Guard<T> {
    pub(crate) fn new(inner: T, configured: Option<Configured>) -> Self {
        Guard { inner, configured }
    }

    fn is_dialled(&self, address: &Multiaddr) -> bool {
        let Some(configured) = &self.configured else {
            return true;
        };
        // The transport below passes over what stands before the last IP address, and the unspecified one is this machine.
        let Some(ip) = tcp_of(address).as_ref().and_then(ip_of) else {
            return false;
        };
        if Network::outside(address).is_some() || configured.contains(ip) {
            return true;
        }
        let ip = ip.to_canonical();
        !ip.is_loopback() && is_on_own_network(ip)
    }
}

/// Whether one of this machine's interfaces is in the network of an address. It is looked at anew for each, since
/// interfaces come and go.
fn is_on_own_network(ip: IpAddr) -> bool {
    let Ok(mut interfaces) = getifaddrs() else {
        return false;
    };
    interfaces.any(|interface| covers(&interface, ip))
}

fn covers(interface: &InterfaceAddress, ip: IpAddr) -> bool {
    let own = interface.address.as_ref().and_then(ip_from);
    let mask = interface.netmask.as_ref().and_then(ip_from);
    match (own, mask, ip) {
        (Some(IpAddr::V4(own)), Some(IpAddr::V4(mask)), IpAddr::V4(ip)) => is_in(
            u32::from(ip).into(),
            u32::from(own).into(),
            u32::from(mask).into(),
        ),
        (Some(IpAddr::V6(own)), Some(IpAddr::V6(mask)), IpAddr::V6(ip)) => {
            is_in(ip.into(), own.into(), mask.into())
        }
        _ => false,
    }
}

/// Without a mask an interface has no network.
fn is_in(ip: u128, own: u128, mask: u128) -> bool {
    mask != 0 && ip & mask == own & mask
}

fn ip_from(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

impl<T: Transport + Unpin> Transport for Guard<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<T::Dial, TransportError<T::Error>> {
        if self.is_dialled(&address) {
            self.inner.dial(address, options)
        } else {
            Err(TransportError::MultiaddrNotSupported(address))
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_dialled_on_own_networks_or_when_configured() {
        let configured = Configured::default();
        let guard = Guard::new((), Some(configured.clone()));
        let dialled = |address: &str| guard.is_dialled(&address.parse().unwrap());
        // This machine can't have all of these.
        let private = [
            "/ip4/10.98.7.6/tcp/1",
            "/ip4/192.168.213.2/tcp/1",
            "/ip6/fd01:2:3::4/tcp/1",
        ];
        for address in private {
            assert!(!dialled(address), "{address}");
            configured.add(&address.parse().unwrap());
            assert!(dialled(address), "{address}");
        }
        assert!(!dialled("/ip4/127.0.0.1/tcp/1"));
        assert!(!dialled("/ip6/::1/tcp/1"));
        assert!(!dialled("/ip6/::ffff:127.0.0.1/tcp/1"));
        // Linux connects to this machine then.
        assert!(!dialled("/ip4/0.0.0.0/tcp/1") && !dialled("/ip6/::/tcp/1"));
        // The transport connects to the last one.
        assert!(!dialled("/ip4/198.51.100.1/ip4/127.0.0.1/tcp/1"));
        assert!(!dialled("/ip4/198.51.100.1/ip4/10.98.7.7/tcp/1"));
        assert!(!dialled("/ip4/198.51.100.1/tcp/1/ip4/127.0.0.1/tcp/1"));
        assert!(dialled("/ip4/198.51.100.1/tcp/1"));
        assert!(Guard::new((), None).is_dialled(&private[0].parse().unwrap()));
        // The loopback interface's network is one that this machine is in.
        assert!(is_on_own_network("127.9.9.9".parse().unwrap()));
    }

    #[test]
    fn networks_are_told_by_their_masks() {
        let number =
            |ip: &str| -> u128 { u32::from(ip.parse::<std::net::Ipv4Addr>().unwrap()).into() };
        let (own, mask) = (number("10.1.2.3"), number("255.255.0.0"));
        assert!(is_in(number("10.1.9.9"), own, mask));
        assert!(!is_in(number("10.2.2.3"), own, mask));
        assert!(!is_in(own, own, 0));
    }
}
