// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs names`, `peerfs history` and `peerfs rollback`.

use clap::Args;
use peerfs_control::{NameRecord, NameStatus, Reply, Request};
use peerfs_format::Digest;
use peerfs_store::printable;

use super::ask_name;
use super::time_text::{parse_target, time_text, Target};
use crate::arguments::DaemonArguments;
use crate::conversation::ask;
use crate::error::{Error, Result};
use crate::output::{digest, tell, Align, Output};

/// List the names that a running peerfsd knows something of.
///
/// A line for each: the sequence of the record that counts, the image, and the name. What stands for nothing says why.
#[derive(Args)]
pub(crate) struct NamesArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Print all that is known of each name, as a line of JSON (Documentation/control.md).
    #[arg(long)]
    json: bool,
}

/// Show what a name stood for.
///
/// A line for each record that this machine has accepted, at most 16, the newest one last: its sequence, with the generation
/// of the list of writers before it if there is one, since when it was known here and until when it holds (UTC), and the image. An asterisk is before the one that counts.
#[derive(Args)]
pub(crate) struct HistoryArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Print all that is known of the name, as a line of JSON (Documentation/control.md).
    #[arg(long)]
    json: bool,
    /// The name: KEY/NAME, or an alias.
    #[arg(value_name = "NAME")]
    name: String,
}

/// Have a name stand for what it stood for earlier, on this machine.
///
/// Until something newer is published than is known now. Who follows the name switches to it at once. Prints the digest of the
/// image, and tells whose record says so.
#[derive(Args)]
pub(crate) struct RollbackArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// The name: KEY/NAME, or an alias.
    #[arg(value_name = "NAME")]
    name: String,
    /// What to go back to: a sequence, with or without a generation before it, as `peerfs history` shows it, or what counted here at a time (UTC), such as
    /// "2026-11-22 10:30".
    #[arg(long, value_name = "WHEN|SEQUENCE", value_parser = parse_target)]
    to: Target,
    /// The digest of the image that is meant, where two records of one sequence were signed.
    #[arg(long, value_name = "DIGEST")]
    image: Option<Digest>,
}

/// Lists the names.
pub(crate) fn names(arguments: &NamesArguments) -> Result<()> {
    let Reply::Names(names) = ask(&arguments.daemon.socket, &Request::Names)? else {
        return Err(Error::UnexpectedReply);
    };
    let mut output = Output::new();
    if arguments.json {
        for status in &names {
            output.json(status)?;
        }
        return output.finish();
    }
    let row = |status: &NameStatus| {
        let sequence = status.sequence.map(|sequence| sequence.to_string());
        [
            sequence.unwrap_or("-".to_owned()),
            status.image.as_deref().map_or("-".to_owned(), digest),
            match &status.problem {
                Some(problem) => printable(problem).to_string(),
                None => printable(&status.name).to_string(),
            },
        ]
    };
    let rows: Vec<_> = names.iter().map(row).collect();
    output.table([Align::Right, Align::Left, Align::Left], &rows)?;
    output.finish()
}

/// Shows what a name stood for.
pub(crate) fn history(arguments: &HistoryArguments) -> Result<()> {
    let request = Request::Name {
        name: arguments.name.clone(),
        search: false,
    };
    let status = ask_name(&arguments.daemon.socket, &request)?;
    let mut output = Output::new();
    if arguments.json {
        output.json(&status)?;
        return output.finish();
    }
    let rows: Vec<_> = status
        .history
        .iter()
        .map(|record| row(&status, record))
        .collect();
    let columns = [
        Align::Left,
        Align::Right,
        Align::Left,
        Align::Left,
        Align::Left,
    ];
    output.table(columns, &rows)?;
    output.finish()?;
    match status.problem {
        Some(problem) => Err(Error::Refused(problem)),
        None => Ok(()),
    }
}

fn row(status: &NameStatus, record: &NameRecord) -> [String; 5] {
    let counts = status.sequence == Some(record.sequence)
        && status
            .generation
            .is_none_or(|generation| generation == record.generation)
        && (status.image.as_ref() == Some(&record.image) || status.image == record.rival);
    // Sequences begin anew with each list of writers.
    let has_lists = status.history.iter().any(|record| record.generation > 0);
    let place = match has_lists {
        true => format!("{}.{}", record.generation, record.sequence),
        false => record.sequence.to_string(),
    };
    let image = printable(&record.image).to_string();
    let by = |signer: &str| match status.name.starts_with(signer) {
        true => String::new(),
        false => format!(" by {}", printable(signer)),
    };
    let signer = by(&record.signer);
    let rival = record.rival.as_ref().map(|rival| {
        let signer = record.rival_signer.as_deref().map(by);
        format!(
            " forked: also {}{}",
            printable(rival),
            signer.unwrap_or_default()
        )
    });
    [
        if counts { "*" } else { " " }.to_owned(),
        place,
        time_text(record.accepted),
        time_text(record.expires),
        format!("{image}{signer}{}", rival.unwrap_or_default()),
    ]
}

/// Goes back.
pub(crate) fn roll_back(arguments: &RollbackArguments) -> Result<()> {
    let (generation, sequence, time) = match arguments.to {
        Target::Record(generation, sequence) => (generation, Some(sequence), None),
        Target::Time(time) => (None, None, Some(time)),
    };
    let request = Request::Rollback {
        name: arguments.name.clone(),
        sequence,
        generation,
        image: arguments.image.map(|image| image.to_string()),
        time,
        refused: None,
    };
    let status = ask_name(&arguments.daemon.socket, &request)?;
    if let Some((sequence, signer)) = status.sequence.zip(status.signer.as_ref()) {
        let name = &status.name;
        tell(&match name.starts_with(signer) {
            true => format!("peerfs: record {sequence} of {name}, signed by its publisher"),
            false => format!("peerfs: record {sequence} of {name}, signed by {signer}"),
        });
    }
    let mut output = Output::new();
    output.line(&printable(&status.image.ok_or(Error::UnexpectedReply)?).to_string())?;
    output.finish()
}
