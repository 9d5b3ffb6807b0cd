// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The log on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{FilterExt, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::{LogConfig, LogFormat};
use crate::log_limit::LogLimit;

/// What is logged, which can be changed while the process runs.
#[derive(Clone, Debug)]
pub struct LogLevel(Handle<Targets, Registry>);

impl LogLevel {
    /// Logs this from now on.
    pub fn set(&self, level: &Targets) {
        // It fails when nobody logs any more.
        let _ = self.0.reload(level.clone());
    }
}

/// Starts to log, for the rest of the process.
pub fn start(config: &LogConfig) -> LogLevel {
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let limit = LogLimit::default();
    let (level, handle) = reload::Layer::new(config.level.clone());
    tracing_subscriber::registry()
        .with(lines.with_filter(level.and(limit.clone())))
        .init();
    limit.report();
    LogLevel(handle)
}
