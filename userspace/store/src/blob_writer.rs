// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writing a blob that gets its name from its content.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use peerfs_format::Digest;
use rustix::fs::{flock, FlockOperation};
use tempfile::NamedTempFile;

use crate::digest::sha256_file;
use crate::layout::Layout;
use crate::{whole_file, Error, Result, Sha256Writer};

/// A blob being written. Nothing has its final name before [`BlobWriter::finish`]; dropping it
/// earlier leaves nothing.
pub struct BlobWriter {
    layout: Layout,
    file: NamedTempFile,
    hash: Sha256Writer,
    length: u64,
}

impl BlobWriter {
    pub(crate) fn new(layout: &Layout) -> Result<Self> {
        let tmp = layout.tmp();
        let file = whole_file::create(&tmp).map_err(Error::io("create a file in", &tmp))?;
        // Says to other processes that the file is in use: see Store::remove_abandoned.
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::io("lock", file.path())(errno.into()))?;
        Ok(BlobWriter {
            layout: layout.clone(),
            file,
            hash: Sha256Writer::default(),
            length: 0,
        })
    }

    /// Bytes written so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// A full or failing disk; the blob can't be finished then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(Error::io("write to", self.file.path()))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Brings the bytes to disk and gives the file its name. An intact blob of this content that is
    /// already there stays; a damaged one is replaced.
    ///
    /// # Errors
    /// A full or failing disk; nothing has changed then.
    pub fn finish(self) -> Result<Digest> {
        let digest = self.hash.finish();
        let path = self.layout.blob(&digest);
        if is_intact(&path, &digest, self.length).map_err(Error::io("read", &path))? {
            return Ok(digest);
        }
        self.file
            .as_file()
            .sync_data()
            .map_err(Error::io("write to", self.file.path()))?;
        self.file
            .persist(&path)
            .map_err(|error| Error::io("create", &path)(error.error))?;
        Ok(digest)
    }
}

fn is_intact(path: &std::path::Path, digest: &Digest, length: u64) -> io::Result<bool> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(file.metadata()?.size() == length && sha256_file(&file, |_| ())? == *digest)
}
