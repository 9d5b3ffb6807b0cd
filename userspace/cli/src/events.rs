// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs events`.

use peerfs_control::{Event, EventKind, PullState, PullStatus, Reply, Request};
use peerfs_store::printable;
use time::OffsetDateTime;

use crate::arguments::EventsArguments;
use crate::conversation::Conversation;
use crate::error::{Error, Result};
use crate::output::{is_reader_gone, size, Output};

/// Shows what happens in a daemon, until somebody ends that or nobody reads it any more.
pub(crate) fn run(arguments: &EventsArguments) -> Result<()> {
    let conversation = Conversation::open(&arguments.daemon.socket, &Request::Events)?;
    let mut conversation = conversation.may_be_silent();
    let mut output = Output::new();
    loop {
        match conversation.next(is_reader_gone)? {
            None => return Ok(()),
            Some(Reply::Event(event)) if arguments.json => output.json(&event)?,
            Some(Reply::Event(event)) => output.line(&describe(&event))?,
            Some(Reply::Error(problem)) => return Err(Error::Refused(problem)),
            Some(_) => return Err(Error::UnexpectedReply),
        }
        output.flush()?;
    }
}

fn describe(event: &Event) -> String {
    let time = time_of_day(event.time_ms);
    let what = match &event.kind {
        EventKind::Subscribed { version } => format!("peerfsd {}", printable(version)),
        EventKind::Pull(status) => describe_pull(status),
        EventKind::Image { image } => format!("image {}: has come", printable(image)),
        EventKind::PeerConnected { peer } => format!("peer {}: connected", printable(peer)),
        EventKind::PeerDisconnected { peer } => format!("peer {}: gone", printable(peer)),
        EventKind::Misses { filled, failed: 0 } => format!("misses: {filled} filled"),
        EventKind::Misses { filled, failed } => {
            format!("misses: {filled} filled, {failed} failed")
        }
        EventKind::Lost { events } => {
            format!("{events} events are lost: they are not read fast enough")
        }
        EventKind::Unknown => "something that this version of peerfs does not know".to_owned(),
    };
    format!("{time} {what}")
}

fn describe_pull(status: &PullStatus) -> String {
    let here = match status.total_bytes {
        Some(total) => format!("{} of {} here", size(status.present_bytes), size(total)),
        None => format!("{} here", size(status.present_bytes)),
    };
    let state = match status.state {
        PullState::Converting => "being converted",
        PullState::Fetching => "being fetched",
        PullState::Complete => "complete",
        PullState::Mountable => "can be mounted",
        // The reason says it.
        PullState::Waiting => "",
        PullState::Retried => "not complete and tried again:",
        PullState::Failed => "not complete:",
    };
    let reason = status.reason.as_deref().unwrap_or_default();
    let state = format!("{state} {}", printable(reason));
    format!(
        "image {}: {here}, {}",
        printable(&status.image),
        state.trim()
    )
}

/// The time of day in UTC.
fn time_of_day(milliseconds: u64) -> String {
    let nanoseconds = i128::from(milliseconds) * 1_000_000;
    match OffsetDateTime::from_unix_timestamp_nanos(nanoseconds) {
        Ok(time) => format!(
            "{:02}:{:02}:{:02}.{:03}",
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond()
        ),
        Err(_) => milliseconds.to_string(),
    }
}
