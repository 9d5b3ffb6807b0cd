// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Records of names, as peers and the DHT send them, what a machine has saved of a name, and certificates.

#![no_main]

use std::time::UNIX_EPOCH;

use peerfs_names::{Certificate, KnownName, SignedRecord};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(signed) = SignedRecord::parse(bytes) {
        assert_eq!(signed.bytes(), bytes, "a record has one form");
        let mut known = KnownName::new(signed.record().name.clone());
        known.offer(signed, UNIX_EPOCH);
        let _ = known.current(UNIX_EPOCH);
    }
    if let Ok(certificate) = Certificate::parse(bytes) {
        assert_eq!(certificate.to_bytes(), bytes, "a certificate has one form");
    }
    if let Ok(known) = KnownName::parse(bytes) {
        let text = known.to_text();
        let again = KnownName::parse(text.as_bytes()).expect("what was written can be read");
        assert_eq!(again.to_text(), text);
    }
});
