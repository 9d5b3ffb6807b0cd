// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Threads, which the system may refuse.

use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::{Error, Result};

/// Starts a thread; if that fails, what was given to `work` is dropped, which ends the stages that wait for it.
pub(crate) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new()
        .spawn_scoped(scope, work)
        .map_err(Error::Thread)
}

/// What a thread returned; its panic goes on.
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
