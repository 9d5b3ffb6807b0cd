// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs cat`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use clap::Args;
use peerfs_format::FileType;
use peerfs_store::{Error as StoreError, Image, Reference, Store};

use crate::arguments::StoreArguments;
use crate::error::Result;
use crate::output::Output;
use crate::realm::ReadingKeys;

/// Print files of an image, from the store alone.
#[derive(Args)]
pub(crate) struct CatArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    keys: ReadingKeys,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// The files; symbolic links are followed within the image.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

/// Prints files of an image.
pub(crate) fn run(arguments: &CatArguments) -> Result<()> {
    let store = Arc::new(Store::open(&arguments.store.root_dir)?);
    let manifest = store.resolve(&arguments.image)?;
    let keys = arguments.keys.read(&store, &[manifest])?;
    let image = Image::open_with(store, &manifest, &keys)?;
    let mut output = Output::new();
    for path in &arguments.paths {
        let file = image.lookup(path.as_bytes(), true)?;
        if file.file_type() != FileType::Regular {
            return Err(StoreError::NotAFile(path.as_bytes().to_vec()).into());
        }
        image.read(&file, 0, file.record().size, |bytes| output.bytes(bytes))?;
    }
    output.finish()
}
