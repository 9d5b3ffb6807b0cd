// SPDX-License-Identifier: GPL-2.0 OR MIT

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

pub(crate) fn key() -> SecretKey {
    SecretKey::parse(&SecretKey::generate().unwrap()).unwrap()
}

fn record(publisher: &SecretKey, signer: &SecretKey, grant: Option<Grant>) -> Record {
    Record {
        name: Name::new(publisher.public(), "team/base").unwrap(),
        signer: signer.public(),
        sequence: 7,
        issued: 1000,
        expires: 2000,
        manifest: Digest([3; 32]),
        trace: Some(Digest([4; 32])),
        replicas: 3,
        grant,
    }
}

fn grant(publisher: &SecretKey, writers: &[&SecretKey]) -> Grant {
    let name = Name::new(publisher.public(), "team/base").unwrap();
    let writers = writers.iter().map(|writer| writer.public()).collect();
    Grant::new(&name, 1, writers, publisher).unwrap()
}

#[test]
fn a_record_is_the_same_when_it_is_read_again() {
    let (publisher, writer) = (key(), key());
    let mut largest = record(&publisher, &writer, None);
    let others: Vec<SecretKey> = (1..WRITERS_MAX).map(|_| key()).collect();
    let writers: Vec<&SecretKey> = others.iter().chain([&writer]).collect();
    let writers: BTreeSet<_> = writers.iter().map(|writer| writer.public()).collect();
    largest.name = Name::new(publisher.public(), &"n".repeat(255)).unwrap();
    largest.grant = Some(Grant::new(&largest.name, u64::MAX, writers, &publisher).unwrap());
    for (record, signer, length) in [
        (record(&publisher, &publisher, None), &publisher, FIXED + 9),
        (largest, &writer, RECORD_MAX),
    ] {
        let signed = record.clone().sign(signer).unwrap();
        assert_eq!(signed.bytes().len(), length);
        let again = SignedRecord::parse(signed.bytes()).unwrap();
        assert_eq!((again.record(), again.bytes()), (&record, signed.bytes()));
    }
}

#[test]
fn who_may_not_sign_is_refused() {
    let (publisher, writer, stranger) = (key(), key(), key());
    let granted = grant(&publisher, &[&writer]);
    record(&publisher, &writer, Some(granted.clone()))
        .sign(&writer)
        .unwrap();
    for (grant, signer) in [
        (None, &stranger),
        (None, &writer),
        (Some(granted.clone()), &stranger),
    ] {
        let refused = record(&publisher, signer, grant).sign(signer);
        assert_eq!(refused, Err(InvalidRecord::Signer));
    }
    // A stranger who writes a grant to itself.
    let name = Name::new(publisher.public(), "team/base").unwrap();
    let own = Grant::new(&name, 2, [stranger.public()].into(), &stranger);
    assert_eq!(own, Err(InvalidRecord::Signer));
    // Or takes that of another name of the publisher.
    let other = Name::new(publisher.public(), "other").unwrap();
    let other = Grant::new(&other, 1, [stranger.public()].into(), &publisher).unwrap();
    let stolen = record(&publisher, &stranger, Some(other))
        .sign(&stranger)
        .unwrap();
    assert_eq!(
        SignedRecord::parse(stolen.bytes()),
        Err(InvalidRecord::Forged)
    );
    // Or puts its own key over that of a writer.
    let signed = record(&publisher, &writer, Some(granted))
        .sign(&writer)
        .unwrap();
    let (from, to) = (writer.public().0, stranger.public().0);
    let mut bytes = signed.bytes().to_vec();
    for place in 0..bytes.len() - from.len() {
        if bytes[place..].starts_with(&from) {
            bytes[place..place + to.len()].copy_from_slice(&to);
        }
    }
    assert_eq!(SignedRecord::parse(&bytes), Err(InvalidRecord::Forged));
}

#[test]
fn what_is_not_allowed_is_not_signed() {
    let publisher = key();
    let valid = record(&publisher, &publisher, None);
    for (record, field) in [
        (
            Record {
                sequence: 0,
                ..valid.clone()
            },
            "sequence",
        ),
        (
            Record {
                expires: 1000,
                ..valid.clone()
            },
            "expiry",
        ),
        (
            Record {
                replicas: REPLICAS_MAX + 1,
                ..valid.clone()
            },
            "number of replicas",
        ),
    ] {
        assert_eq!(record.sign(&publisher), Err(InvalidRecord::Field(field)));
    }
    let many: Vec<SecretKey> = (0..=WRITERS_MAX).map(|_| key()).collect();
    let many = many.iter().map(SecretKey::public).collect();
    assert_eq!(
        Grant::new(&valid.name, 1, many, &publisher),
        Err(InvalidRecord::Grant)
    );
}

#[test]
fn a_record_that_is_cut_or_prolonged_or_changed_is_refused() {
    let (publisher, writer) = (key(), key());
    let granted = grant(&publisher, &[&writer]);
    let signed = record(&publisher, &writer, Some(granted))
        .sign(&writer)
        .unwrap();
    let bytes = signed.bytes();
    for length in 0..bytes.len() {
        assert!(SignedRecord::parse(&bytes[..length]).is_err(), "{length}");
    }
    for more in [1, RECORD_MAX, 1 << 20] {
        let longer = [bytes, &vec![0; more]].concat();
        assert_eq!(SignedRecord::parse(&longer), Err(InvalidRecord::Length));
    }
    for place in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut changed = bytes.to_vec();
            changed[place] ^= bit;
            assert!(SignedRecord::parse(&changed).is_err(), "byte {place}");
        }
    }
}

#[test]
fn writers_in_another_order_are_no_second_form_of_a_record() {
    let (publisher, one, two) = (key(), key(), key());
    let granted = grant(&publisher, &[&one, &two]);
    let signed = record(&publisher, &publisher, Some(granted))
        .sign(&publisher)
        .unwrap();
    let mut bytes = signed.bytes().to_vec();
    let writers = FIXED - SIGNATURE_SIZE + 9;
    bytes[writers..writers + 64].rotate_left(32);
    assert_eq!(SignedRecord::parse(&bytes), Err(InvalidRecord::Grant));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let magic = [&MAGIC[..], &bytes].concat();
        prop_assert!(SignedRecord::parse(&bytes).is_err());
        prop_assert!(SignedRecord::parse(&magic).is_err());
    }
}
