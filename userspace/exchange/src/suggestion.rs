// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node suggests to be asked for.

use std::ops::Range;
use std::time::Duration;

/// What a node that has all of a pack suggests to one that fetches it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Suggestion {
    /// To ask for these chunks: one run at least, in ascending order, none of them empty, with a gap between each two, and of
    /// [`SUGGESTED_MAX`](crate::limits::SUGGESTED_MAX) chunks at most.
    Chunks(Vec<Range<u32>>),
    /// To ask again after this time, at least a millisecond and at most [`RETRY_MAX`](crate::limits::RETRY_MAX): all was
    /// suggested to others, who are being sent it.
    Later(Duration),
    /// Anything: all was sent once.
    Any,
}
