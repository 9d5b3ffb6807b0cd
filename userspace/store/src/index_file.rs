// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `index.json`, as a file.

use std::fs::File;
use std::sync::Arc;

use peerfs_format::METADATA_MAX;
use peerfs_oci::Index;

use crate::directory::StoreDirectory;
use crate::{layout, whole_file, Error, Result};

/// Writes an empty index, unless there is one.
pub(crate) fn create(directory: &Arc<StoreDirectory>) -> Result<()> {
    if directory.has_file(layout::INDEX) {
        return Ok(());
    }
    write(directory, &Index::default())
}

/// Reads the index.
///
/// # Errors
/// [`Error::NoIndex`] if there is none, [`Error::Layout`] if it is not valid, and [`Error::Io`].
pub(crate) fn read(directory: &StoreDirectory) -> Result<Index> {
    let path = directory.path(layout::INDEX);
    let text = whole_file::read(directory, layout::INDEX, METADATA_MAX)?.unwrap_or_default();
    if text.trim_ascii().is_empty() {
        return Err(Error::NoIndex(path));
    }
    Index::parse(&text).map_err(Error::oci(path))
}

/// Changes the index, and makes one if there is none; other processes that do so wait. It is as before if `change`
/// fails.
pub(crate) fn change<T>(
    directory: &Arc<StoreDirectory>,
    change: impl FnOnce(&mut Index) -> Result<T>,
) -> Result<T> {
    let _guard = lock(directory)?;
    let mut index = match read(directory) {
        Err(Error::NoIndex(_)) => Index::default(),
        index => index?,
    };
    let result = change(&mut index)?;
    write(directory, &index)?;
    Ok(result)
}

/// A file that one process or thread has at a time, until it is dropped: who changes what the store notes.
///
/// # Errors
/// [`Error::NotAStore`], [`Error::Io`].
pub(crate) fn lock(directory: &Arc<StoreDirectory>) -> Result<File> {
    let guard = directory
        .read(layout::OCI_LAYOUT)?
        .ok_or_else(|| Error::NotAStore(directory.root_dir().to_owned()))?;
    directory.lock(layout::OCI_LAYOUT, &guard)?;
    Ok(guard)
}

fn write(directory: &Arc<StoreDirectory>, index: &Index) -> Result<()> {
    let failed = || directory.failed("write", layout::INDEX);
    let text = index
        .encode()
        .map_err(Error::oci(directory.path(layout::INDEX)))?;
    // The blobs' names must be on the disk before what refers to them.
    directory.sync(layout::BLOBS).map_err(failed())?;
    whole_file::replace(directory, layout::INDEX, &text)?;
    directory.sync(".").map_err(failed())
}
