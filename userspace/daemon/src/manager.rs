// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The service manager, systemd as a rule: what it has opened for the daemon, and what it is told.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

use crate::daemon::Pulse;
use crate::reload::Changes;

/// The name of the control socket among what was passed.
const CONTROL: &str = "control";
/// Between two looks at how the daemon is doing, if nobody wants them more often.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often the watchdog is told in the time that it waits.
const TOLD_BY_WATCHDOG: u32 = 3;

/// The control socket that was passed to this process, if one was. To be called before the process opens anything.
///
/// # Errors
/// If the environment says of descriptors what is not so.
pub fn passed_control_socket() -> io::Result<Option<OwnedFd>> {
    let mut passed = peerfs_sys::activation::take()?;
    let is_alone = passed.len() == 1;
    let found = passed.iter().position(|(name, _)| name == CONTROL);
    // Without names there is nothing else that it can be.
    let found = found.or(is_alone.then_some(0));
    Ok(found.map(|index| passed.swap_remove(index).1))
}

/// What it is told.
pub struct Manager {
    interval: Duration,
    /// What waits for the next start, or why a configuration was not taken over.
    note: Option<String>,
    told: String,
}

impl Default for Manager {
    fn default() -> Self {
        Manager::new(sd_notify::watchdog_enabled())
    }
}

impl Manager {
    /// One that kills the daemon when it was told nothing for as long as `watchdog`, if it has one.
    fn new(watchdog: Option<Duration>) -> Self {
        let interval = watchdog.map_or(INTERVAL, |period| period / TOLD_BY_WATCHDOG);
        Manager {
            // A period of nothing would be no pause.
            interval: interval.clamp(Duration::from_millis(10), INTERVAL),
            note: None,
            told: String::new(),
        }
    }

    /// How often it wants to know whether the daemon does its work, and how soon the daemon must answer.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The daemon is ready for its clients.
    pub fn ready(&self) {
        tell(&[
            NotifyState::Ready,
            NotifyState::Status("Serving the store and its peers."),
        ]);
    }

    /// The daemon does its work, if it has answered.
    pub fn alive(&mut self, pulse: Option<Pulse>) {
        let Some(pulse) = pulse else {
            warn!(
                "the peer node does not answer; the service manager is not told that all is well"
            );
            return;
        };
        let text = self.text(pulse);
        let mut state = vec![NotifyState::Watchdog];
        if text != self.told {
            state.push(NotifyState::Status(&text));
        }
        tell(&state);
        self.told = text;
    }

    /// A line about the daemon, for people.
    fn text(&self, pulse: Pulse) -> String {
        let Pulse {
            peers,
            waiting,
            pulls,
        } = pulse;
        let note = self.note.as_deref().unwrap_or_default();
        format!("Connected peers: {peers}; waiting requests: {waiting}; images being pulled: {pulls}.{note}")
    }

    /// It reads its configuration again.
    pub fn reloading(&self) {
        let mut state = vec![NotifyState::Reloading];
        // Which of two that are under way this one is.
        state.extend(NotifyState::monotonic_usec_now());
        tell(&state);
    }

    /// It has read its configuration, or has kept the one that it had.
    pub fn reloaded(&mut self, changes: Option<&Changes>) {
        self.note = match changes {
            None => Some(" The changed configuration is refused; the log says why.".to_owned()),
            Some(changes) if changes.at_start.is_empty() => None,
            Some(changes) => Some(format!(
                " Changed, and waiting for a restart: {}.",
                changes.at_start.join(", ")
            )),
        };
        let status = match &self.note {
            None => "The configuration was read again.",
            Some(note) => note.trim_start(),
        };
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
        // The next look says it all.
        self.told.clear();
    }

    /// It ends.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

/// Tells systemd, if it started this process.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_hears_in_time_and_people_what_waits() {
        let interval = |seconds| Manager::new(Some(Duration::from_secs(seconds))).interval;
        assert_eq!(interval(15), Duration::from_secs(5));
        assert_eq!(interval(3600), INTERVAL);
        assert!(interval(0) > Duration::ZERO);
        let mut manager = Manager::new(None);
        let pulse = Pulse {
            peers: 2,
            waiting: 0,
            pulls: 1,
        };
        assert!(!manager.text(pulse).contains("restart"));
        let changes = Changes {
            at_once: vec!["pull"],
            at_start: vec!["peer.mdns"],
        };
        manager.reloaded(Some(&changes));
        assert!(manager.text(pulse).ends_with("restart: peer.mdns."));
        manager.reloaded(Some(&Changes::default()));
        assert!(manager.text(pulse).ends_with("images being pulled: 1."));
    }
}
