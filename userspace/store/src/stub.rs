// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The layer that stands for a peerfs image (Documentation/images.md, "Registries"): a tar with its manifest and nothing else,
//! which a container runtime has unpacked like any other one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use peerfs_format::{Digest, Manifest};
use peerfs_oci::{STUB_DIRECTORY, STUB_FILE};
use rustix::fs::{open, Mode, OFlags};

use crate::sha256;

/// The most bytes of a manifest that are read; it has 176.
const MANIFEST_MAX: u64 = 64 * 1024;

/// The manifest of the image that the files of an unpacked layer stand for; None if they are files of their own.
///
/// # Errors
/// What the system says.
pub fn unpacked_stub(files: &Path) -> io::Result<Option<Digest>> {
    let directory = files.join(STUB_DIRECTORY);
    if !is_all(files, STUB_DIRECTORY)? || !directory.symlink_metadata()?.is_dir() {
        return Ok(None);
    }
    if !is_all(&directory, STUB_FILE)? {
        return Ok(None);
    }
    // Whoever made the layer may have made it anything: a fifo, a link.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = open(directory.join(STUB_FILE), flags, Mode::empty()) else {
        return Ok(None);
    };
    let file = File::from(file);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.size() > MANIFEST_MAX {
        return Ok(None);
    }
    let mut manifest = Vec::new();
    file.take(MANIFEST_MAX).read_to_end(&mut manifest)?;
    let is_manifest = Manifest::parse(&manifest).is_ok();
    Ok(is_manifest.then(|| sha256(&manifest)))
}

/// Whether `name` is all that is in a directory.
fn is_all(directory: &Path, name: &str) -> io::Result<bool> {
    // Enough to tell.
    let names: io::Result<Vec<_>> = fs::read_dir(directory)?.take(2).collect();
    Ok(matches!(names?.as_slice(), [only] if only.file_name() == name))
}
