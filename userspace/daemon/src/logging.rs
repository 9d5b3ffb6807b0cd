// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The log on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::Layer;

use crate::config::{LogConfig, LogFormat};
use crate::log_limit::LogLimit;

/// Starts to log, for the rest of the process.
pub fn start(config: &LogConfig) {
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let limit = LogLimit::default();
    tracing_subscriber::registry()
        .with(lines.with_filter(config.level.clone().and(limit.clone())))
        .init();
    limit.report();
}
