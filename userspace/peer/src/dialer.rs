// SPDX-License-Identifier: GPL-2.0 OR MIT

//! When to dial whom.

use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

/// The pause after the first failure; it doubles with every further one.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Whom a dialer keeps connected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// Whoever is at this address.
    Address(Multiaddr),
    /// This peer, whose addresses the discovery knows.
    Peer(PeerId),
}

/// Keeps targets connected: dials, and dials again after growing pauses.
#[derive(Debug, Default)]
pub(crate) struct Dialer {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    /// Known from the start, or since the first connection.
    peer: Option<PeerId>,
    state: State,
    pause: Duration,
}

#[derive(Debug, Eq, PartialEq)]
enum State {
    Waiting(Instant),
    Resolving,
    Dialing(ConnectionId),
    Connected,
}

impl Dialer {
    /// Adds a target, to be dialled at once unless it is a peer that is connected already.
    pub(crate) fn add(&mut self, target: Target, connected: bool, now: Instant) {
        if self.entries.iter().any(|entry| entry.target == target) {
            return;
        }
        let peer = match &target {
            Target::Peer(peer) => Some(*peer),
            Target::Address(address) => peer_of(address),
        };
        self.entries.push(Entry {
            target,
            peer,
            state: if connected {
                State::Connected
            } else {
                State::Waiting(now)
            },
            pause: PAUSE_MIN,
        });
    }

    /// Forgets a target.
    pub(crate) fn remove(&mut self, target: &Target) {
        self.entries.retain(|entry| entry.target != *target);
    }

    /// Forgets a peer, whatever its targets.
    pub(crate) fn remove_peer(&mut self, peer: PeerId) {
        self.entries.retain(|entry| entry.peer != Some(peer));
    }

    /// The number of targets.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A target to dial now, if there is one.
    pub(crate) fn due(&self, now: Instant) -> Option<Target> {
        let due = |entry: &&Entry| matches!(entry.state, State::Waiting(at) if at <= now);
        self.entries
            .iter()
            .find(due)
            .map(|entry| entry.target.clone())
    }

    /// A target that is due is being looked up.
    pub(crate) fn resolving(&mut self, target: &Target) {
        if let Some(entry) = self.entry(target) {
            entry.state = State::Resolving;
        }
    }

    /// A target could not be looked up.
    pub(crate) fn unresolved(&mut self, target: &Target, now: Instant) {
        if let Some(entry) = self.entry(target) {
            entry.fail(now);
        }
    }

    /// A target that was looked up is being dialled.
    pub(crate) fn dialing(&mut self, target: &Target, connection: ConnectionId) {
        // It may have connected meanwhile.
        let resolving = |entry: &&mut Entry| entry.state == State::Resolving;
        if let Some(entry) = self.entry(target).filter(resolving) {
            entry.state = State::Dialing(connection);
        }
    }

    /// A connection was made, by whomever.
    pub(crate) fn connected(&mut self, connection: ConnectionId, peer: PeerId) {
        for entry in &mut self.entries {
            if entry.state == State::Dialing(connection) {
                entry.peer = Some(peer);
            }
            if entry.peer == Some(peer) {
                entry.state = State::Connected;
                entry.pause = PAUSE_MIN;
            }
        }
    }

    /// An attempt failed; returns whose, if it was one of the dialer's.
    pub(crate) fn failed(&mut self, connection: ConnectionId, now: Instant) -> Option<Target> {
        let dialing = |entry: &&mut Entry| entry.state == State::Dialing(connection);
        let entry = self.entries.iter_mut().find(dialing)?;
        entry.fail(now);
        Some(entry.target.clone())
    }

    /// An attempt will never succeed: the target is this node itself.
    pub(crate) fn hopeless(&mut self, connection: ConnectionId) {
        self.entries
            .retain(|entry| entry.state != State::Dialing(connection));
    }

    /// The last connection to a peer ended.
    pub(crate) fn disconnected(&mut self, peer: PeerId, now: Instant) {
        for entry in &mut self.entries {
            if entry.peer == Some(peer) && entry.state == State::Connected {
                entry.state = State::Waiting(now + entry.pause);
            }
        }
    }

    fn entry(&mut self, target: &Target) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|entry| entry.target == *target)
    }
}

impl Entry {
    fn fail(&mut self, now: Instant) {
        self.state = State::Waiting(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// The peer id at the end of an address.
pub(crate) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    /// Dials the target that is due.
    fn dial(dialer: &mut Dialer, number: usize, now: Instant) -> bool {
        let target = dialer.due(now);
        if let Some(target) = &target {
            dialer.resolving(target);
            assert_eq!(dialer.due(now), None);
            dialer.dialing(target, connection(number));
        }
        target.is_some()
    }

    fn address() -> Target {
        Target::Address("/ip4/127.0.0.1/tcp/1".parse().unwrap())
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut dialer = Dialer::default();
        let mut now = Instant::now();
        dialer.add(address(), false, now);
        let mut pauses = Vec::new();
        for number in 0..10 {
            let failed = now;
            while !dial(&mut dialer, number, now) {
                now += Duration::from_millis(100);
            }
            pauses.push(now - failed);
            assert_eq!(dialer.failed(connection(number), now), Some(address()));
        }
        assert_eq!(pauses[..4], [0, 500, 1000, 2000].map(Duration::from_millis));
        assert_eq!(*pauses.last().unwrap(), PAUSE_MAX);
    }

    #[test]
    fn a_connected_target_is_dialled_again_when_it_is_gone() {
        let mut dialer = Dialer::default();
        let (peer, now) = (PeerId::random(), Instant::now());
        dialer.add(address(), false, now);
        assert!(dial(&mut dialer, 1, now));
        dialer.connected(connection(1), peer);
        let later = now + Duration::from_secs(60);
        assert!(!dial(&mut dialer, 2, later));
        dialer.disconnected(peer, later);
        assert!(!dial(&mut dialer, 3, later));
        assert!(dial(&mut dialer, 3, later + PAUSE_MIN));
    }

    #[test]
    fn a_peer_that_came_by_itself_is_not_dialled() {
        let mut dialer = Dialer::default();
        let (peer, now) = (PeerId::random(), Instant::now());
        dialer.add(Target::Peer(peer), false, now);
        dialer.connected(connection(7), peer);
        assert!(!dial(&mut dialer, 8, now));
        dialer.remove_peer(peer);
        assert_eq!(dialer.len(), 0);
    }
}
