// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who may have how many connections: each takes a file of the daemon's, which needs them for images and peers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most connections at a time.
const SEATS_MAX: usize = 256;
/// The most of them that this machine has, be it by loopback or a Unix socket: many a puller of it looks the same.
pub(crate) const SEATS_OF_HERE: usize = SEATS_MAX / 4;
/// The most of them that another address has.
const SEATS_OF_ADDRESS: usize = SEATS_MAX / 8;

/// Who is counted as one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Client {
    /// This machine.
    Here,
    /// A host.
    Four(Ipv4Addr),
    /// A network of 64 bits, of which each host has as many addresses as it wants.
    Six([u8; 8]),
}

impl Client {
    /// Who comes from an address; None is a Unix socket.
    fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Client::Here,
            Some(address) if address.is_loopback() => Client::Here,
            Some(IpAddr::V4(address)) => Client::Four(address),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Client::Six([a, b, c, d, e, f, g, h])
            }
        }
    }

    fn share(self) -> usize {
        match self {
            Client::Here => SEATS_OF_HERE,
            Client::Four(_) | Client::Six(_) => SEATS_OF_ADDRESS,
        }
    }
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<Client, usize>,
}

/// The places for connections. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seats(Arc<Mutex<Taken>>);

/// A place for a connection. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Seats,
    client: Client,
}

impl Seats {
    /// A place for who comes from an address (None is a Unix socket); None if all are taken, or all of its share.
    pub(crate) fn take(&self, address: Option<IpAddr>) -> Option<Seat> {
        let client = Client::of(address);
        let mut taken = self.lock();
        let own = taken.by_client.get(&client).copied().unwrap_or_default();
        if taken.all >= SEATS_MAX || own >= client.share() {
            return None;
        }
        taken.all += 1;
        taken.by_client.insert(client, own + 1);
        let seats = self.clone();
        Some(Seat { seats, client })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Counters are valid after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.all = taken.all.saturating_sub(1);
        let own = taken.by_client.remove(&self.client).unwrap_or_default();
        if own > 1 {
            taken.by_client.insert(self.client, own - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_seats_of_all() {
        let seats = Seats::default();
        let from = |text: &str| Some(text.parse().unwrap());
        let greedy = |address: &dyn Fn(usize) -> Option<IpAddr>| -> Vec<Seat> {
            (0..SEATS_MAX)
                .map_while(|number| seats.take(address(number)))
                .collect()
        };
        let here = greedy(&|number| from(["127.0.0.1", "::1", "127.9.9.9"][number % 3]));
        assert_eq!(here.len(), SEATS_OF_HERE);
        assert!(seats.take(None).is_none());
        let first = greedy(&|_| from("192.0.2.1"));
        assert_eq!(first.len(), SEATS_OF_ADDRESS);
        assert!(seats.take(from("::ffff:192.0.2.1")).is_none());
        // A host has as many addresses as it wants, which are one for that.
        let second = greedy(&|number| from(&format!("2001:db8::{number:x}")));
        assert_eq!(second.len(), SEATS_OF_ADDRESS);
        let third = seats.take(from("192.0.2.3"));
        assert!(third.is_some());
        // Whose end gives back what they had.
        drop(first);
        assert!(seats.take(from("192.0.2.1")).is_some());
        drop((here, second, third));
        assert!(seats.lock().by_client.is_empty() && seats.lock().all == 0);
        // Many together do not have more than all.
        let many = greedy(&|number| from(&format!("192.0.2.{}", number % 200)));
        assert_eq!(many.len(), SEATS_MAX);
        assert!(seats.take(None).is_none());
    }
}
