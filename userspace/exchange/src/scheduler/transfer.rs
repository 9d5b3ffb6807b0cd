// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A batch of parts of one content that one source was asked for.

use std::time::{Duration, Instant};

use crate::Priority;

use super::ContentId;

pub(super) struct Transfer<Source> {
    pub(super) source: Source,
    pub(super) content: ContentId,
    /// What it was started as.
    pub(super) priority: Priority,
    /// Whether the source is to fetch it first.
    pub(super) through: bool,
    /// What it is still to bring, in the order in which that is expected.
    pub(super) parts: Vec<Carried>,
    pub(super) started: Instant,
    /// When it was started or something of it last came.
    pub(super) last_progress: Instant,
}

/// A part that a transfer is to bring.
pub(super) struct Carried {
    pub(super) number: u32,
    /// The bytes of it that are expected; none once it came, while it is stored.
    pub(super) length: u64,
    /// How long after the transfer's start it should come.
    pub(super) expected: Duration,
    /// Nothing else was on the line when it was asked for.
    pub(super) is_alone: bool,
    /// When a second source is asked for it, if a reader waits for it.
    pub(super) hedge_at: Option<Instant>,
}

impl<Source> Transfer<Source> {
    pub(super) fn part(&self, number: u32) -> Option<&Carried> {
        self.parts.iter().find(|part| part.number == number)
    }

    pub(super) fn part_mut(&mut self, number: u32) -> Option<&mut Carried> {
        self.parts.iter_mut().find(|part| part.number == number)
    }
}
