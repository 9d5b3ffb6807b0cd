// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs cat`.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use peerfs_format::FileType;
use peerfs_store::{Error as StoreError, Image, Store};

use crate::arguments::CatArguments;
use crate::error::Result;
use crate::output::Output;

/// Prints files of an image.
pub(crate) fn run(arguments: &CatArguments) -> Result<()> {
    let store = Arc::new(Store::open(&arguments.store.root_dir)?);
    let manifest = store.resolve(&arguments.image)?;
    let image = Image::open(store, &manifest)?;
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
