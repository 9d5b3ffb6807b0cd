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
/// A neighbour that could not be reached is given up when its pauses have become as long as this.
const PATIENCE: Duration = PAUSE_MAX;
/// The same in a private swarm, where a neighbour is more likely one of another swarm than one that is slow.
const PATIENCE_IN_PRIVATE: Duration = Duration::from_secs(4);
/// A connection that stood so long was worth its making, also if nothing was exchanged on it. One that the
/// peer drops at once, because it has no room, was not.
const STOOD: Duration = Duration::from_secs(60);

/// Whom a dialer keeps connected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// Whoever is at this address.
    Address(Multiaddr),
    /// This peer, whose addresses the discovery knows.
    Peer(PeerId),
}

/// Keeps targets connected: dials, and dials again after growing pauses.
#[derive(Debug)]
pub(crate) struct Dialer {
    entries: Vec<Entry>,
    /// The pause with which a target that was not configured is given up.
    patience: Duration,
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
    /// Since then.
    Connected(Instant),
}

impl Dialer {
    /// Without targets, for a node of a private swarm or another one.
    pub(crate) fn new(private: bool) -> Self {
        Dialer {
            entries: Vec::new(),
            patience: match private {
                true => PATIENCE_IN_PRIVATE,
                false => PATIENCE,
            },
        }
    }

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
                State::Connected(now)
            } else {
                State::Waiting(now)
            },
            pause: PAUSE_MIN,
        });
    }

    /// The network is another one: what failed is tried again at once, with the pauses of the beginning.
    pub(crate) fn retry(&mut self, now: Instant) {
        for entry in &mut self.entries {
            entry.pause = PAUSE_MIN;
            if let State::Waiting(at) = &mut entry.state {
                *at = now.min(*at);
            }
        }
    }

    /// Forgets a target.
    pub(crate) fn remove(&mut self, target: &Target) {
        self.entries.retain(|entry| entry.target != *target);
    }

    /// Forgets a peer, whatever its targets.
    pub(crate) fn remove_peer(&mut self, peer: PeerId) {
        self.entries.retain(|entry| entry.peer != Some(peer));
    }

    /// The number of targets that were configured, and of those of them that are connected.
    pub(crate) fn bootstrap(&self) -> (usize, usize) {
        let mut counts = (0, 0);
        for entry in &self.entries {
            if matches!(entry.target, Target::Address(_)) {
                counts.0 += 1;
                counts.1 += usize::from(matches!(entry.state, State::Connected(_)));
            }
        }
        counts
    }

    /// The number of targets that discovery knows.
    pub(crate) fn neighbours(&self) -> usize {
        let is_peer = |entry: &&Entry| matches!(entry.target, Target::Peer(_));
        self.entries.iter().filter(is_peer).count()
    }

    /// A target to dial now, if there is one; only one that was configured, if there is no room for others.
    pub(crate) fn due(&self, room: bool, now: Instant) -> Option<Target> {
        let due = |entry: &&Entry| {
            matches!(entry.state, State::Waiting(at) if at <= now)
                && (room || matches!(entry.target, Target::Address(_)))
        };
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

    /// Whether a target is always to be connected, because it was configured.
    pub(crate) fn is_bootstrap(&self, target: &Target) -> bool {
        matches!(target, Target::Address(_))
            && self.entries.iter().any(|entry| entry.target == *target)
    }

    /// A connection was made, by whomever.
    pub(crate) fn connected(&mut self, connection: ConnectionId, peer: PeerId, now: Instant) {
        for entry in &mut self.entries {
            if entry.state == State::Dialing(connection) {
                entry.peer = Some(peer);
            }
            if entry.peer == Some(peer) && !matches!(entry.state, State::Connected(_)) {
                entry.state = State::Connected(now);
            }
        }
    }

    /// An attempt failed; returns whose, if it was one of the dialer's, and whether that is given up: one that was not
    /// configured, when its pauses have become long.
    pub(crate) fn failed(
        &mut self,
        connection: ConnectionId,
        now: Instant,
    ) -> Option<(Target, bool)> {
        let dialing = |entry: &Entry| entry.state == State::Dialing(connection);
        let place = self.entries.iter().position(dialing)?;
        let entry = self.entries.get_mut(place)?;
        entry.fail(now);
        let target = entry.target.clone();
        let given_up = entry.pause >= self.patience && matches!(target, Target::Peer(_));
        if given_up {
            self.entries.swap_remove(place);
        }
        Some((target, given_up))
    }

    /// An attempt will never succeed: whoever answers has this node's own key. Returns whose it was.
    pub(crate) fn hopeless(&mut self, connection: ConnectionId) -> Option<Target> {
        let dialing = |entry: &Entry| entry.state == State::Dialing(connection);
        let place = self.entries.iter().position(dialing)?;
        Some(self.entries.swap_remove(place).target)
    }

    /// The last connection to a peer ended. It is dialled again soon if the connection was `useful` or stood
    /// for some time; otherwise it is as if there had been none.
    pub(crate) fn disconnected(&mut self, peer: PeerId, useful: bool, now: Instant) {
        for entry in &mut self.entries {
            let State::Connected(since) = entry.state else {
                continue;
            };
            if entry.peer == Some(peer) {
                if useful || now.saturating_duration_since(since) >= STOOD {
                    entry.pause = PAUSE_MIN;
                }
                entry.fail(now);
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
        let target = dialer.due(true, now);
        if let Some(target) = &target {
            dialer.resolving(target);
            assert_eq!(dialer.due(true, now), None);
            dialer.dialing(target, connection(number));
        }
        target.is_some()
    }

    fn address() -> Target {
        Target::Address("/ip4/127.0.0.1/tcp/1".parse().unwrap())
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut dialer = Dialer::new(false);
        let mut now = Instant::now();
        dialer.add(address(), false, now);
        let mut pauses = Vec::new();
        for number in 0..10 {
            let failed = now;
            while !dial(&mut dialer, number, now) {
                now += Duration::from_millis(100);
            }
            pauses.push(now - failed);
            let failed = dialer.failed(connection(number), now);
            assert_eq!(failed, Some((address(), false)));
        }
        assert_eq!(pauses[..4], [0, 500, 1000, 2000].map(Duration::from_millis));
        assert_eq!(*pauses.last().unwrap(), PAUSE_MAX);
    }

    #[test]
    fn in_another_network_all_is_tried_at_once() {
        let (mut dialer, now) = (Dialer::new(false), Instant::now());
        dialer.add(address(), false, now);
        for number in 0..8 {
            assert!(dial(&mut dialer, number, now + PAUSE_MAX * number as u32));
            dialer.failed(connection(number), now + PAUSE_MAX * number as u32);
        }
        let later = now + PAUSE_MAX * 7 + PAUSE_MIN;
        assert!(!dial(&mut dialer, 8, later));
        dialer.retry(later);
        assert!(dial(&mut dialer, 8, later));
        dialer.failed(connection(8), later);
        assert!(dial(&mut dialer, 9, later + PAUSE_MIN));
    }

    #[test]
    fn a_connected_target_is_dialled_again_when_it_is_gone() {
        let mut dialer = Dialer::new(false);
        let (peer, now) = (PeerId::random(), Instant::now());
        dialer.add(address(), false, now);
        assert!(dial(&mut dialer, 1, now));
        dialer.connected(connection(1), peer, now);
        let later = now + Duration::from_secs(60);
        assert!(!dial(&mut dialer, 2, later));
        dialer.disconnected(peer, false, later);
        assert!(!dial(&mut dialer, 3, later));
        assert!(dial(&mut dialer, 3, later + PAUSE_MIN));
    }

    #[test]
    fn a_peer_that_came_by_itself_is_not_dialled() {
        let mut dialer = Dialer::new(false);
        let (peer, now) = (PeerId::random(), Instant::now());
        dialer.add(Target::Peer(peer), false, now);
        dialer.connected(connection(7), peer, now);
        assert!(!dial(&mut dialer, 8, now));
        dialer.remove_peer(peer);
        assert_eq!(dialer.neighbours(), 0);
    }

    #[test]
    fn who_was_found_on_the_link_and_cannot_be_reached_is_given_up() {
        let neighbour = || Target::Peer(PeerId::random());
        for (target, private, expected) in [
            (neighbour(), false, 6),
            (neighbour(), true, 3),
            (address(), false, 20),
            (address(), true, 20),
        ] {
            let (mut dialer, mut now) = (Dialer::new(private), Instant::now());
            dialer.add(target.clone(), false, now);
            let (mut tries, mut over) = (0, false);
            while tries < 20 && !over {
                if dial(&mut dialer, tries, now) {
                    let (failed, given_up) = dialer.failed(connection(tries), now).unwrap();
                    assert_eq!(failed, target);
                    over = given_up;
                    tries += 1;
                }
                now += Duration::from_millis(100);
            }
            assert_eq!((tries, dialer.entries.is_empty()), (expected, over));
        }
    }

    /// How often a target is dialled in a minute whose connections end after so long, used or not.
    fn dialled_in_a_minute(stands: Duration, useful: bool) -> usize {
        let mut dialer = Dialer::new(false);
        let (peer, start) = (PeerId::random(), Instant::now());
        dialer.add(address(), false, start);
        let (mut dialled, mut ends) = (0, None);
        for step in 0..600 {
            let now = start + Duration::from_millis(100) * step;
            if ends.is_some_and(|at| at <= now) {
                ends = None;
                dialer.disconnected(peer, useful, now);
            }
            if dial(&mut dialer, dialled, now) {
                dialer.connected(connection(dialled), peer, now);
                dialled += 1;
                ends = Some(now + stands);
            }
        }
        dialled
    }

    #[test]
    fn a_handshake_alone_does_not_shorten_the_pauses() {
        let moment = Duration::from_millis(100);
        assert!(dialled_in_a_minute(moment, false) <= 8);
        assert!(dialled_in_a_minute(moment, true) > 50);
        let (mut dialer, now) = (Dialer::new(false), Instant::now());
        let peer = PeerId::random();
        dialer.add(address(), false, now);
        for number in 0..5 {
            assert!(dial(&mut dialer, number, now + PAUSE_MAX * number as u32));
            dialer.failed(connection(number), now);
        }
        let later = now + PAUSE_MAX * 5;
        assert!(dial(&mut dialer, 9, later));
        dialer.connected(connection(9), peer, later);
        dialer.disconnected(peer, false, later + STOOD);
        assert!(dial(&mut dialer, 10, later + STOOD + PAUSE_MIN));
    }

    #[test]
    fn without_room_only_what_was_configured_is_dialled() {
        let (mut dialer, now) = (Dialer::new(false), Instant::now());
        dialer.add(Target::Peer(PeerId::random()), false, now);
        assert_eq!(dialer.due(false, now), None);
        dialer.add(address(), false, now);
        assert_eq!(dialer.due(false, now), Some(address()));
        assert!(dialer.is_bootstrap(&address()));
        assert!(!dialer.is_bootstrap(&Target::Address("/ip4/127.0.0.1/tcp/2".parse().unwrap())));
    }
}
