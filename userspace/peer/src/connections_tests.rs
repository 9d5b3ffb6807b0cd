// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who is let in, and who goes.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Connections of a node, and the time.
struct Node {
    connections: Connections,
    now: Instant,
    next: usize,
    activity: HashMap<PeerId, Activity>,
    /// Whether what is connected now is so through a relay.
    relayed: bool,
}

impl Node {
    fn new(max: usize, bootstrap: &[PeerId]) -> Self {
        let bootstrap = bootstrap.iter().copied().collect();
        Node {
            connections: Connections::new(PeerId::random(), max, bootstrap),
            now: Instant::now(),
            next: 0,
            activity: HashMap::new(),
            relayed: false,
        }
    }

    fn id(&mut self) -> ConnectionId {
        self.next += 1;
        ConnectionId::new_unchecked(self.next)
    }

    fn finish(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        direction: Direction,
    ) -> Result<Option<PeerId>, Refusal> {
        let activity = &self.activity;
        let of = |peer| activity.get(&peer).copied().unwrap_or_default();
        let admitted = self.connections.admit(id, peer, direction, of, self.now);
        match admitted {
            Ok(victim) => {
                let (relayed, now) = (self.relayed, self.now);
                self.connections.opened(id, peer, direction, relayed, now);
                Ok(victim.map(|(peer, _)| peer))
            }
            Err(refusal) => {
                self.connections.failed(id, None, self.now);
                Err(refusal)
            }
        }
    }

    /// A peer connects from this address. Who goes for it, or why it may not.
    fn comes_from(&mut self, address: &str, peer: PeerId) -> Result<Option<PeerId>, Refusal> {
        let id = self.id();
        self.connections.knocks(id, &address.parse().unwrap())?;
        self.finish(id, peer, Direction::Inbound)
    }

    fn comes(&mut self, peer: PeerId) -> Result<Option<PeerId>, Refusal> {
        self.comes_from("/ip4/127.0.0.1/tcp/1", peer)
    }

    /// The node dials a peer because of what somebody said.
    fn dials(&mut self, peer: PeerId) -> Result<Option<PeerId>, Refusal> {
        let id = self.id();
        let activity = &self.activity;
        let of = |peer| activity.get(&peer).copied().unwrap_or_default();
        self.connections.dials(id, Some(peer), of, self.now)?;
        self.finish(id, peer, Direction::Outbound)
    }

    fn superfluous(&mut self) -> Vec<(PeerId, ConnectionId)> {
        let activity = &self.activity;
        let of = |peer| activity.get(&peer).copied().unwrap_or_default();
        self.connections.superfluous(of, self.now)
    }

    fn is_useful(&mut self, peer: PeerId) {
        let useful = Some(self.now);
        self.activity.insert(
            peer,
            Activity {
                waiting: false,
                useful,
            },
        );
    }
}

fn peers(count: usize) -> Vec<PeerId> {
    (0..count).map(|_| PeerId::random()).collect()
}

/// Whoever comes takes half of the connections at most, and no bootstrap peer is refused.
#[test]
fn idle_strangers_do_not_shut_a_node_off() {
    let bootstrap = PeerId::random();
    let mut node = Node::new(8, &[bootstrap]);
    for peer in peers(4) {
        assert_eq!(node.comes(peer), Ok(None));
    }
    assert_eq!(node.comes(PeerId::random()), Err(Refusal::Full));
    for peer in peers(4) {
        assert_eq!(node.dials(peer), Ok(None));
    }
    assert_eq!(node.dials(PeerId::random()), Err(Refusal::Full));
    assert_eq!(node.dials(bootstrap), Ok(None));
    assert_eq!(node.comes(bootstrap), Ok(None));

    // One that was configured without its id is known when it answers.
    let id = node.id();
    node.connections.expect(id, true);
    let found = PeerId::random();
    node.connections
        .dials(id, None, |_| Activity::default(), node.now)
        .unwrap();
    assert_eq!(node.finish(id, found, Direction::Outbound), Ok(None));
    assert_eq!(node.comes(found), Ok(None));
}

#[test]
fn the_least_valuable_goes_for_who_comes() {
    let mut node = Node::new(8, &[]);
    let [oldest, waiting, useful, idle]: [PeerId; 4] = peers(4).try_into().unwrap();
    for peer in [oldest, waiting, useful, idle] {
        node.comes(peer).unwrap();
        node.now += SECOND;
    }
    // Nobody is driven out by those who have just come.
    assert_eq!(node.comes(PeerId::random()), Err(Refusal::Full));
    node.is_useful(oldest);
    node.is_useful(useful);
    node.activity.insert(
        waiting,
        Activity {
            waiting: true,
            useful: None,
        },
    );
    node.now += SAFE;
    assert_eq!(node.comes(PeerId::random()), Ok(Some(idle)));
    node.activity.get_mut(&useful).unwrap().useful = Some(node.now - SAFE / 2);
    assert_eq!(node.comes(PeerId::random()), Ok(Some(oldest)));
    // The rest waits, was of use, or has just come.
    assert_eq!(node.comes(PeerId::random()), Err(Refusal::Full));
    node.now += SAFE;
    let victim = node.comes(PeerId::random()).unwrap().unwrap();
    assert!(![waiting, useful].contains(&victim));
}

#[test]
fn few_come_from_one_network_outside() {
    let mut node = Node::new(512, &[]);
    for host in 0..OF_NETWORK {
        let address = format!("/ip4/198.51.100.{host}/tcp/1");
        assert_eq!(node.comes_from(&address, PeerId::random()), Ok(None));
    }
    let another = "/ip4/198.51.100.99/tcp/1";
    let refused = node.comes_from(another, PeerId::random());
    assert_eq!(refused, Err(Refusal::Network));
    let elsewhere = "/ip4/198.51.101.99/tcp/1";
    assert_eq!(node.comes_from(elsewhere, PeerId::random()), Ok(None));
    for peer in peers(100) {
        assert_eq!(node.comes_from("/ip4/10.0.0.1/tcp/1", peer), Ok(None));
    }
    // Who ends makes room.
    node.connections.closed(ConnectionId::new_unchecked(1));
    assert_eq!(node.comes_from(another, PeerId::random()), Ok(None));
}

#[test]
fn what_is_set_up_is_bounded_and_forgotten() {
    let mut node = Node::new(512, &[]);
    let address = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let ids: Vec<_> = (0..PENDING).map(|_| node.id()).collect();
    for id in &ids {
        node.connections.knocks(*id, &address).unwrap();
    }
    let refused = node.connections.knocks(node.id_of(9999), &address);
    assert_eq!(refused, Err(Refusal::Pending));
    for id in ids {
        node.connections.failed(id, None, node.now);
    }
    assert!(node.connections.pending_inbound.is_empty());
}

impl Node {
    fn id_of(&self, number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }
}

#[test]
fn a_node_with_many_closes_those_that_were_idle_long() {
    let mut node = Node::new(16, &[]);
    let all = peers(14);
    for (number, peer) in all.iter().enumerate() {
        match number % 2 {
            0 => node.comes(*peer).unwrap(),
            _ => node.dials(*peer).unwrap(),
        };
        node.now += SECOND;
    }
    assert!(node.superfluous().is_empty());
    node.now += IDLE;
    node.is_useful(all[0]);
    let closed: Vec<PeerId> = node
        .superfluous()
        .into_iter()
        .map(|(peer, _)| peer)
        .collect();
    assert_eq!(closed, all[1..5]);
    assert_eq!(node.connections.open.len(), 10);
    assert!(node.superfluous().is_empty());
}

/// Two nodes that dialled each other at once keep the same connection, whichever looks first.
#[test]
fn of_two_connections_both_ends_close_the_same_one() {
    let (mut here, mut there) = (Node::new(8, &[]), Node::new(8, &[]));
    let ids = (here.connections.local, there.connections.local);
    // The first one is made here, the second one there.
    here.dials(ids.1).unwrap();
    there.comes(ids.0).unwrap();
    here.comes(ids.1).unwrap();
    there.dials(ids.0).unwrap();
    assert!(here.superfluous().is_empty());
    for node in [&mut here, &mut there] {
        node.now += DUPLICATE;
    }
    let closed_here = here.superfluous();
    assert_eq!(closed_here.len(), 1);
    let ids: Vec<_> = closed_here.iter().map(|(_, id)| *id).collect();
    let closed_there: Vec<_> = there.superfluous().iter().map(|(_, id)| *id).collect();
    assert_eq!(ids, closed_there);
    assert!(here.superfluous().is_empty());
}

/// Which of two that one side made was first is that side's to say.
#[test]
fn of_two_connections_that_one_side_made_it_closes_the_second() {
    let (mut here, mut there) = (Node::new(8, &[]), Node::new(8, &[]));
    let ids = (here.connections.local, there.connections.local);
    for _ in 0..2 {
        here.dials(ids.1).unwrap();
        there.comes(ids.0).unwrap();
    }
    for node in [&mut here, &mut there] {
        node.now += DUPLICATE;
    }
    assert!(there.superfluous().is_empty());
    let closed: Vec<_> = here.superfluous().iter().map(|(_, id)| *id).collect();
    assert_eq!(closed, [ConnectionId::new_unchecked(2)]);
}

#[test]
fn whoever_cannot_be_reached_is_left_alone_for_a_growing_time() {
    let mut node = Node::new(8, &[]);
    let peer = PeerId::random();
    let mut dialled = 0;
    // Somebody names it all the time.
    for _ in 0..600 {
        let id = node.id();
        let allowed = node
            .connections
            .dials(id, Some(peer), |_| Activity::default(), node.now);
        if allowed.is_ok() {
            dialled += 1;
            node.connections.failed(id, Some(peer), node.now);
        }
        node.now += SECOND / 10;
    }
    assert_eq!(dialled, 5, "at 0, 2, 6, 14 and 30 s");
    // The node's own decisions are its own, and who comes is there.
    let id = node.id();
    node.connections.expect(id, false);
    node.connections
        .dials(id, Some(peer), |_| Activity::default(), node.now)
        .unwrap();
    node.connections.failed(id, Some(peer), node.now);
    assert_eq!(node.dials(peer), Err(Refusal::Unreachable));
    node.comes(peer).unwrap();
    node.dials(peer).unwrap();
    for peer in peers(2 * UNREACHABLE_PEERS) {
        node.connections
            .failed(ConnectionId::new_unchecked(0), Some(peer), node.now);
    }
    assert!(node.connections.unreachable.len() <= UNREACHABLE_PEERS);
}

/// The bounds hold whatever happens.
#[test]
fn there_are_never_more_than_the_maximum() {
    let mut node = Node::new(20, &[]);
    for step in 0..2000u64 {
        let peer = PeerId::random();
        let _ = match step % 3 {
            0 => node.dials(peer),
            _ => node.comes(peer),
        };
        node.now += SECOND;
        let (open, inbound) = (
            node.connections.open.len(),
            node.connections.count(Direction::Inbound),
        );
        assert!(open <= 20 && inbound <= 10, "{open} {inbound}");
    }
    assert!(node.connections.pending_outbound.is_empty());
    assert!(node.connections.pending_inbound.is_empty());
}

#[test]
fn a_relay_is_left_when_there_is_a_way_without_it() {
    let mut node = Node::new(64, &[]);
    let (peer, other) = (PeerId::random(), PeerId::random());
    node.relayed = true;
    node.comes(peer).unwrap();
    node.comes(other).unwrap();
    node.now += SECOND * 60;
    assert_eq!(node.superfluous(), []);
    node.relayed = false;
    // Whoever dials, and whatever is under way.
    node.dials(peer).unwrap();
    let activity = Activity {
        waiting: true,
        useful: None,
    };
    node.activity.insert(peer, activity);
    assert_eq!(node.superfluous(), []);
    node.now += DIRECT;
    assert_eq!(node.superfluous(), [(peer, ConnectionId::new_unchecked(1))]);
    node.now += SECOND * 60;
    assert_eq!(node.superfluous(), []);
}
