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

use crate::peer_table::Activity;

/// The time between two pings while nothing is outstanding: less than after what routers forget a connection.
pub(crate) const CALM: Duration = Duration::from_secs(120);
/// And while somebody waits for something.
const BUSY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take if the network may have been another one meanwhile: a reader may wait for that.
const DOUBT: Duration = Duration::from_secs(1);
/// On a slow line a question, or its answer, waits behind what else is carried: so long after the last of that
/// nobody is given up.
const SLOW: Duration = Duration::from_secs(20);

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
    /// It was asked at that time, and is to answer within the other.
    Asked(Instant, Duration),
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

    /// What is to be done now. `activity` says of a peer whether somebody waits for something, and when bytes last came
    /// or went.
    pub(crate) fn steps(
        &mut self,
        activity: impl Fn(PeerId) -> Activity,
        now: Instant,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for (id, pulse) in &mut self.connections {
            let patience = match pulse.state {
                State::Mute => continue,
                State::Asked(at, patience) => {
                    if at + patience <= now && !lives(activity(pulse.peer), at, patience, now) {
                        steps.push(Step::Close(pulse.peer, *id));
                        pulse.state = State::Mute;
                    }
                    continue;
                }
                State::Due(patience) => patience,
                State::Heard(at) => {
                    let pause = match activity(pulse.peer).waiting {
                        true => BUSY,
                        false => CALM,
                    };
                    if now.saturating_duration_since(at) < pause {
                        continue;
                    }
                    PATIENCE
                }
            };
            pulse.state = State::Asked(now, patience);
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

/// Whether an end that has not answered may still be there.
fn lives(activity: Activity, asked: Instant, patience: Duration, now: Instant) -> bool {
    activity.useful.is_some_and(|useful| match patience {
        // What was carried before says nothing any more.
        DOUBT => useful > asked,
        _ => now < useful + SLOW,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    struct Ends {
        heartbeat: Heartbeat,
        id: ConnectionId,
        now: Instant,
        useful: Option<Instant>,
    }

    impl Ends {
        fn new() -> Self {
            let (mut heartbeat, id) = (Heartbeat::default(), ConnectionId::new_unchecked(1));
            heartbeat.opened(id, PeerId::random());
            let now = Instant::now();
            Ends {
                heartbeat,
                id,
                now,
                useful: None,
            }
        }

        /// Lets time pass; returns how often it was asked, and whether it was closed. `answers` after no time.
        fn pass(&mut self, time: Duration, waiting: bool, answers: bool) -> (u32, bool) {
            let (end, mut asked) = (self.now + time, 0);
            while self.now < end {
                self.now += TICK;
                let useful = self.useful;
                let activity = |_| Activity { waiting, useful };
                for step in self.heartbeat.steps(activity, self.now) {
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
    fn on_a_slow_line_an_answer_may_wait_behind_what_else_is_carried() {
        let mut ends = Ends::new();
        ends.pass(PATIENCE, true, true);
        for _ in 0..10 {
            ends.useful = Some(ends.now);
            assert!(!ends.pass(PATIENCE, true, false).1, "something comes");
        }
        assert!(ends.pass(SLOW + BUSY, true, false).1, "nothing more comes");
        // What came before a sleep says nothing.
        let mut ends = Ends::new();
        ends.pass(PATIENCE, true, true);
        ends.useful = Some(ends.now);
        ends.heartbeat.doubt();
        assert!(ends.pass(DOUBT * 2, true, false).1);
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
