// SPDX-License-Identifier: GPL-2.0 OR MIT

#![no_main]

//! Archives: whatever they are, reading them ends, with an error or a tree, within the limits.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use peerfs_build::{ArchiveTree, Blob, Layer, Limits, Promise, ReadProgress};
use peerfs_store::Store;
use tempfile::TempDir;

const LIMITS: Limits = Limits {
    unpacked: 16 << 20,
    memory: 16 << 20,
};

fn store() -> &'static Store {
    static STORE: OnceLock<(TempDir, Store)> = OnceLock::new();
    let (_, store) = STORE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(&folder.path().join("store")).unwrap();
        (folder, store)
    });
    store
}

/// Corrects the checksums of what looks like headers, which nobody guesses.
fn mend(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    mend(&mut data);
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(&data).unwrap();
    let archive = Layer {
        path: PathBuf::from("archive"),
        blob: Blob::File(file),
        promise: Promise::default(),
    };
    let tree = ArchiveTree::read(archive, store(), LIMITS, &Arc::new(ReadProgress::default()), &|| Ok(()));
    if let Ok(tree) = tree {
        let _ = tree.file("etc/passwd").map(|file| file.read(1 << 20));
    }
});
