// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Grants that are right, for somebody else, of another realm, damaged, and garbage.

use std::slice::from_ref;

use age::secrecy::ExposeSecret;
use age::x25519;
use proptest::prelude::*;

use super::*;

/// An identity, and its recipient.
fn somebody() -> (Identities, Recipient) {
    let identity = x25519::Identity::generate();
    let identities = Identities::parse(identity.to_string().expose_secret()).unwrap();
    (identities, Recipient(identity.to_public()))
}

fn armored(plain: &[u8], recipient: &Recipient) -> Grant {
    let text = age::encrypt_and_armor(&recipient.0, plain).unwrap();
    Grant::parse(text.as_bytes()).unwrap()
}

#[test]
fn who_was_named_gets_the_key_and_nobody_else() {
    let key = RealmKey::generate().unwrap();
    let [one, two, other] = [(); 3].map(|()| somebody());
    let grant = seal(&key, &[one.1.clone(), two.1.clone()]).unwrap();
    for identities in [&one.0, &two.0] {
        let found = open(grant.text().as_bytes(), identities).unwrap();
        assert_eq!(found.bytes(), key.bytes());
    }
    let refused = open(grant.text().as_bytes(), &other.0).unwrap_err();
    assert!(matches!(refused, OpenError::OtherRecipients));
    let found = kinds(grant.text().as_bytes()).unwrap();
    assert_eq!(found, BTreeMap::from([("X25519".to_owned(), 2)]));
    // Not armored, as age writes it.
    let plain = age::encrypt(&one.1 .0, key.to_text().as_bytes()).unwrap();
    assert!(is_sealed(&plain) && is_sealed(grant.text().as_bytes()));
    assert!(!is_sealed(key.to_text().as_bytes()));
    assert_eq!(open(&plain, &one.0).unwrap().id(), key.id());
}

#[test]
fn many_have_room_and_more_are_refused() {
    let (identities, recipient) = somebody();
    let key = RealmKey::generate().unwrap();
    let many = vec![recipient; RECIPIENTS_MAX + 1];
    let grant = seal(&key, &many[1..]).unwrap();
    let found = kinds(grant.text().as_bytes()).unwrap();
    assert_eq!(found["X25519"], RECIPIENTS_MAX);
    assert!(open(grant.text().as_bytes(), &identities).is_ok());
    assert!(matches!(seal(&key, &many), Err(SealError::TooMany(101))));
    assert!(matches!(seal(&key, &[]), Err(SealError::Encrypt(_))));
}

#[test]
fn of_an_envelope_nothing_is_believed_but_the_id() {
    let [own, foreign] = [(); 2].map(|()| RealmKey::generate().unwrap());
    let [me, you] = [(); 2].map(|()| somebody());
    let right = seal(&own, from_ref(&me.1)).unwrap();
    let for_you = seal(&own, from_ref(&you.1)).unwrap();
    let mixed_up = seal(&foreign, from_ref(&me.1)).unwrap();
    let no_key = armored(b"a word", &me.1);
    let long = armored(&[b' '; 8000], &me.1);
    let text = right.text();
    let middle = text.len() / 2;
    let flipped = match text.as_bytes()[middle] {
        b'A' => "B",
        _ => "A",
    };
    let damaged = [&text[..middle], flipped, &text[middle + 1..]].concat();
    let damaged = Grant::parse(damaged.as_bytes()).unwrap();
    let open = |grants: &[&Grant]| {
        let envelope = Envelope::of(grants.iter().map(|grant| (*grant).clone()));
        open_envelope(&envelope, &me.0, own.id())
    };
    // Before and behind all of these the right one is found.
    let all = [&for_you, &mixed_up, &no_key, &long, &damaged];
    for place in 0..=all.len() {
        let mut all = all.to_vec();
        all.insert(place, &right);
        assert_eq!(open(&all).unwrap().id(), own.id());
    }
    assert!(matches!(open(&[]), Err(OpenError::NoGrant(_))));
    assert!(matches!(open(&[&for_you]), Err(OpenError::OtherRecipients)));
    for order in [[&for_you, &mixed_up], [&mixed_up, &for_you]] {
        let found = open(&order);
        assert!(
            matches!(found, Err(OpenError::OtherKey { .. })),
            "{found:?}"
        );
    }
    for wrong in [&no_key, &long] {
        assert!(matches!(open(&[wrong]), Err(OpenError::NoKey(_))));
    }
    assert!(open(&[&damaged]).is_err());
}

#[test]
fn what_is_no_file_of_age_is_refused() {
    let (identities, recipient) = somebody();
    let key = RealmKey::generate().unwrap();
    let text = seal(&key, &[recipient]).unwrap().text().to_owned();
    for end in (0..text.trim_end().len()).step_by(7) {
        let cut = &text.as_bytes()[..end];
        assert!(open(cut, &identities).is_err(), "{end}");
    }
    let passphrase = age::scrypt::Recipient::new("word".to_owned().into());
    let passphrase = age::encrypt(&passphrase, b"").unwrap();
    let refused = open(&passphrase, &identities).unwrap_err();
    assert!(matches!(refused, OpenError::Passphrase), "{refused:?}");
    let long = vec![b'A'; 10 << 20];
    for bytes in [&long[..], b"", b"garbage", &long[..GRANT_MAX]] {
        assert!(open(bytes, &identities).is_err() && kinds(bytes).is_err());
    }
}

proptest! {
    #[test]
    fn damage_is_found(place: prop::sample::Index, flip in 1_u8..) {
        let (identities, recipient) = somebody();
        let key = RealmKey::generate().unwrap();
        let mut bytes = age::encrypt(&recipient.0, key.to_text().as_bytes()).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        prop_assert!(open(&bytes, &identities).is_err());
    }
}
