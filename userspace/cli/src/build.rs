// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs build`.

use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;
use peerfs_build::{BuiltImage, DirectorySource, Options, Progress};
use peerfs_store::{Image, Store};
use peerfs_sys::interrupt;
use serde::Serialize;

use crate::arguments::BuildArguments;
use crate::error::Result;
use crate::limits::raise_descriptor_limit;
use crate::output::{size, tell, Output};
use crate::progress::show_while;

/// The output of `--json`.
#[derive(Serialize)]
struct Summary {
    manifest: String,
    tag: String,
    oci_index: String,
    architecture: String,
    inodes: u64,
    files: u64,
    content_bytes: u64,
    stored_bytes: u64,
    packs: usize,
    shards: usize,
    unusable_base_chunks: u64,
    seconds: f64,
}

/// Builds an image and tags it.
pub(crate) fn run(arguments: &BuildArguments) -> Result<()> {
    raise_descriptor_limit();
    // Without it the build only leaves files behind when it is interrupted.
    let _ = interrupt::watch();
    let start = Instant::now();
    let store = Arc::new(Store::create(&arguments.store.root_dir)?);
    let base = arguments.base.iter().map(|image| store.resolve(image));
    let mut options = Options {
        whole: arguments.whole,
        compression: arguments.compression,
        base: base.collect::<std::result::Result<_, _>>()?,
        is_cancelled: interrupt::is_requested,
        ..Options::default()
    };
    if let Some(threads) = arguments.threads {
        options.threads = threads;
    }
    let source =
        DirectorySource::new(&arguments.tree, &store).one_file_system(arguments.one_file_system);
    let progress = Progress::default();
    let show = |bar: &ProgressBar| {
        let (found_files, found_bytes) = progress.found();
        let (files, bytes) = progress.done();
        let more = if progress.is_walk_done() { "" } else { "+" };
        bar.set_length(found_bytes);
        bar.set_position(bytes);
        bar.set_message(format!("{files}/{found_files}{more} files"));
    };
    let image = show_while(show, || {
        peerfs_build::build(source, &store, &options, &progress)
    })?;
    let architecture = match &arguments.architecture {
        Some(architecture) => architecture.clone(),
        None => Image::open(store.clone(), &image.manifest)?.architecture()?,
    };
    let oci_index = image.tag(&store, &architecture, &arguments.tag)?;
    let (files, _) = progress.done();
    let seconds = start.elapsed().as_secs_f64();
    let mut output = Output::new();
    if arguments.json {
        output.json(&Summary {
            manifest: image.manifest.to_string(),
            tag: arguments.tag.to_string(),
            oci_index: oci_index.to_string(),
            architecture: architecture.to_string(),
            inodes: image.inode_count,
            files,
            content_bytes: image.content_bytes,
            stored_bytes: image.stored_bytes,
            packs: image.packs.len(),
            shards: image.shards.len(),
            unusable_base_chunks: image.unusable_chunks,
            seconds,
        })?;
    } else {
        describe(&image, seconds);
        output.line(&image.manifest.to_string())?;
    }
    output.finish()
}

/// Tells a person what was built.
fn describe(image: &BuiltImage, seconds: f64) {
    tell(&format!(
        "{} inodes, {} of content, {} stored, in {seconds:.1} s",
        image.inode_count,
        size(image.content_bytes),
        size(image.stored_bytes),
    ));
    if image.unusable_chunks > 0 {
        tell(&format!(
            "{} chunks of the base are missing or damaged and were not used; `peerfs verify` says more",
            image.unusable_chunks
        ));
    }
}
