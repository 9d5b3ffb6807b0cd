// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Host names in addresses.

use std::io;
use std::iter;
use std::net::IpAddr;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::Multiaddr;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long the system's resolver may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The addresses that are taken of one name.
const ADDRESSES_MAX: usize = 8;

/// The addresses that `address` stands for: itself, unless it begins with a host name. Never none.
pub(crate) async fn resolve(address: &Multiaddr) -> io::Result<Vec<Multiaddr>> {
    let mut parts = address.iter();
    let (name, wanted): (_, fn(&IpAddr) -> bool) = match parts.next() {
        Some(Protocol::Dns(name)) => (name, |_| true),
        Some(Protocol::Dns4(name)) => (name, IpAddr::is_ipv4),
        Some(Protocol::Dns6(name)) => (name, IpAddr::is_ipv6),
        _ => return Ok(vec![address.clone()]),
    };
    let rest: Multiaddr = parts.collect();
    let addresses: Vec<Multiaddr> = timeout(TIMEOUT, lookup_host((name.as_ref(), 0)))
        .await??
        .map(|socket_address| socket_address.ip())
        .filter(wanted)
        .take(ADDRESSES_MAX)
        .map(|ip| iter::once(ip.into()).chain(rest.iter()).collect())
        .collect();
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no such address",
        ));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_replaced_and_the_rest_is_kept() {
        let name: Multiaddr = "/dns4/localhost/tcp/4001".parse().unwrap();
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
        assert!(resolve(&name).await.unwrap().contains(&address));
        assert_eq!(resolve(&address).await.unwrap(), [address]);
    }
}
