// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs build`, and what all commands that make images have in common.

use std::env;
use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;
use peerfs_build::{
    Attributes, BuiltImage, DirectorySource, GiveUp, Options, Progress, SeenFiles, TreeSource,
};
use peerfs_format::Digest;
use peerfs_store::{
    printable, Architecture, Error as StoreError, Image, Reference, RuntimeConfig, Store, Tag,
};
use peerfs_sys::interrupt;
use serde::Serialize;

use crate::arguments::{BuildArguments, MakeArguments, XattrChoice};
use crate::error::{Error, Result};
use crate::limits::raise_descriptor_limit;
use crate::output::{size, tell, Output};
use crate::progress::show_while;
use crate::realm;
use crate::seen_folder::SeenFolder;

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
    let mut maker = Maker::new(&arguments.make)?;
    let source = source(arguments, &maker.store)?;
    let seen = SeenFolder::of_user();
    if let Some(image) = &arguments.update {
        maker.options.update = update(arguments, image, &maker.store, seen.as_ref())?;
    }
    maker.options.remember = Some(settings(arguments));
    let image = maker.make(source, &Origin::default(), |_| ())?;
    if let Some(seen) = seen {
        seen.keep(&image.seen, &arguments.tree);
    }
    Ok(())
}

/// What is known of an image besides its tree.
#[derive(Default)]
pub(crate) struct Origin {
    /// What its programs are for, unless the user says otherwise.
    pub(crate) architecture: Option<Architecture>,
    /// How they are run.
    pub(crate) config: RuntimeConfig,
}

/// An image that was made.
pub(crate) struct Made {
    pub(crate) image: BuiltImage,
    architecture: Architecture,
    oci_index: Digest,
    /// How many files it has.
    files: u64,
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
        let profile = arguments.profile.options();
        let mut options = Options {
            realm: arguments.encrypt.as_deref().map(realm::read).transpose()?,
            whole: arguments.whole,
            compression: arguments.compression.unwrap_or(profile.compression),
            base: base.collect::<std::result::Result<_, _>>()?,
            give_up: GiveUp::when(interrupt::is_requested),
            ..profile
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
    ) -> Result<BuiltImage> {
        let tag = &self.arguments.tag;
        let made = self.make_as(source, origin, tag, show_walk)?;
        let Made {
            image,
            architecture,
            oci_index,
            files,
        } = made;
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
        output.finish()?;
        Ok(image)
    }

    /// Builds the image and gives it this tag.
    pub(crate) fn make_as(
        &self,
        source: impl TreeSource,
        origin: &Origin,
        tag: &Tag,
        show_walk: impl Fn(&ProgressBar) + Sync,
    ) -> Result<Made> {
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
            None => {
                let keys = self.options.realm.as_slice();
                Image::open_with(self.store.clone(), &image.manifest, keys)?.architecture()?
            }
        };
        let oci_index = image.tag_with(&self.store, &architecture, &origin.config, tag)?;
        let (files, _) = progress.done();
        Ok(Made {
            image,
            architecture,
            oci_index,
            files,
        })
    }
}

/// The tree, as it is to be taken.
fn source(arguments: &BuildArguments, store: &Store) -> Result<DirectorySource> {
    let attributes = match arguments.xattrs {
        XattrChoice::All => Attributes::All,
        XattrChoice::Security => Attributes::Security,
        XattrChoice::None => Attributes::None,
    };
    let source = DirectorySource::new(&arguments.tree, store)
        .one_file_system(arguments.one_file_system)
        .owner(arguments.owner)
        .attributes(attributes)
        .latest(source_date()?);
    let patterns = arguments.exclude.iter();
    Ok(patterns
        .map(String::as_str)
        .try_fold(source, DirectorySource::exclude)?)
}

/// The latest time that files are said to be of, as reproducible builds have it
/// (the specification of SOURCE_DATE_EPOCH).
fn source_date() -> Result<Option<i64>> {
    let Some(text) = env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    match seconds {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(Error::SourceDate(text)),
    }
}

/// What decides about the content of a file in the image beside how it is stored.
fn settings(arguments: &BuildArguments) -> String {
    format!("xattrs {:?}", arguments.xattrs)
}

/// What was seen of the tree when the image was built that is to be updated, if there is such an image.
fn update(
    arguments: &BuildArguments,
    image: &Reference,
    store: &Store,
    seen: Option<&SeenFolder>,
) -> Result<Option<Arc<SeenFiles>>> {
    let manifest = match store.resolve(image) {
        Ok(manifest) => manifest,
        Err(StoreError::UnknownImage { .. }) => {
            tell(&format!(
                "there is no {} yet: all files are read",
                printable(&image.to_string())
            ));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if arguments.paranoid {
        return Ok(None);
    }
    let found = seen.and_then(|seen| seen.find(&manifest, &arguments.tree));
    if found.is_none() {
        tell("nothing is known of the files of that image: all files are read");
    }
    Ok(found.map(Arc::new))
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
