// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A batch of parts of one content that one source was asked for.

use std::time::{Duration, Instant};

use crate::Priority;

use super::{ContentId, Part};

pub(super) struct Transfer<Source> {
    pub(super) source: Source,
    pub(super) content: ContentId,
    /// What it was started as.
    pub(super) priority: Priority,
    /// What it is still to bring, in the order in which that is expected.
    pub(super) parts: Vec<Part>,
    /// When it was started or something of it last came.
    pub(super) last_progress: Instant,
    /// When it was started or brought the last part.
    pub(super) last_part: Instant,
    /// It has brought no part for long, and this was noted.
    pub(super) is_slow: bool,
}

impl<Source> Transfer<Source> {
    /// Notes that a part came; returns how long it took.
    pub(super) fn part_came(&mut self, now: Instant) -> Duration {
        let took = now.saturating_duration_since(self.last_part);
        self.last_part = now;
        self.last_progress = now;
        self.is_slow = false;
        took
    }
}
