// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfsd`: see `peerfsd --help`.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use clap::Parser;
use peerfs_daemon::arguments::{man_page, Arguments};
use peerfs_daemon::config::Config;
use peerfs_daemon::daemon::Daemon;
use peerfs_daemon::logging::{self, LogLevel};
use peerfs_daemon::manager::{passed_control_socket, Manager};
use peerfs_text::Causes;
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::time::{interval, timeout, MissedTickBehavior};
use tracing::{error, info, warn};

/// Exit status of a daemon that could not start or run.
const FAILED: u8 = 1;
/// Exit status for a wrong configuration; clap uses the same for a wrong command line.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    // Before anything else is opened, since what was passed is known by its number.
    let passed = passed_control_socket();
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
    let level = logging::start(&config.log);
    let passed = match passed {
        Ok(passed) => passed,
        Err(error) => return fail(&error, FAILED),
    };
    match run(&arguments, &config, &level, passed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref(), FAILED),
    }
}

fn run(
    arguments: &Arguments,
    config: &Config,
    level: &LogLevel,
    passed: Option<OwnedFd>,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut manager = Manager::default();
        let mut daemon = tokio::select! {
            daemon = Daemon::start(config, passed) => daemon?,
            // The store may be on a disk that does not answer, and its opening never end.
            () = signals.end() => {
                manager.stopping();
                return Ok(());
            }
        };
        manager.ready();
        serve(&mut daemon, arguments, level, &mut signals, &mut manager).await;
        manager.stopping();
        daemon.shut_down().await;
        Ok(())
    });
    // Operations on a disk that does not answer must not keep the process alive.
    runtime.shutdown_background();
    result
}

/// Does as the process is told, until it is told to end.
async fn serve(
    daemon: &mut Daemon,
    arguments: &Arguments,
    level: &LogLevel,
    signals: &mut Signals,
    manager: &mut Manager,
) {
    let patience = manager.interval();
    let mut ticks = interval(patience);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let look = async {
            ticks.tick().await;
            timeout(patience, daemon.pulse()).await.ok().flatten()
        };
        tokio::select! {
            told = signals.next() => match told {
                Told::End => return,
                Told::Reload => reload(daemon, arguments, level, manager).await,
            },
            pulse = look => manager.alive(pulse),
        }
    }
}

/// Reads the configuration again. One that is not valid changes nothing.
async fn reload(
    daemon: &mut Daemon,
    arguments: &Arguments,
    level: &LogLevel,
    manager: &mut Manager,
) {
    manager.reloading();
    let arguments = arguments.clone();
    let read = tokio::task::spawn_blocking(move || arguments.to_config()).await;
    let config = match read {
        Ok(Ok(config)) => config,
        Ok(Err(error)) => {
            error!(
                error = Causes(&error).to_string().trim_end(),
                "the changed configuration is refused; all stays as it was"
            );
            return manager.reloaded(None);
        }
        // The runtime ends, and the process with it.
        Err(_) => return manager.reloaded(None),
    };
    let changes = daemon.reload(&config);
    if let Err(error) = daemon.renew_certificate().await {
        error!(
            error = Causes(&error).to_string().trim_end(),
            "the node goes on with the certificate that it had"
        );
    }
    level.set(&config.log.level);
    info!(
        changed = changes.at_once.join(", "),
        "the configuration was read again"
    );
    if !changes.at_start.is_empty() {
        warn!(
            keys = changes.at_start.join(", "),
            "changed in the configuration, and without effect until peerfsd is started again"
        );
    }
    manager.reloaded(Some(&changes));
}

/// What the process is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal wants.
enum Told {
    End,
    Reload,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one. None is lost when the wait is cancelled.
    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    /// Waits until it is told to end. What it starts with was read just now.
    async fn end(&mut self) {
        while !matches!(self.next().await, Told::End) {}
    }
}

/// Prints an error and its causes on one line.
fn fail(error: &dyn Error, status: u8) -> ExitCode {
    let text = Causes(error).to_string();
    // clap's end with a line feed. Where nobody reads it, the status tells.
    let _ = writeln!(io::stderr(), "peerfsd: {}", text.trim_end());
    ExitCode::from(status)
}
