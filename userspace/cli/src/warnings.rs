// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Warnings of the libraries, for whoever runs a command.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::registry::LookupSpan;

use crate::output::tell;

/// Has warnings, and what is worse, told on standard error from now on, in the name of a program.
pub(crate) fn show(program: &'static str) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::WARN)
        .event_format(Lines { program })
        .finish();
    // Somebody who has called run() as a library may have another one, who gets them then.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// One line for each, as for errors.
struct Lines {
    program: &'static str,
}

impl<S, F> FormatEvent<S, F> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, F>,
        _: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        // Names in it that somebody else has chosen are made harmless there.
        tell(&format!("{}: warning: {text}", self.program));
        Ok(())
    }
}
