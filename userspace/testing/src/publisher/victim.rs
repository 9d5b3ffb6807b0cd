// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Another user of the machine, whose image is right, mounted and in use while mutants of it are.

use std::fs::File;
use std::path::{Path, PathBuf};

use peerfs_format::Digest;
use rustix::fs::{fadvise, Advice};

use super::Original;
use crate::entry::Entry;
use crate::mounting::{mount_image, unmount_image};
use crate::{ensure, Error, Result};

/// A mount of an original that stays, with its files open: their pages are shared with every file of the same
/// content.
pub(super) struct Victim {
    directory: PathBuf,
    files: Vec<File>,
}

impl Victim {
    pub(super) fn new(
        store: &Path,
        manifest: &Digest,
        directory: PathBuf,
        original: &Original,
    ) -> Result<Self> {
        mount_image(store, manifest, &directory, 1).map_err(Error::io("mount", &directory))?;
        let mut files = Vec::new();
        for (path, entry) in &original.entries {
            if entry.starts_with('f') {
                let path = directory.join(path);
                files.push(File::open(&path).map_err(Error::io("open", &path))?);
            }
        }
        Ok(Victim { directory, files })
    }

    /// Has all pages forgotten: whoever reads next fills them.
    pub(super) fn forget(&self) -> Result<()> {
        for file in &self.files {
            fadvise(file, 0, None, Advice::DontNeed)
                .map_err(Error::io("forget", &self.directory))?;
        }
        Ok(())
    }

    /// Fails if anything is not what it was.
    pub(super) fn check(&self, original: &Original) -> Result<()> {
        for (path, expected) in &original.entries {
            let full = self.directory.join(path);
            let found = Entry::read(&full).map_err(Error::io("read", &full))?;
            let found = found.to_string();
            ensure(found == *expected, || {
                let path = path.display();
                format!(
                    "{path} of another image is wrong\n  expected {expected}\n  found    {found}"
                )
            })?;
        }
        Ok(())
    }

    pub(super) fn leave(self) -> Result<()> {
        drop(self.files);
        unmount_image(&self.directory).map_err(Error::io("unmount", &self.directory))
    }
}
