// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where things are in a store.

use std::path::{Path, PathBuf};

use peerfs_format::Digest;

/// The paths of a store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root_dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(root_dir: &Path) -> Self {
        Layout {
            root_dir: root_dir.to_owned(),
        }
    }

    pub(crate) fn root_dir(&self) -> &Path {
        &self.root_dir
    }

    /// Says that the directory is an OCI image layout; its flock guards changes to the index.
    pub(crate) fn oci_layout(&self) -> PathBuf {
        self.root_dir.join("oci-layout")
    }

    /// The images by tag.
    pub(crate) fn index(&self) -> PathBuf {
        self.root_dir.join("index.json")
    }

    /// The complete blobs.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.root_dir.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.to_string())
    }

    /// The packs that are being filled.
    pub(crate) fn partials(&self) -> PathBuf {
        self.root_dir.join("partial")
    }

    pub(crate) fn partial(&self, pack: &Digest) -> PathBuf {
        self.partials().join(pack.to_string())
    }

    pub(crate) fn map(&self, pack: &Digest) -> PathBuf {
        self.partials().join(format!("{pack}.map"))
    }

    /// What is being written.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.root_dir.join("tmp")
    }

    /// Its flock is held by the one process that fills packs.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root_dir.join("lock")
    }
}
