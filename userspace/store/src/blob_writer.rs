// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writing a blob that gets its name from its content.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use peerfs_format::Digest;

use crate::digest::sha256_file;
use crate::directory::StoreDirectory;
use crate::layout;
use crate::temporary_file::TemporaryFile;
use crate::{Error, Result, Sha256Writer};

/// A blob being written. Nothing has its final name before [`BlobWriter::finish`]; dropping it
/// earlier leaves nothing.
pub struct BlobWriter {
    directory: Arc<StoreDirectory>,
    file: TemporaryFile,
    hash: Sha256Writer,
    length: u64,
}

impl BlobWriter {
    pub(crate) fn new(directory: &Arc<StoreDirectory>) -> Result<Self> {
        let file = TemporaryFile::create(directory)
            .map_err(directory.failed("create a file in", layout::TMP))?;
        Ok(BlobWriter {
            directory: directory.clone(),
            file,
            hash: Sha256Writer::default(),
            length: 0,
        })
    }

    /// Bytes written so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest of the bytes so far.
    pub fn digest(&self) -> Digest {
        self.hash.clone().finish()
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// A full or failing disk; the blob can't be finished then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        let tmp = self.tmp();
        self.file
            .file()
            .write_all(bytes)
            .map_err(Error::io("write to a file in", &tmp))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Brings the bytes to disk and gives the file its name. An intact blob of this content that is
    /// already there stays; a damaged one, or what else has the name, is replaced.
    ///
    /// # Errors
    /// A full or failing disk; nothing has changed then.
    pub fn finish(self) -> Result<Digest> {
        let digest = self.hash.finish();
        let name = layout::blob(&digest);
        if is_intact(&self.directory, &digest, self.length)? {
            return Ok(digest);
        }
        self.file
            .persist(&name)
            .map_err(self.directory.failed("create", &name))?;
        Ok(digest)
    }

    fn tmp(&self) -> PathBuf {
        self.directory.path(layout::TMP)
    }
}

fn is_intact(directory: &StoreDirectory, digest: &Digest, length: u64) -> Result<bool> {
    let name = layout::blob(digest);
    let file = match directory.read(&name) {
        Ok(Some(file)) => file,
        Ok(None) | Err(Error::NotARegularFile(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    let is_intact = || -> std::io::Result<bool> {
        Ok(file.metadata()?.size() == length
            && sha256_file(&file, length, |_| ())? == Some(*digest))
    };
    is_intact().map_err(Error::io("read", &directory.path(&name)))
}
