// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs build`, and what all commands that make images have in common.

use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;
use peerfs_build::{BuiltImage, DirectorySource, Options, Progress, TreeSource};
use peerfs_store::{Architecture, Image, RuntimeConfig, Store};
use peerfs_sys::interrupt;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use serde::Serialize;

use crate::arguments::{BuildArguments, MakeArguments};
use crate::error::Result;
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
    let maker = Maker::new(&arguments.make)?;
    let source = DirectorySource::new(&arguments.tree, &maker.store)
        .one_file_system(arguments.one_file_system);
    maker.make(source, &Origin::default(), |_| ())
}

/// What is known of an image besides its tree.
#[derive(Default)]
pub(crate) struct Origin {
    /// What its programs are for, unless the user says otherwise.
    pub(crate) architecture: Option<Architecture>,
    /// How they are run.
    pub(crate) config: RuntimeConfig,
}

/// A command that makes an image.
pub(crate) struct Maker<'a> {
    arguments: &'a MakeArguments,
    pub(crate) store: Arc<Store>,
    options: Options,
    start: Instant,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(arguments: &'a MakeArguments) -> Result<Self> {
        raise_descriptor_limit();
        // Without it the command only leaves files behind when it is interrupted.
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
        Ok(Maker {
            arguments,
            store,
            options,
            start,
        })
    }

    /// Builds the image, tags it, and says what came of it. `show_walk` shows how far the source is until it finds
    /// files.
    pub(crate) fn make(
        &self,
        source: impl TreeSource,
        origin: &Origin,
        show_walk: impl Fn(&ProgressBar) + Sync,
    ) -> Result<()> {
        let progress = Progress::default();
        let show = |bar: &ProgressBar| {
            let (found_files, found_bytes) = progress.found();
            if found_files == 0 && !progress.is_walk_done() {
                show_walk(bar);
                return;
            }
            let (files, bytes) = progress.done();
            let more = if progress.is_walk_done() { "" } else { "+" };
            bar.set_length(found_bytes);
            bar.set_position(bytes);
            bar.set_message(format!("{files}/{found_files}{more} files"));
        };
        let image = show_while(show, || {
            peerfs_build::build(source, &self.store, &self.options, &progress)
        })?;
        let named = self.arguments.architecture.as_ref();
        let architecture = match named.or(origin.architecture.as_ref()) {
            Some(architecture) => architecture.clone(),
            None => Image::open(self.store.clone(), &image.manifest)?.architecture()?,
        };
        let tag = &self.arguments.tag;
        let oci_index = image.tag_with(&self.store, &architecture, &origin.config, tag)?;
        let (files, _) = progress.done();
        let seconds = self.start.elapsed().as_secs_f64();
        let mut output = Output::new();
        if self.arguments.json {
            output.json(&Summary {
                manifest: image.manifest.to_string(),
                tag: tag.to_string(),
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

/// Each thread keeps some files and directories open.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If it can't be raised, few threads can do without.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
