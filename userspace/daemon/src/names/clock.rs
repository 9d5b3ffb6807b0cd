// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The time by which it is judged what has expired.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use peerfs_text::Causes;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Names;

/// How often the time is noted.
const NOTE_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// What is no clock that was set back, but one that was corrected.
const LEAD_MAX: Duration = Duration::from_secs(60 * 60);

impl Names {
    /// The time by which expiry is judged.
    pub(super) fn now(&self) -> SystemTime {
        self.0.lock().latest_time.judge(SystemTime::now())
    }

    /// Notes the time again and again, until `shutdown`.
    pub async fn keep_time(self, shutdown: CancellationToken) {
        let keep = async {
            let mut ran = Duration::ZERO;
            loop {
                self.note_time(ran).await;
                tokio::time::sleep(NOTE_INTERVAL).await;
                ran = NOTE_INTERVAL;
            }
        };
        shutdown.run_until_cancelled(keep).await;
    }

    async fn note_time(&self, ran: Duration) {
        let (latest, lead) = {
            let (mut state, now) = (self.0.lock(), SystemTime::now());
            state.latest_time.note(now, ran);
            (state.latest_time, state.latest_time.lead(now))
        };
        if lead > LEAD_MAX {
            warn!(
                seconds = lead.as_secs(),
                "the clock is behind a time that was seen here, by which names expire until it has been so for a week"
            );
        }
        let folder = Arc::clone(&self.0.folder);
        let saved = spawn_blocking(move || folder.save_latest_time(latest)).await;
        if let Ok(Err(error)) = saved {
            warn!(error = %Causes(&error), "the latest time is not noted");
        }
    }
}
