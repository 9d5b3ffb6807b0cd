// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What registries and other people's layouts say.

#![no_main]

use peerfs_oci::{links, media_type_of, oci_manifests, Document, Index, OciManifest};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(document) = Document::parse(bytes) {
        let _ = document.peerfs_manifest();
    }
    if let Ok(index) = Index::parse(bytes) {
        let _ = index.targets();
    }
    let _ = (OciManifest::parse(bytes), oci_manifests(bytes));
    let _ = (links(bytes), media_type_of(bytes));
});
