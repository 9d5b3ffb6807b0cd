// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs doctor`.

mod daemon;
mod machine;
mod settings;
mod store;

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::output::Output;
use settings::Settings;

/// Say what is wrong with peerfs on this machine, and what to do about it.
///
/// A line for each thing that is looked at: kernel module and device, configuration, store, state directory, peerfsd, its
/// peers and how they are found, clock and limits. It changes nothing, needs no running peerfsd, and says what it cannot see
/// as an ordinary user.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DoctorArguments {
    /// The configuration file of peerfsd [default: /etc/peerfs/peerfsd.toml if it exists]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The control socket of peerfsd; by default that of the configuration.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    socket: Option<PathBuf>,
    /// The store; by default that of the configuration.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    root_dir: Option<PathBuf>,
    /// Warnings count as errors.
    #[arg(long)]
    strict: bool,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Exit status: 0 if there is no error (with --strict: and no warning), 1 if there is one, 2 if the command line is wrong.";

/// How bad something is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// What was found about one thing.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    level: Level,
    /// What is there, for people.
    text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Finding {
            check,
            level: Level::Ok,
            text: text.into(),
            advice: None,
        }
    }

    fn warning(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding {
            check,
            level: Level::Warning,
            text: text.into(),
            advice: Some(advice.into()),
        }
    }

    fn error(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding {
            level: Level::Error,
            ..Finding::warning(check, text, advice)
        }
    }

    fn line(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let advice = self.advice.as_ref();
        let advice = advice.map_or(String::new(), |advice| format!("; {advice}"));
        format!("{level:7}  {}: {}{advice}", self.check, self.text)
    }
}

/// All that was found.
#[derive(Serialize)]
struct Report {
    /// The worst of them.
    level: Level,
    findings: Vec<Finding>,
}

/// Looks at everything.
pub(crate) fn run(arguments: &DoctorArguments) -> Result<()> {
    let (mut settings, mut findings) = Settings::read(arguments.config.as_deref());
    if let Some(socket) = &arguments.socket {
        settings.control_socket.clone_from(socket);
    }
    if let Some(root_dir) = &arguments.root_dir {
        settings.root_dir.clone_from(root_dir);
    }
    findings.extend(machine::kernel(settings.device()));
    findings.extend(store::look(&settings));
    findings.extend(daemon::look(&settings));
    findings.push(machine::clock());
    let levels = findings.iter().map(|finding| finding.level);
    let level = levels.max().unwrap_or(Level::Ok);
    let report = Report { level, findings };
    let mut output = Output::new();
    if arguments.json {
        output.json(&report)?;
    } else {
        for finding in &report.findings {
            output.line(&finding.line())?;
        }
    }
    output.finish()?;
    let worst = if arguments.strict {
        Level::Warning
    } else {
        Level::Error
    };
    if level >= worst {
        return Err(Error::Unwell);
    }
    Ok(())
}
