// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Layers that stand for an image, and those that look like it.

use std::fs;
use std::os::unix::fs::symlink;

use peerfs_format::METADATA_MAX;
use peerfs_oci::{STUB_DIRECTORY, STUB_FILE};

use super::source::image_of;
use crate::{sha256, unpacked_stub, Store};

#[test]
fn only_a_layer_with_a_manifest_and_nothing_else_stands_for_an_image() {
    let store = tempfile::tempdir().unwrap();
    let images = Store::create(&store.path().join("images")).unwrap();
    let manifest = image_of(&images, &[]);
    let manifest = images.read_metadata(&manifest, METADATA_MAX).unwrap();
    let layer = tempfile::tempdir().unwrap();
    let directory = layer.path().join(STUB_DIRECTORY);
    let file = directory.join(STUB_FILE);
    let found = || unpacked_stub(layer.path()).unwrap();
    assert_eq!(found(), None);
    fs::create_dir(&directory).unwrap();
    assert_eq!(found(), None);
    fs::write(&file, "no manifest").unwrap();
    assert_eq!(found(), None);
    fs::write(&file, &manifest).unwrap();
    assert_eq!(found(), Some(sha256(&manifest)));
    for other in [layer.path().join("bin"), directory.join("other")] {
        fs::write(&other, "").unwrap();
        assert_eq!(found(), None);
        fs::remove_file(other).unwrap();
    }
    // A link to what would be one.
    let elsewhere = store.path().join("manifest");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert_eq!(found(), None);
    fs::remove_file(&file).unwrap();
    fs::rename(&elsewhere, &file).unwrap();
    let moved = store.path().join("directory");
    fs::rename(&directory, &moved).unwrap();
    symlink(&moved, &directory).unwrap();
    assert_eq!(found(), None);
}
