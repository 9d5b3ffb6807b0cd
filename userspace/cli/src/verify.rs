// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs verify`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use indicatif::ProgressBar;
use peerfs_store::{printable, verify, Damage, Store, VerifyProgress, VerifyReport};
use serde::Serialize;

use crate::arguments::VerifyArguments;
use crate::error::{Error, Result};
use crate::failure::PEERFS;
use crate::output::{size, tell, Output};
use crate::progress::show_while;
use crate::pull;

/// The output of `--json`.
#[derive(Serialize)]
struct Findings<'a> {
    blobs: u64,
    bytes: u64,
    partial_chunks: u64,
    damages: Vec<DamageInfo<'a>>,
    /// Images that are not all there, and how many blobs and chunks they miss.
    incomplete: &'a BTreeMap<String, u64>,
    /// Images of which pack contents are missing, and those of how many packs.
    without_contents: &'a BTreeMap<String, u64>,
    /// Encrypted images of which only the stored bytes were checked, and the keys that they need.
    encrypted: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct DamageInfo<'a> {
    blob: String,
    problem: &'a str,
    images: Vec<&'a str>,
    advice: &'a str,
}

/// Checks a store.
pub(crate) fn run(arguments: &VerifyArguments) -> Result<()> {
    let store = Arc::new(Store::open(&arguments.store.root_dir)?);
    let keys = arguments.keys.read_for_all(&store)?;
    let progress = VerifyProgress::default();
    let show = |bar: &ProgressBar| {
        bar.set_length(progress.total_bytes.load(Ordering::Relaxed));
        bar.set_position(progress.read_bytes.load(Ordering::Relaxed));
    };
    let mut report = show_while(show, || verify(&store, &keys, &progress))?;
    if arguments.repair && !report.damages.is_empty() {
        repair(&report, &arguments.daemon.socket)?;
        let progress = VerifyProgress::default();
        report = verify(&store, &keys, &progress)?;
    }
    let mut output = Output::new();
    if arguments.json {
        output.json(&Findings {
            blobs: report.blobs,
            bytes: report.bytes,
            partial_chunks: report.partial_chunks,
            damages: report.damages.iter().map(DamageInfo::from).collect(),
            incomplete: &report.incomplete,
            without_contents: &report.without_contents,
            encrypted: &report.encrypted,
        })?;
    } else {
        print(&report, &mut output)?;
    }
    output.finish()?;
    let is_incomplete = arguments.complete && !report.incomplete.is_empty();
    if report.damages.is_empty() && !is_incomplete {
        return Ok(());
    }
    Err(Error::Damaged(match report.damages.len() {
        0 => "images are not all there".to_owned(),
        1 => "1 blob; see what to do about it above".to_owned(),
        count => format!("{count} blobs; see what to do about them above"),
    }))
}

/// Has the daemon pull the images that something damaged is in: it reads all of them, and fetches what is not right. What it
/// can't get is found again.
fn repair(report: &VerifyReport, socket: &Path) -> Result<()> {
    let images = report.damages.iter().flat_map(|damage| &damage.images);
    for image in images.collect::<BTreeSet<_>>() {
        match pull::to_end(socket, image) {
            Err(Error::Refused(problem)) => tell(&format!(
                "{}: can't repair image {}: {problem}",
                PEERFS.name,
                printable(image)
            )),
            pulled => pulled?,
        }
    }
    Ok(())
}

impl<'a> From<&'a Damage> for DamageInfo<'a> {
    fn from(damage: &'a Damage) -> Self {
        DamageInfo {
            blob: damage.blob.to_string(),
            problem: &damage.problem,
            images: damage.images.iter().map(String::as_str).collect(),
            advice: &damage.advice,
        }
    }
}

fn print(report: &VerifyReport, output: &mut Output) -> Result<()> {
    for damage in &report.damages {
        output.line(&format!("damaged: blob {}", damage.blob))?;
        output.line(&format!("  problem: {}", damage.problem))?;
        let images = damage.images.iter();
        let images: Vec<String> = images.map(|image| printable(image).to_string()).collect();
        output.line(&match images.as_slice() {
            [] => "  no image of the store needs it".to_owned(),
            images => format!("  images: {}", images.join(", ")),
        })?;
        output.line(&format!("  what to do: {}", damage.advice))?;
    }
    for (image, missing) in &report.incomplete {
        output.line(&format!(
            "not all here: image {} misses {missing} blobs and chunks; peerfsd fetches them \
             when they are read",
            printable(image)
        ))?;
    }
    for (image, packs) in &report.without_contents {
        output.line(&format!(
            "not to be built upon: image {} has {packs} packs without their contents, which only \
             `peerfs build --base` reads",
            printable(image)
        ))?;
    }
    for (image, key) in &report.encrypted {
        output.line(&format!(
            "not looked into: image {} is encrypted, and its bytes are what they should be as far as is said above; with \
             --key and the realm key {key} what is in it is checked, too",
            printable(image)
        ))?;
    }
    output.line(&format!(
        "checked {} blobs, {}, and {} chunks of partial packs: {}",
        report.blobs,
        size(report.bytes),
        report.partial_chunks,
        match report.damages.len() {
            0 => "no damage".to_owned(),
            count => format!("{count} damaged"),
        }
    ))
}
