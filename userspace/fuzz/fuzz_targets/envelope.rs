// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Envelopes, as registries have them, and files of age that somebody has sent.

#![no_main]

use std::sync::LazyLock;

use peerfs_format::KeyId;
use peerfs_grant::{kinds, open, open_envelope, Identities, Recipient};
use peerfs_realm::{Envelope, ENVELOPE_MAX, GRANTS_MAX};

/// So that what is decrypted is looked at: the seeds are for it.
static IDENTITIES: LazyLock<Identities> = LazyLock::new(|| {
    let text = "AGE-SECRET-KEY-1HSRH6UCH34T02JFHCX2D0030NEY2EMV720HL3UZ80ESH9E40CHZQQA7W8E";
    Identities::parse(text).expect("it is an identity")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let envelope = Envelope::parse(bytes);
    let text = envelope.to_text();
    assert!(envelope.grants().len() <= GRANTS_MAX && text.len() <= ENVELOPE_MAX);
    assert_eq!(Envelope::parse(text.as_bytes()), envelope);
    let wanted = KeyId([0; KeyId::SIZE]);
    assert!(open_envelope(&envelope, &IDENTITIES, wanted).is_err());
    let counted = kinds(bytes);
    if open(bytes, &IDENTITIES).is_ok() {
        assert!(counted
            .expect("what decrypts is whole")
            .contains_key("X25519"));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Identities::parse(text);
        let _ = Recipient::parse_list(text);
    }
});
