// SPDX-License-Identifier: GPL-2.0 OR MIT

#![no_main]

//! Images of PuzzleFS: whatever their metadata says, building ends, with an error or an image, within the limits. All
//! chunks are there that the seed has.

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use peerfs_build::{build, Limits, Options, Progress, PuzzleFsSource};
use peerfs_store::{sha256, Store};
use tempfile::TempDir;

const LIMITS: Limits = Limits {
    unpacked: 1 << 20,
    memory: 1 << 20,
};

fn store() -> Arc<Store> {
    static STORE: OnceLock<(TempDir, Arc<Store>)> = OnceLock::new();
    let (_, store) = STORE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(&folder.path().join("store")).unwrap();
        (folder, Arc::new(store))
    });
    store.clone()
}

fuzz_target!(|metadata: &[u8]| {
    let content = b"content of a chunk\n".to_vec();
    let read = move |digest: &_, _| match *digest == sha256(&content) {
        true => Ok(content.clone()),
        false => Ok(Vec::new()),
    };
    let source = PuzzleFsSource::new("image", metadata.to_vec(), Box::new(read)).limits(LIMITS);
    let _ = build(source, &store(), &Options::default(), &Progress::default());
});
