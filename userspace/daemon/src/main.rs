// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfsd`: see `peerfsd --help`.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use peerfs_daemon::arguments::{man_page, Arguments};
use peerfs_daemon::config::Config;
use peerfs_daemon::daemon::Daemon;
use peerfs_daemon::logging;
use peerfs_text::Causes;
use sd_notify::NotifyState;
use tokio::signal::unix::{signal, Signal, SignalKind};

/// Exit status of a daemon that could not start or run.
const FAILED: u8 = 1;
/// Exit status for a wrong configuration; clap uses the same for a wrong command line.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.man {
        let printed = man_page().and_then(|page| io::stdout().write_all(&page));
        return match printed {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, FAILED),
        };
    }
    let config = match arguments.to_config() {
        Ok(config) => config,
        Err(error) => return fail(&error, MISUSED),
    };
    if arguments.check {
        return match writeln!(io::stdout(), "The configuration is valid.") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, FAILED),
        };
    }
    logging::start(&config.log);
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref(), FAILED),
    }
}

fn run(config: &Config) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let daemon = tokio::select! {
            daemon = Daemon::start(config) => daemon?,
            // The store may be on a disk that does not answer, and its opening never end.
            () = signals.end() => {
                tell_manager(&[NotifyState::Stopping]);
                return Ok(());
            }
        };
        tell_manager(&[
            NotifyState::Ready,
            NotifyState::Status("Serving the store and its peers."),
        ]);
        signals.end().await;
        tell_manager(&[NotifyState::Stopping]);
        daemon.shut_down().await;
        Ok(())
    });
    // Operations on a disk that does not answer must not keep the process alive.
    runtime.shutdown_background();
    result
}

/// What the process is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until it is told to end.
    async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => tracing::warn!(
                    "SIGHUP changes nothing; to read a changed configuration, start peerfsd again"
                ),
            }
        }
    }
}

/// Tells systemd, if it started this process.
fn tell_manager(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Prints an error and its causes on one line.
fn fail(error: &dyn Error, status: u8) -> ExitCode {
    let text = Causes(error).to_string();
    // clap's end with a line feed. Where nobody reads it, the status tells.
    let _ = writeln!(io::stderr(), "peerfsd: {}", text.trim_end());
    ExitCode::from(status)
}
