// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How a command says why it fails.

use std::io;
use std::process::ExitCode;

use peerfs_text::Causes;

use crate::error::Error;
use crate::output::tell;

/// Prints what is wrong with the arguments, or the help that they ask for.
pub(crate) fn explain(error: &clap::Error, misused: u8) -> ExitCode {
    let text = error.render().to_string();
    // It repeats arguments, which may be names that somebody else chose.
    if error.use_stderr() && text.contains(|letter: char| letter.is_control() && letter != '\n') {
        tell(&text);
        return ExitCode::from(misused);
    }
    match error.print() {
        // If this can't be printed, the status tells.
        _ if error.use_stderr() => ExitCode::from(misused),
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            report("peerfs", &Error::Output(error));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints an error and its causes as one line, unless it is a list.
pub(crate) fn report(program: &str, error: &Error) {
    if error.is_broken_pipe() {
        return;
    }
    tell(&format!("{program}: {}", Causes(error)));
}
