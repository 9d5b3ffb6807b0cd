// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where a user's builds note what they have seen of a tree's files, for `peerfs build --update`.
//!
//! Not in the store: that may be somebody else's, who would decide then what is in the images that are built.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use peerfs_build::{NewlySeen, SeenFiles};
use peerfs_format::Digest;
use peerfs_store::sha256;
use rustix::fs::OFlags;
use rustix::process::geteuid;
use tempfile::NamedTempFile;

/// Builds of which something is noted: those before are forgotten.
const KEPT: usize = 64;
/// The longest note that is read, in bytes: of some 15 million files.
const SIZE_MAX: u64 = 1 << 30;

/// The folder of a user.
pub(crate) struct SeenFolder {
    path: PathBuf,
}

impl SeenFolder {
    /// `peerfs/seen-files` in the user's folder for what can be made again; None if nobody says where that is.
    pub(crate) fn of_user() -> Option<Self> {
        let variable = |name| env::var_os(name).map(PathBuf::from);
        let caches = variable("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| Some(variable("HOME")?.join(".cache")))
            .filter(|path| path.is_absolute())?;
        Some(SeenFolder {
            path: caches.join("peerfs/seen-files"),
        })
    }

    /// What was noted when this image was built of the tree; None if nothing was, or it can't be read or relied on.
    pub(crate) fn find(&self, manifest: &Digest, tree: &Path) -> Option<SeenFiles> {
        let file = File::options()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
            .open(self.file_of(manifest, tree)?)
            .ok()?;
        let metadata = file.metadata().ok()?;
        let is_ours = metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0;
        if !metadata.is_file() || !is_ours || metadata.len() > SIZE_MAX {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(SIZE_MAX).read_to_end(&mut bytes).ok()?;
        let seen = SeenFiles::from_bytes(&bytes)?;
        (seen.manifest == *manifest).then_some(seen)
    }

    /// Notes what was seen. Without it, the next build takes longer: who can't write here need not be told.
    pub(crate) fn keep(&self, seen: &NewlySeen, tree: &Path) {
        if let Err(error) = self.write(seen, tree) {
            tracing::debug!(%error, folder = %self.path.display(), "nothing is noted of the tree");
        }
    }

    fn write(&self, seen: &NewlySeen, tree: &Path) -> io::Result<()> {
        let Some(path) = self.file_of(&seen.manifest, tree) else {
            return Ok(());
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)?;
        // It is the user's alone, and has its name when all of it is there.
        let mut file = NamedTempFile::new_in(&self.path)?;
        seen.write_to(&mut file)?;
        file.persist(path)?;
        self.forget_old()
    }

    fn forget_old(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
        files.sort_unstable();
        let many = files.len().saturating_sub(KEPT);
        for (_, path) in files.iter().take(many) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// The file for an image and a tree, if there is such a tree.
    fn file_of(&self, manifest: &Digest, tree: &Path) -> Option<PathBuf> {
        let tree = tree.canonicalize().ok()?;
        let tree = sha256(tree.as_os_str().as_bytes()).to_string();
        let name = format!("{manifest}-{}", tree.get(..16)?);
        Some(self.path.join(name))
    }
}
