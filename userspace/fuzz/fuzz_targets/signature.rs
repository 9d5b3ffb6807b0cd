// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images as registries have them, and policies.

#![no_main]

use std::io;
use std::sync::LazyLock;

use peerfs_names::{ImageSignature, Policy, SignatureManifest, SigningKey, VerifyingKey};

/// So that what is signed is looked at: the key of RFC 8032's first test.
static KEY: LazyLock<SigningKey> = LazyLock::new(|| {
    let text = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";
    SigningKey::parse(text).expect("it is a key")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = SignatureManifest::parse(bytes) {
        let _ = manifest.signatures();
        let (_, again) = manifest.to_bytes();
        assert!(SignatureManifest::parse(&again).is_ok() || again.len() > 1024 * 1024);
    }
    let signed = ImageSignature {
        payload: bytes.to_vec(),
        signature: KEY.sign(bytes).expect("it can sign"),
    };
    let _ = signed.image(&[KEY.public().expect("it is a key")]);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = VerifyingKey::parse(text);
        let _ = Policy::parse(text, |_| Err(io::Error::from(io::ErrorKind::NotFound)));
    }
});
