// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs diff`.

use std::collections::BTreeMap;
use std::str::from_utf8;
use std::sync::Arc;

use clap::Args;
use peerfs_format::Digest;
use peerfs_store::{difference, transfer, Aspect, Change, Image, Reference, Store};
use serde::Serialize;

use crate::arguments::StoreArguments;
use crate::error::{Error, Result};
use crate::list::{hex, type_name};
use crate::output::{size, tell, Output};
use crate::realm::ReadingKeys;

/// Show what differs between two images.
///
/// A line for each path: A if the second image alone has it, D if the first one alone has it, C if something of it is
/// different. Then, on standard error, what whoever has the first image has to fetch to have the second one. Compares by
/// metadata and by the digests of chunks; content is read where only that can tell.
///
/// As for diff(1), the exit status is 0 if the images are the same, 1 if they differ in a path, and 2 if something went wrong.
#[derive(Args)]
pub(crate) struct DiffArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    keys: ReadingKeys,
    /// Say what of a path is different: type, mode, owner, size, content, target, device, links, xattrs, time.
    #[arg(short, long)]
    long: bool,
    /// Pass over paths of which only the modification time is different.
    #[arg(long)]
    ignore_times: bool,
    /// Print only how many paths differ, and what has to be fetched.
    #[arg(long, conflicts_with = "long")]
    stat: bool,
    /// Print each path as a line of JSON, with what is different, and a summary as the last one.
    #[arg(long, conflicts_with_all = ["long", "stat"])]
    json: bool,
    /// The first image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "FIRST")]
    first: Reference,
    /// The second one.
    #[arg(value_name = "SECOND")]
    second: Reference,
}

/// A line of `--json`.
#[derive(Serialize)]
struct PathInfo {
    change: &'static str,
    /// From the root of the image; bytes that are not UTF-8 are replaced.
    path: String,
    /// The path in hexadecimal, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    r#type: &'static str,
    /// What is different of a path that both images have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    different: Vec<&'static str>,
}

/// The last line of `--json`.
#[derive(Serialize)]
struct Summary {
    added: u64,
    removed: u64,
    changed: u64,
    /// Files whose content is the same by the word of the images' publishers only.
    not_compared: u64,
    fetch_chunks: u64,
    fetch_bytes: u64,
    fetch_metadata_bytes: u64,
}

/// Compares two images.
pub(crate) fn run(arguments: &DiffArguments) -> Result<()> {
    let store = Arc::new(Store::open(&arguments.store.root_dir)?);
    let manifests = [
        store.resolve(&arguments.first)?,
        store.resolve(&arguments.second)?,
    ];
    let keys = arguments.keys.read(&store, &manifests)?;
    let open = |manifest: &Digest| Image::open_with(store.clone(), manifest, &keys);
    let [first, second] = &manifests;
    let (first, second) = (open(first)?, open(second)?);
    let mut output = Output::new();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let unseen = difference(&first, &second, |found| -> Result<()> {
        if let Change::Changed(aspects) = &found.change {
            if arguments.ignore_times && *aspects == [Aspect::Time] {
                return Ok(());
            }
        }
        let (change, letter, different) = describe(&found.change);
        *counts.entry(letter).or_default() += 1;
        if arguments.json {
            return output.json(&PathInfo {
                change,
                path: String::from_utf8_lossy(&found.path).into_owned(),
                path_hex: from_utf8(&found.path).is_err().then(|| hex(&found.path)),
                r#type: type_name(found.file_type),
                different,
            });
        }
        if arguments.stat {
            return Ok(());
        }
        output.bytes(format!("{letter} ").as_bytes())?;
        output.name(&found.path)?;
        if arguments.long && !different.is_empty() {
            output.bytes(format!(": {}", different.join(", ")).as_bytes())?;
        }
        output.bytes(b"\n")
    })?;
    let transfer = transfer(&first, &second)?;
    let count = |letter: &str| counts.get(letter).copied().unwrap_or_default();
    let summary = Summary {
        added: count("A"),
        removed: count("D"),
        changed: count("C"),
        not_compared: unseen.files,
        fetch_chunks: transfer.chunks,
        fetch_bytes: transfer.chunk_bytes,
        fetch_metadata_bytes: transfer.metadata_bytes,
    };
    match (arguments.json, arguments.stat) {
        (true, _) => output.json(&summary)?,
        (_, true) => output.line(&sentence(&summary))?,
        _ => tell(&sentence(&summary)),
    }
    output.finish()?;
    if !counts.is_empty() {
        return Err(Error::Different);
    }
    Ok(())
}

/// The word and the letter of a change, and what is different.
fn describe(change: &Change) -> (&'static str, &'static str, Vec<&'static str>) {
    match change {
        Change::Added => ("added", "A", Vec::new()),
        Change::Removed => ("removed", "D", Vec::new()),
        Change::Changed(aspects) => {
            let names = aspects.iter().map(|aspect| match aspect {
                Aspect::Type => "type",
                Aspect::Mode => "mode",
                Aspect::Owner => "owner",
                Aspect::Size => "size",
                Aspect::Content => "content",
                Aspect::Target => "target",
                Aspect::Device => "device",
                Aspect::Links => "links",
                Aspect::Xattrs => "xattrs",
                Aspect::Time => "time",
            });
            ("changed", "C", names.collect())
        }
    }
}

fn sentence(summary: &Summary) -> String {
    let mut text = format!(
        "{} added, {} removed, {} changed; from the first to the second {} to fetch, {} chunks, and {} of metadata",
        summary.added,
        summary.removed,
        summary.changed,
        size(summary.fetch_bytes),
        summary.fetch_chunks,
        size(summary.fetch_metadata_bytes),
    );
    if summary.not_compared > 0 {
        text.push_str(&format!(
            "; {} files are taken for the same by their publishers' word, since not all of them is here",
            summary.not_compared
        ));
    }
    text
}
