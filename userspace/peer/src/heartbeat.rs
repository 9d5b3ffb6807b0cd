// SPDX-License-Identifier: GPL-2.0 OR MIT

//! When to ask a peer whether it is still there, and when to believe that it is not.
//!
//! A plain type: no I/O and no clock. While nothing is outstanding few pings go, for they wake batteries and keep
//! routers busy; what a peer asks counts as well as what it answers, so that of two one asks. While somebody waits
//! they go often, for a connection that is dead says nothing by itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::PeerId;

/// The time between two pings while nothing is outstanding: less than after what routers forget a connection.
pub(crate) const CALM: Duration = Duration::from_secs(120);
/// And while somebody waits for something.
const BUSY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take if the network may have been another one meanwhile: a reader may wait for that.
const DOUBT: Duration = Duration::from_secs(1);

/// What is known of the connections' ends.
#[derive(Default)]
pub(crate) struct Heartbeat {
    connections: HashMap<ConnectionId, Pulse>,
}

struct Pulse {
    peer: PeerId,
    state: State,
}

enum State {
    /// Something was heard then.
    Heard(Instant),
    /// It is to be asked now, and to answer within that time.
    Due(Duration),
    /// It was asked, and is to answer until then.
    Asked(Instant),
    /// It does not speak the protocol.
    Mute,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Ask(PeerId, ConnectionId),
    Close(PeerId, ConnectionId),
}

impl Heartbeat {
    /// A new connection is asked at once: so the round-trip time is known.
    pub(crate) fn opened(&mut self, id: ConnectionId, peer: PeerId) {
        let state = State::Due(PATIENCE);
        self.connections.insert(id, Pulse { peer, state });
    }

    pub(crate) fn closed(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// The other end is there.
    pub(crate) fn heard(&mut self, id: ConnectionId, now: Instant) {
        self.set(id, State::Heard(now));
    }

    /// The other end does not answer such questions.
    pub(crate) fn mute(&mut self, id: ConnectionId) {
        self.set(id, State::Mute);
    }

    /// The machine has slept, or its addresses have changed: each connection may be dead.
    pub(crate) fn doubt(&mut self) {
        for pulse in self.connections.values_mut() {
            if !matches!(pulse.state, State::Mute) {
                pulse.state = State::Due(DOUBT);
            }
        }
    }

    /// What is to be done now. `waiting` says of a peer whether somebody waits for something.
    pub(crate) fn steps(&mut self, waiting: impl Fn(PeerId) -> bool, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        for (id, pulse) in &mut self.connections {
            let patience = match pulse.state {
                State::Mute => continue,
                State::Asked(until) => {
                    if until <= now {
                        steps.push(Step::Close(pulse.peer, *id));
                        pulse.state = State::Mute;
                    }
                    continue;
                }
                State::Due(patience) => patience,
                State::Heard(at) => {
                    let pause = if waiting(pulse.peer) { BUSY } else { CALM };
                    if now.saturating_duration_since(at) < pause {
                        continue;
                    }
                    PATIENCE
                }
            };
            pulse.state = State::Asked(now + patience);
            steps.push(Step::Ask(pulse.peer, *id));
        }
        steps
    }

    fn set(&mut self, id: ConnectionId, state: State) {
        if let Some(pulse) = self.connections.get_mut(&id) {
            pulse.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    struct Ends {
        heartbeat: Heartbeat,
        id: ConnectionId,
        now: Instant,
    }

    impl Ends {
        fn new() -> Self {
            let (mut heartbeat, id) = (Heartbeat::default(), ConnectionId::new_unchecked(1));
            heartbeat.opened(id, PeerId::random());
            let now = Instant::now();
            Ends { heartbeat, id, now }
        }

        /// Lets time pass; returns how often it was asked, and whether it was closed. `answers` after no time.
        fn pass(&mut self, time: Duration, waiting: bool, answers: bool) -> (u32, bool) {
            let (end, mut asked) = (self.now + time, 0);
            while self.now < end {
                self.now += TICK;
                for step in self.heartbeat.steps(|_| waiting, self.now) {
                    match step {
                        Step::Close(..) => return (asked, true),
                        Step::Ask(..) if answers => self.heartbeat.heard(self.id, self.now),
                        Step::Ask(..) => (),
                    }
                    asked += u32::from(matches!(step, Step::Ask(..)));
                }
            }
            (asked, false)
        }
    }

    #[test]
    fn few_are_asked_while_nothing_is_outstanding() {
        let hour = Duration::from_secs(3600);
        let mut ends = Ends::new();
        let (asked, closed) = ends.pass(hour, false, true);
        assert!((25..=31).contains(&asked) && !closed, "{asked}");
        let (asked, _) = ends.pass(Duration::from_secs(60), true, true);
        assert!((10..=13).contains(&asked), "{asked}");
        // What the other end asks counts too.
        let mut asked = 0;
        for _ in 0..100 {
            ends.heartbeat.heard(ends.id, ends.now);
            asked += ends.pass(CALM - TICK * 2, false, true).0;
        }
        assert_eq!(asked, 0);
    }

    #[test]
    fn who_says_nothing_is_closed_once_and_after_a_sleep_soon() {
        let mut ends = Ends::new();
        assert_eq!(ends.pass(PATIENCE * 2, false, false), (1, true));
        assert_eq!(ends.pass(CALM * 3, false, false), (0, false));
        let mut ends = Ends::new();
        ends.pass(PATIENCE, false, true);
        ends.heartbeat.doubt();
        assert_eq!(ends.pass(DOUBT + TICK * 2, false, false), (1, true));
        let mut ends = Ends::new();
        ends.pass(PATIENCE, false, true);
        ends.heartbeat.doubt();
        assert_eq!(ends.pass(CALM / 2, false, true), (1, false));
    }

    #[test]
    fn who_cannot_answer_stays() {
        let mut ends = Ends::new();
        ends.pass(TICK, false, false);
        ends.heartbeat.mute(ends.id);
        ends.heartbeat.doubt();
        assert_eq!(ends.pass(CALM * 3, true, false), (0, false));
        ends.heartbeat.closed(ends.id);
        assert!(ends.heartbeat.connections.is_empty());
    }
}
