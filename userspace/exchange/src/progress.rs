// SPDX-License-Identifier: GPL-2.0 OR MIT

//! That something comes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// When something of what was asked for last came: noted by who receives it, looked at by who decides how long to
/// wait. Clones are the same note.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    came: Arc<Mutex<Option<Instant>>>,
}

impl Progress {
    /// Something came at this time.
    pub fn note(&self, at: Instant) {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// When something last came, if that was after the last call.
    pub fn take(&self) -> Option<Instant> {
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        came.take()
    }
}
