// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs extract`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;

use clap::{Args, ValueHint};
use indicatif::ProgressBar;
use peerfs_export::{extract, ExtractOptions, Progress, Selection};
use peerfs_store::{Image, Reference, Store};
use peerfs_sys::interrupt;
use rustix::process::geteuid;

use crate::arguments::{parse_threads, StoreArguments};
use crate::error::{Error, Result};
use crate::failure::PEERFS;
use crate::limits::raise_descriptor_limit;
use crate::output::tell;
use crate::progress::show_while;
use crate::realm::ReadingKeys;

/// Write the files of an image to a directory.
///
/// Owners, modes, times, extended attributes, hard links, holes and devices become what they are in the image. What is
/// written was verified. Nothing is written outside the directory, whatever the image says and whoever changes it
/// meanwhile. What can't be made is told, all else is extracted, and the exit status is 1.
#[derive(Args)]
pub(crate) struct ExtractArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    keys: ReadingKeys,
    /// Extract into a directory that holds something. Directories in it stay, and what is in the place of something else
    /// is replaced.
    #[arg(long)]
    overwrite: bool,
    /// Set owners as they are in the image: what root does unless --no-same-owner is given.
    #[arg(long, overrides_with = "no_same_owner")]
    same_owner: bool,
    /// Let all belong to whoever runs this: what an ordinary user does. Set-user-ID and set-group-ID bits are then left
    /// out of what belongs to somebody else in the image, and so are extended attributes that only root may set.
    #[arg(long)]
    no_same_owner: bool,
    /// Set no extended attributes, nor access control lists.
    #[arg(long)]
    no_xattrs: bool,
    /// Threads to use, at most 1024; by default one for each processor.
    #[arg(long, value_name = "NUMBER", value_parser = parse_threads)]
    threads: Option<NonZeroUsize>,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// The directory: it is made, or must be empty.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: PathBuf,
    /// What to extract, with all that is below it; by default everything. The directories that lead there are extracted
    /// too, and symbolic links on the way not followed.
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Extracts an image.
pub(crate) fn run(arguments: &ExtractArguments) -> Result<()> {
    raise_descriptor_limit();
    // Without it half a file is left behind when it is interrupted.
    let _ = interrupt::watch();
    let store = Arc::new(Store::open(&arguments.store.root_dir)?);
    let manifest = store.resolve(&arguments.image)?;
    let keys = arguments.keys.read(&store, &[manifest])?;
    let image = Image::open_with(store, &manifest, &keys)?;
    let paths = arguments.paths.iter().map(|path| path.as_bytes().to_vec());
    let options = ExtractOptions {
        selection: Selection::new(&image, &paths.collect::<Vec<_>>())?,
        overwrite: arguments.overwrite,
        same_owner: arguments.same_owner || (geteuid().is_root() && !arguments.no_same_owner),
        xattrs: !arguments.no_xattrs,
        threads: arguments.threads.unwrap_or_else(processors),
        is_cancelled: interrupt::is_requested,
    };
    let progress = Progress::default();
    let (inodes, bytes) = (image.manifest().inode_count, image.manifest().content_bytes);
    let show = |bar: &ProgressBar| {
        bar.set_length(bytes);
        bar.set_position(progress.bytes.load(Ordering::Relaxed));
        bar.set_message(format!(
            "{}/{inodes} files",
            progress.files.load(Ordering::Relaxed)
        ));
    };
    let failed = |error: &peerfs_export::Error| PEERFS.tell(error);
    let extracted = show_while(show, || {
        extract(&image, &arguments.directory, &options, &progress, &failed)
    })?;
    if extracted.without_xattrs > 0 {
        tell(&format!(
            "{}: warning: {} files have extended attributes that only root may set, and which were left out",
            PEERFS.name, extracted.without_xattrs
        ));
    }
    match extracted.failures {
        0 => Ok(()),
        failures => Err(Error::NotAsInImage(failures)),
    }
}

pub(crate) fn processors() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
