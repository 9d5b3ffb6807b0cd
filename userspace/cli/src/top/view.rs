// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is shown of what a daemon is busy with: text of what it says, and nothing else.

use std::time::Instant;

use peerfs_control::{Activity, PeerClass, PeerStatus, PullState, PullStatus};
use peerfs_store::printable;

use crate::output::{age, align, digest, rate, size, Align};
use crate::peers;

/// The account of the bytes of all peers.
const PEERS: &str = "peers";
/// The width of a bar.
const BAR: u64 = 20;

/// What a daemon said.
pub(super) struct Reading {
    pub(super) activity: Activity,
    pub(super) at: Instant,
}

/// What there is to be shown.
pub(super) struct Frame {
    lines: Vec<String>,
}

impl Frame {
    /// Of what a daemon said before, if it was asked, and now.
    pub(super) fn new(before: Option<&Reading>, now: &Reading) -> Self {
        let activity = &now.activity;
        let since = before.filter(|before| is_same_daemon(&before.activity, activity));
        let mut lines = vec![
            format!(
                "peerfsd {}, up {}, node {}",
                printable(&activity.version),
                age(activity.uptime_ms),
                printable(&activity.node_id)
            ),
            traffic(since, now),
            requests(since, now),
            hits(activity),
            network(activity),
        ];
        if !activity.pulls.is_empty() {
            lines.push(String::new());
            lines.extend(pulls(&activity.pulls));
        }
        lines.push(String::new());
        lines.extend(table_of_peers(&activity.peers));
        Frame { lines }
    }

    /// The lines, each cut to so many letters.
    pub(super) fn lines(&self, columns: usize) -> Vec<String> {
        let cut = |line: &String| line.chars().take(columns).collect();
        self.lines.iter().map(cut).collect()
    }
}

/// Whether what is counted goes on from there.
fn is_same_daemon(before: &Activity, now: &Activity) -> bool {
    before.node_id == now.node_id && before.uptime_ms <= now.uptime_ms
}

/// How much more there is a second.
fn growth(since: Option<&Reading>, now: &Reading, count: impl Fn(&Activity) -> u64) -> Option<f64> {
    let since = since?;
    let seconds = now.at.saturating_duration_since(since.at).as_secs_f64();
    let more = count(&now.activity).saturating_sub(count(&since.activity));
    (seconds > 0.0).then(|| more as f64 / seconds)
}

fn from_peers(activity: &Activity) -> u64 {
    activity
        .bytes_by_source
        .get(PEERS)
        .copied()
        .unwrap_or_default()
}

fn from_others(activity: &Activity) -> u64 {
    let all: u64 = activity.bytes_by_source.values().sum();
    all.saturating_sub(from_peers(activity))
}

fn traffic(since: Option<&Reading>, now: &Reading) -> String {
    let activity = &now.activity;
    // At the first look the daemon knows of its peers, and nobody of the others.
    let sum = |rate: fn(&PeerStatus) -> u64| activity.peers.iter().map(rate).sum::<u64>();
    let peers = growth(since, now, from_peers);
    let peers = peers.map_or(sum(|peer| peer.receive_rate), |rate| rate as u64);
    let others = growth(since, now, from_others).map_or(0, |rate| rate as u64);
    let sent = growth(since, now, |activity| activity.bytes_sent);
    let sent = sent.map_or(sum(|peer| peer.send_rate), |rate| rate as u64);
    format!(
        "Bytes/s:   {} in from peers, {} in from origins, {} out; in all {} in, {} out",
        rate(peers),
        rate(others),
        rate(sent),
        size(from_peers(activity) + from_others(activity)),
        size(activity.bytes_sent)
    )
}

fn requests(since: Option<&Reading>, now: &Reading) -> String {
    let requests = now.activity.requests;
    let answered = growth(since, now, |activity| {
        activity.requests.filled + activity.requests.failed
    });
    let rate = answered.map_or(String::new(), |rate| {
        format!(", {rate:.1} answered a second")
    });
    format!(
        "Requests:  {} waiting, {} filled, {} failed{rate}",
        requests.waiting, requests.filled, requests.failed
    )
}

fn hits(activity: &Activity) -> String {
    let requests = activity.requests;
    let (peers, others) = (from_peers(activity), from_others(activity));
    format!(
        "Hits:      {} of the requests for chunks in the store; of what was fetched {} from peers, {} from origins",
        share(requests.chunks_here, requests.chunks),
        share(peers, peers + others),
        share(others, peers + others)
    )
}

fn share(part: u64, all: u64) -> String {
    match all {
        0 => "-".to_owned(),
        all => format!("{:.0} %", part as f64 * 100.0 / all as f64),
    }
}

fn network(activity: &Activity) -> String {
    let network = &activity.network;
    let near = activity
        .peers
        .iter()
        .filter(|peer| peer.class == PeerClass::Link);
    let neighbours = network
        .neighbours
        .map_or("mDNS is off".to_owned(), |count| {
            format!("{count} found by mDNS")
        });
    format!(
        "Network:   {} peers, {} of them near; {neighbours}, {} nodes of the DHT, {} of {} bootstrap peers, {} banned",
        activity.peers.len(),
        near.count(),
        network.dht_nodes,
        network.bootstrap_connected,
        network.bootstrap,
        network.banned
    )
}

fn pulls(pulls: &[PullStatus]) -> Vec<String> {
    let header = ["IMAGE", "STATE", "HERE", "OF", "", ""].map(str::to_owned);
    let rows = pulls.iter().map(|pull| {
        let state = match pull.state {
            PullState::Converting => "converting",
            PullState::Fetching => "fetching",
            PullState::Waiting => "waiting",
            PullState::Mountable => "mountable",
            PullState::Complete => "complete",
            PullState::Retried => "retried",
            PullState::Failed => "failed",
        };
        let total = pull.total_bytes;
        [
            digest(&pull.image),
            state.to_owned(),
            size(pull.present_bytes),
            total.map_or("-".to_owned(), size),
            total.map_or("-".to_owned(), |total| share(pull.present_bytes, total)),
            match (&pull.reason, total) {
                (Some(reason), _) => printable(reason).to_string(),
                (None, total) => bar(pull.present_bytes, total.unwrap_or_default()),
            },
        ]
    });
    let rows: Vec<_> = [header].into_iter().chain(rows).collect();
    let columns = [
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Left,
    ];
    align(columns, &rows)
}

fn bar(part: u64, all: u64) -> String {
    let done = match all {
        0 => 0,
        all => u128::from(part.min(all)) * u128::from(BAR) / u128::from(all),
    };
    let done = usize::try_from(done).unwrap_or_default();
    let left = usize::try_from(BAR)
        .unwrap_or_default()
        .saturating_sub(done);
    format!("[{}{}]", "#".repeat(done), ".".repeat(left))
}

/// The busiest first.
fn table_of_peers(all: &[PeerStatus]) -> Vec<String> {
    let mut busiest: Vec<&PeerStatus> = all.iter().collect();
    busiest.sort_by_key(|peer| {
        let rates = peer.receive_rate.saturating_add(peer.send_rate);
        let bytes = peer.bytes_received.saturating_add(peer.bytes_sent);
        std::cmp::Reverse((rates, bytes))
    });
    let rows = busiest.into_iter().map(peers::row);
    let header = peers::HEADER.map(str::to_owned);
    let rows: Vec<_> = [header].into_iter().chain(rows).collect();
    align(peers::COLUMNS, &rows)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use peerfs_control::RequestStatus;

    use super::*;

    fn reading(bytes: u64, uptime: u64, at: Instant) -> Reading {
        let peer = |id: &str, receive_rate| PeerStatus {
            id: id.to_owned(),
            receive_rate,
            ..PeerStatus::default()
        };
        let activity = Activity {
            version: "1\x1b[2J".to_owned(),
            uptime_ms: uptime,
            bytes_by_source: [(PEERS.to_owned(), bytes * 3), ("http".to_owned(), bytes)].into(),
            bytes_sent: bytes,
            requests: RequestStatus {
                chunks: 8,
                chunks_here: 6,
                ..RequestStatus::default()
            },
            peers: vec![peer("idle", 0), peer("busy", 5)],
            pulls: vec![PullStatus {
                total_bytes: Some(200),
                present_bytes: 50,
                ..PullStatus::default()
            }],
            ..Activity::default()
        };
        Reading { activity, at }
    }

    fn text(before: Option<&Reading>, now: &Reading) -> String {
        Frame::new(before, now).lines(usize::MAX).join("\n")
    }

    #[test]
    fn rates_are_of_two_looks_at_the_same_daemon() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let (before, now) = (reading(0, 1000, start), reading(2048, 3000, later));
        let shown = text(Some(&before), &now);
        assert!(shown.contains("3.00 KiB in from peers, 1.00 KiB in from origins, 1.00 KiB out"));
        assert!(shown.contains("75 % of the requests"), "{shown}");
        assert!(
            shown.contains("75 % from peers, 25 % from origins"),
            "{shown}"
        );
        assert!(shown.contains("25 %  [#####...............]"), "{shown}");
        assert!(shown.find("busy") < shown.find("idle"), "{shown}");
        assert!(!shown.contains('\x1b'), "nothing that a terminal obeys");
        // One that was started anew has counted from nothing.
        let restarted = reading(1024, 10, later);
        let shown = text(Some(&before), &restarted);
        assert!(
            shown.contains("5 B in from peers, - in from origins"),
            "{shown}"
        );
    }

    #[test]
    fn lines_are_cut_to_the_width_of_the_terminal() {
        let now = reading(u64::MAX / 8, 0, Instant::now());
        let lines = Frame::new(None, &now).lines(30);
        assert!(lines.iter().all(|line| line.chars().count() <= 30));
        assert_eq!(bar(u64::MAX, u64::MAX), format!("[{}]", "#".repeat(20)));
        assert_eq!(bar(7, 0), format!("[{}]", ".".repeat(20)));
    }
}
