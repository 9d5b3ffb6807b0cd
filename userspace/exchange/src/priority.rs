// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The order in which requests are answered.

/// How urgent a request is. A server answers more urgent requests of a stream first.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Priority {
    /// Somebody waits.
    #[default]
    Demand = 0,
    /// Somebody may come for it soon.
    Readahead = 1,
    /// Nobody is in a hurry.
    Background = 2,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Priority; 3] = [Priority::Demand, Priority::Readahead, Priority::Background];

    /// The priority with this number on the wire, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}
