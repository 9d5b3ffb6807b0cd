// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tells clients of the control socket what happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerfs_control::{Event, EventKind};
use peerfs_fetch::{Progress, Pulls};
use peerfs_format::Digest;
use peerfs_peer::{Event as PeerEvent, Node};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::requests::{RequestCounts, RequestTotals};

/// The events that wait for a client; a slower one loses the oldest.
const QUEUE: usize = 1024;
/// What changes all the time is told so often.
const INTERVAL: Duration = Duration::from_secs(1);

/// What happens. Clones tell the same clients.
#[derive(Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Events {
    /// Without clients yet.
    pub fn new() -> Self {
        Events(broadcast::channel(QUEUE).0)
    }

    /// Tells all clients; never waits for one.
    pub fn tell(&self, kind: EventKind) {
        // There need not be any.
        let _ = self.0.send(now(kind));
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }

    /// Tells what happens to the peers and pulls and to the kernel's requests, until `shutdown`.
    pub async fn watch(
        self,
        node: Node,
        pulls: Pulls,
        requests: Arc<RequestCounts>,
        shutdown: CancellationToken,
    ) {
        let mut peers = node.subscribe();
        let mut ended = pulls.subscribe();
        let mut told = Told::default();
        let mut time = interval(INTERVAL);
        time.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = peers.recv() => match event {
                    Ok(PeerEvent::PeerConnected(peer)) => {
                        self.tell(EventKind::PeerConnected { peer: peer.to_string() });
                    }
                    Ok(PeerEvent::PeerDisconnected(peer)) => {
                        self.tell(EventKind::PeerDisconnected { peer: peer.to_string() });
                    }
                    Ok(PeerEvent::PeerMeasured(..)) => (),
                    Err(RecvError::Lagged(events)) => self.tell(EventKind::Lost { events }),
                    Err(RecvError::Closed) => return,
                },
                progress = ended.recv() => match progress {
                    Ok(progress) => self.tell(EventKind::Pull(progress.status())),
                    Err(RecvError::Lagged(events)) => self.tell(EventKind::Lost { events }),
                    Err(RecvError::Closed) => return,
                },
                _ = time.tick() => {
                    for kind in told.changes(pulls.progress(), requests.totals()) {
                        self.tell(kind);
                    }
                }
            }
        }
    }
}

/// An event that has just happened.
pub fn now(kind: EventKind) -> Event {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let time_ms = since.map_or(0, |since| since.as_millis());
    Event {
        time_ms: u64::try_from(time_ms).unwrap_or(u64::MAX),
        kind,
    }
}

/// What was told of what changes all the time.
#[derive(Default)]
struct Told {
    pulls: BTreeMap<Digest, Progress>,
    requests: RequestTotals,
}

impl Told {
    /// What has changed since. The ends of pulls are told when they come.
    fn changes(&mut self, pulls: Vec<Progress>, requests: RequestTotals) -> Vec<EventKind> {
        let mut changes = Vec::new();
        let running = pulls.into_iter().filter(|pull| !pull.state.is_final());
        let running: BTreeMap<_, _> = running.map(|pull| (pull.manifest, pull)).collect();
        for (manifest, pull) in &running {
            if self.pulls.get(manifest) != Some(pull) {
                changes.push(EventKind::Pull(pull.status()));
            }
        }
        self.pulls = running;
        if self.requests != requests {
            changes.push(EventKind::Misses {
                filled: requests.filled.saturating_sub(self.requests.filled),
                failed: requests.failed.saturating_sub(self.requests.failed),
            });
            self.requests = requests;
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use peerfs_fetch::{Amount, PullState};

    use super::*;

    fn progress(bytes: u64, state: PullState) -> Progress {
        Progress {
            manifest: Digest([1; 32]),
            state,
            total: None,
            here: Amount { bytes, chunks: 0 },
            bytes_by_source: BTreeMap::new(),
        }
    }

    #[test]
    fn what_has_not_changed_is_not_told() {
        let mut told = Told::default();
        let totals = |filled, failed| RequestTotals { filled, failed };
        let fetching = |bytes| vec![progress(bytes, PullState::Fetching)];
        assert_eq!(told.changes(Vec::new(), totals(0, 0)), []);
        let changes = told.changes(fetching(1), totals(5, 1));
        assert!(
            matches!(
                changes[..],
                [
                    EventKind::Pull(_),
                    EventKind::Misses {
                        filled: 5,
                        failed: 1
                    }
                ]
            ),
            "{changes:?}"
        );
        assert_eq!(told.changes(fetching(1), totals(5, 1)), []);
        let changes = told.changes(fetching(2), totals(7, 1));
        assert!(matches!(changes[1], EventKind::Misses { filled: 2, .. }));
        let complete = vec![progress(2, PullState::Complete)];
        assert_eq!(told.changes(complete, totals(7, 1)), []);
    }

    #[tokio::test]
    async fn who_is_slow_loses_the_oldest_events_and_holds_nobody_up() {
        let events = Events::new();
        let mut slow = events.subscribe();
        for events_before in 0..QUEUE as u64 + 7 {
            events.tell(EventKind::Lost {
                events: events_before,
            });
        }
        let lagged = slow.recv().await;
        assert!(matches!(lagged, Err(RecvError::Lagged(7))), "{lagged:?}");
        let first = slow.recv().await.unwrap();
        assert_eq!(first.kind, EventKind::Lost { events: 7 });
    }
}
