// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs peers` and `peerfs unban`.

use clap::Args;
use peerfs_control::{BanStatus, PeerClass, PeerDirection, PeerStatus, Peers, Reply, Request};
use peerfs_store::printable;
use time::OffsetDateTime;

use crate::arguments::DaemonArguments;
use crate::conversation::ask;
use crate::error::{Error, Result};
use crate::output::{age, digest, rate, size, Align, Output};

/// List the peers of a running peerfsd.
///
/// A line for each that it is connected to, the nearest first: its id and address, how near it is (link or wide, by the
/// round-trip time), who made the connection, the round-trip time, what comes from it and goes to it a second and in all,
/// for how long, and the images for which it sent something. Below them those that are banned because they sent wrong bytes,
/// and until when: an hour for the first time, then a day, then a week. `peerfs unban` lifts it.
#[derive(Args)]
pub(crate) struct PeersArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Print all that is known of them as JSON (Documentation/control.md).
    #[arg(long)]
    json: bool,
}

/// Lift the ban of a peer.
///
/// peerfsd bans a peer for some time that sends wrong bytes. Prints the id of whoever is not banned any more.
#[derive(Args)]
pub(crate) struct UnbanArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// All that are banned.
    #[arg(long)]
    all: bool,
    /// The peer's id, as `peerfs peers` shows it.
    #[arg(
        value_name = "PEER",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    peer: Option<String>,
}

/// Lists the peers.
pub(crate) fn list(arguments: &PeersArguments) -> Result<()> {
    let Reply::Peers(peers) = ask(&arguments.daemon.socket, &Request::Peers)? else {
        return Err(Error::UnexpectedReply);
    };
    let mut output = Output::new();
    if arguments.json {
        output.json(&peers)?;
    } else {
        print(&peers, &mut output)?;
    }
    output.finish()
}

/// Lifts bans.
pub(crate) fn unban(arguments: &UnbanArguments) -> Result<()> {
    let request = Request::Unban {
        peer: arguments.peer.clone(),
        all: arguments.all,
    };
    let Reply::Unbanned(lifted) = ask(&arguments.daemon.socket, &request)? else {
        return Err(Error::UnexpectedReply);
    };
    let mut output = Output::new();
    for peer in &lifted {
        output.line(&printable(peer).to_string())?;
    }
    output.finish()
}

/// The names of the columns of [`row`].
pub(crate) const HEADER: [&str; 11] = [
    "PEER", "CLASS", "DIR", "RTT", "IN/s", "OUT/s", "IN", "OUT", "SINCE", "ADDRESS", "GIVES",
];
/// The sides of them.
pub(crate) const COLUMNS: [Align; 11] = [
    Align::Left,
    Align::Left,
    Align::Left,
    Align::Right,
    Align::Right,
    Align::Right,
    Align::Right,
    Align::Right,
    Align::Right,
    Align::Left,
    Align::Left,
];

/// A line of the table of peers.
pub(crate) fn row(peer: &PeerStatus) -> [String; 11] {
    let class = match peer.class {
        PeerClass::Unknown => "-",
        PeerClass::Link => "link",
        PeerClass::Wide => "wide",
    };
    let direction = match peer.direction {
        PeerDirection::Inbound => "in",
        PeerDirection::Outbound => "out",
    };
    let gives = match peer.gives.as_slice() {
        [] => "-".to_owned(),
        [one] => digest(one),
        [latest, others @ ..] => format!("{} and {} more", digest(latest), others.len()),
    };
    [
        printable(&peer.id).to_string(),
        class.to_owned(),
        direction.to_owned(),
        peer.rtt_ms
            .map_or("-".to_owned(), |rtt| format!("{rtt:.1} ms")),
        rate(peer.receive_rate),
        rate(peer.send_rate),
        size(peer.bytes_received),
        size(peer.bytes_sent),
        age(peer.connected_ms),
        printable(&peer.address).to_string(),
        gives,
    ]
}

fn print(peers: &Peers, output: &mut Output) -> Result<()> {
    let rows = peers.peers.iter().map(row);
    let rows: Vec<_> = [HEADER.map(str::to_owned)]
        .into_iter()
        .chain(rows)
        .collect();
    output.table(COLUMNS, &rows)?;
    if peers.banned.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let header = ["BANNED PEER", "UNTIL", "TIMES", "REASON"].map(str::to_owned);
    let rows = peers.banned.iter().map(ban_row);
    let rows: Vec<_> = [header].into_iter().chain(rows).collect();
    let columns = [Align::Left, Align::Left, Align::Right, Align::Left];
    output.table(columns, &rows)
}

fn ban_row(ban: &BanStatus) -> [String; 4] {
    let seconds = i64::try_from(ban.until_ms / 1000).ok();
    let until = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let until = until.map_or("-".to_owned(), |until| {
        let (date, time) = (until.date(), until.time());
        format!(
            "{date} {:02}:{:02}:{:02} UTC",
            time.hour(),
            time.minute(),
            time.second()
        )
    });
    [
        printable(&ban.id).to_string(),
        until,
        ban.times.to_string(),
        printable(&ban.reason).to_string(),
    ]
}
