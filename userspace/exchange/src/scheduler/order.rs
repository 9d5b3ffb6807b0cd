// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is ordered of a scheduler, and what it has its owner do.

use std::time::{Duration, Instant};

use crate::Priority;

use super::{ContentId, Part};

/// Names an accepted order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(pub(super) u64);

/// Names a transfer: one batch of parts asked of one source.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TransferId(pub(super) u64);

/// Parts of one content that somebody wants.
#[derive(Clone, Debug)]
pub struct Order<Subject> {
    /// Of what.
    pub content: ContentId,
    /// What of it is wanted; at least one part.
    pub parts: Vec<Part>,
    /// How urgent it is.
    pub priority: Priority,
    /// When the order fails if it is not complete.
    pub deadline: Instant,
    /// How much there is of the content.
    pub extent: Extent,
    /// What the owner needs to know of the content; handed back with every action on it.
    pub subject: Subject,
}

/// How much there is of a content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Its parts: those with other numbers can't be wanted or offered.
    pub parts: u32,
    /// Bytes of a part, on average: from them it is told how long one takes.
    pub part_length: u64,
}

/// What kind of a source it is.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Another store that this machine can read.
    Directory,
    /// Another node.
    #[default]
    Peer,
    /// A server that all nodes share: it is asked for what none of the others has.
    Origin,
}

/// How an order ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All parts are in the store.
    Complete,
    /// The deadline has passed, and no source that answers has all of it.
    Unreachable,
    /// The deadline has passed while sources that have all of it were being asked.
    TimedOut,
    /// It was received and could not be stored, for this reason of the owner's.
    Unstorable(i32),
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The source has answered. What it did not send, it does not have.
    Answered,
    /// The source could not be asked, or broke off.
    Failed,
    /// The source has too much to do at the moment, and wants to be left alone for so long.
    Busy {
        /// At most [`RETRY_MAX`](crate::limits::RETRY_MAX).
        retry_after: Duration,
    },
}

/// What the owner of a scheduler is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action<Source, Subject> {
    /// Look for sources of the content: report each by [`Scheduler::offer`](super::Scheduler::offer), and the end of the
    /// search by [`Scheduler::sought`](super::Scheduler::sought).
    Seek {
        /// The blob or pack.
        content: ContentId,
        /// What the order said of it.
        subject: Subject,
    },
    /// Ask the source for these parts: report each by [`Scheduler::received`](super::Scheduler::received), and the end by
    /// [`Scheduler::ended`](super::Scheduler::ended).
    Start {
        /// The transfer's name.
        transfer: TransferId,
        /// Whom to ask.
        source: Source,
        /// The blob or pack.
        content: ContentId,
        /// What of it, the oldest order first.
        parts: Vec<Part>,
        /// How urgent these parts are.
        priority: Priority,
        /// Whether the source, which said nothing of having them, is asked to fetch them of an origin.
        through: bool,
        /// What the order said of it.
        subject: Subject,
    },
    /// Ask a peer what it suggests to be asked for: report by [`Scheduler::suggested`](super::Scheduler::suggested).
    Suggest {
        /// The pack.
        content: ContentId,
        /// Whom to ask.
        source: Source,
        /// How many chunks at most.
        count: usize,
        /// What the order said of it.
        subject: Subject,
    },
    /// Break the transfer off: nothing of it is needed any more, or it makes no progress.
    Stop {
        /// The transfer's name.
        transfer: TransferId,
    },
    /// Tell whoever ordered.
    Finish {
        /// The order.
        ticket: Ticket,
        /// How it ended.
        outcome: Outcome,
    },
}

/// There are as many orders as the limit allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many requests wait already (limits.requests)")]
pub struct Full;
