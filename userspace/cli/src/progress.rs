// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The progress bar of long work.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The time between two looks at the progress.
const TICK: Duration = Duration::from_millis(100);

/// A bar of bytes, with a message; hidden if there is no terminal.
pub(crate) fn bytes_bar() -> ProgressBar {
    ProgressBar::new(0).with_style(
        ProgressStyle::with_template(
            "{bar:30} {binary_bytes}/{binary_total_bytes} ({binary_bytes_per_sec}) {msg}",
        )
        .expect("the template is valid"),
    )
}

/// Runs `work` and meanwhile shows bytes, and the message if there is one; only on a terminal.
/// `update` tells the bar how far the work is.
pub(crate) fn show_while<T>(update: impl Fn(&ProgressBar) + Send, work: impl FnOnce() -> T) -> T {
    let bar = bytes_bar();
    if bar.is_hidden() {
        return work();
    }
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let shown = bar.clone();
        let show = move || {
            while is_done.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                update(&shown);
            }
        };
        // The work goes on without, if there is no thread for it.
        let _ = thread::Builder::new().spawn_scoped(scope, show);
        let outcome = work();
        drop(done);
        bar.finish_and_clear();
        outcome
    })
}
