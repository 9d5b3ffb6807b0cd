// SPDX-License-Identifier: GPL-2.0 OR MIT

use std::time::Duration;

use peerfs_oci::PublisherKey;

use super::*;
use crate::{Grant, Record, SecretKey};

struct Publisher(SecretKey);

impl Publisher {
    fn new() -> Self {
        Publisher(SecretKey::parse(&SecretKey::generate().unwrap()).unwrap())
    }

    fn name(&self) -> Name {
        Name::new(self.0.public(), "base").unwrap()
    }

    fn grant(&self, generation: u64, writers: &[PublisherKey]) -> Grant {
        let writers = writers.iter().copied().collect();
        Grant::new(&self.name(), generation, writers, &self.0).unwrap()
    }

    /// A record of this image that expires at second 100.
    fn record(&self, sequence: u64, image: u8) -> SignedRecord {
        self.signed_by(&self.0, sequence, image, None)
    }

    fn signed_by(
        &self,
        key: &SecretKey,
        sequence: u64,
        image: u8,
        grant: Option<Grant>,
    ) -> SignedRecord {
        let record = Record {
            name: self.name(),
            signer: key.public(),
            sequence,
            issued: 1,
            expires: 100,
            manifest: Digest([image; 32]),
            trace: None,
            replicas: 0,
            grant,
        };
        record.sign(key).unwrap()
    }
}

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

/// The image that a name stands for at a second.
fn image(known: &KnownName, second: u64) -> Result<u8, Unusable> {
    let current = known.current(at(second))?;
    Ok(current.record.record().manifest.0[0])
}

#[test]
fn a_name_never_goes_back() {
    let publisher = Publisher::new();
    let mut known = KnownName::new(publisher.name());
    assert!(matches!(image(&known, 1), Err(Unusable::Unknown(_))));
    for (sequence, verdict) in [(5, Verdict::New), (4, Verdict::Old), (5, Verdict::Known)] {
        let record = publisher.record(sequence, sequence as u8);
        assert_eq!(known.is_news(&record), verdict == Verdict::New);
        assert_eq!(known.offer(record, at(2)), verdict);
    }
    assert_eq!(image(&known, 4), Ok(5));
    assert_eq!(known.offer(publisher.record(6, 6), at(5)), Verdict::New);
    assert_eq!(image(&known, 6), Ok(6));
    let stranger = Publisher::new();
    assert_eq!(known.offer(stranger.record(9, 9), at(7)), Verdict::Foreign);
    // Nor when the machine starts again, or the clock was set.
    let mut known = KnownName::parse(known.to_text().as_bytes()).unwrap();
    assert_eq!(known.offer(publisher.record(5, 5), at(0)), Verdict::Old);
    assert_eq!(image(&known, 0), Ok(6));
}

#[test]
fn a_record_counts_until_it_expires_whatever_else_is_known() {
    let publisher = Publisher::new();
    let mut known = KnownName::new(publisher.name());
    known.offer(publisher.record(1, 1), at(2));
    assert_eq!(image(&known, 99), Ok(1));
    let expired = image(&known, 100).unwrap_err();
    assert!(matches!(expired, Unusable::Expired { expired: 100, .. }));
    // One that comes late is no way back to the one before it.
    known.offer(publisher.record(2, 2), at(200));
    assert!(image(&known, 200).is_err());
    assert_eq!(known.offer(publisher.record(1, 1), at(200)), Verdict::Old);
}

#[test]
fn a_fork_is_kept_and_shown_until_a_newer_record_comes() {
    let publisher = Publisher::new();
    let mut known = KnownName::new(publisher.name());
    known.offer(publisher.record(1, 1), at(1));
    known.offer(publisher.record(2, 2), at(2));
    assert!(known.is_news(&publisher.record(2, 7)));
    assert_eq!(known.offer(publisher.record(2, 7), at(3)), Verdict::Fork);
    assert!(!known.is_news(&publisher.record(2, 8)));
    // As much evidence as is needed, and no more.
    assert_eq!(known.offer(publisher.record(2, 8), at(3)), Verdict::Known);
    let mut known = KnownName::parse(known.to_text().as_bytes()).unwrap();
    let message = image(&known, 4).unwrap_err().to_string();
    for digest in [[2; 32], [7; 32]].map(Digest) {
        assert!(message.contains(&digest.to_string()), "{message}");
    }
    // An operator may go on with one of both, and says with which.
    let one = Some(Digest([7; 32]));
    let refused = known.go_back_to(None, 2, None).unwrap_err().to_string();
    assert!(
        refused.contains(&Digest([2; 32]).to_string()) && refused.contains("--image"),
        "{refused}"
    );
    assert!(known.go_back_in_time(at(4), None).is_err());
    assert!(known.go_back_to(None, 1, one).is_err() && known.choice().is_none());
    known.go_back_to(None, 2, one).unwrap();
    let mut known = KnownName::parse(known.to_text().as_bytes()).unwrap();
    assert_eq!(image(&known, 5), Ok(7));
    // Or with what was before.
    known.go_back_to(None, 1, None).unwrap();
    assert_eq!(image(&known, 5), Ok(1));
    assert_eq!(known.offer(publisher.record(3, 3), at(6)), Verdict::New);
    assert_eq!(image(&known, 6), Ok(3));
    assert!(known.history().any(|past| past.rival.is_some()));
}

#[test]
fn a_writer_who_was_struck_out_is_powerless() {
    let (publisher, writer) = (Publisher::new(), Publisher::new());
    let mut known = KnownName::new(publisher.name());
    let first = publisher.grant(1, &[writer.0.public()]);
    let by_writer =
        |sequence, image| publisher.signed_by(&writer.0, sequence, image, Some(first.clone()));
    assert_eq!(known.offer(by_writer(1, 1), at(1)), Verdict::New);
    // It leaves no room above.
    assert_eq!(known.offer(by_writer(u64::MAX, 66), at(2)), Verdict::New);
    let second = publisher.grant(2, &[]);
    let struck = publisher.signed_by(&publisher.0, 2, 2, Some(second));
    assert_eq!(known.offer(struck, at(3)), Verdict::New);
    assert_eq!(known.offer(by_writer(u64::MAX, 67), at(4)), Verdict::Old);
    assert_eq!(image(&known, 5), Ok(2));
}

#[test]
fn what_was_chosen_counts_until_a_newer_record_comes() {
    let publisher = Publisher::new();
    let mut known = KnownName::new(publisher.name());
    for number in 1..=3 {
        known.offer(publisher.record(number, number as u8), at(number * 10));
    }
    known.go_back_in_time(at(25), None).unwrap();
    let mut known = KnownName::parse(known.to_text().as_bytes()).unwrap();
    assert_eq!(image(&known, 40), Ok(2));
    assert!(known.current(at(40)).unwrap().is_chosen);
    // Also when it has expired: somebody has decided that.
    assert_eq!(image(&known, 1000), Ok(2));
    assert_eq!(known.offer(publisher.record(3, 3), at(41)), Verdict::Known);
    assert_eq!(image(&known, 41), Ok(2));
    known.go_back_to(None, 1, None).unwrap();
    assert_eq!(image(&known, 41), Ok(1));
    // As it was saved before images were.
    let text = known.to_text();
    let image_of_1 = format!(",\"image\":\"{}\"", Digest([1; 32]));
    let older = text.replace(&image_of_1, "");
    assert_ne!(older, text);
    let older = KnownName::parse(older.as_bytes()).unwrap();
    assert_eq!(image(&older, 41), Ok(1));
    known.offer(publisher.record(4, 4), at(42));
    assert_eq!(image(&known, 42), Ok(4));
    assert_eq!(known.choice(), None);
    assert!(
        known.go_back_to(None, 9, None).is_err() && known.go_back_in_time(at(9), None).is_err()
    );
    assert_eq!(image(&known, 42), Ok(4));
}

#[test]
fn as_much_is_remembered_as_there_is_room_for() {
    let (publisher, writers) = (Publisher::new(), Publisher::new());
    let writers: Vec<PublisherKey> = (0..crate::WRITERS_MAX as u8)
        .map(|number| PublisherKey([number; 32]))
        .chain([writers.0.public()])
        .take(crate::WRITERS_MAX)
        .collect();
    let grant = publisher.grant(1, &writers);
    let mut known = KnownName::new(publisher.name());
    for sequence in 1..=HISTORY_MAX as u64 + 3 {
        for image in [1, 2] {
            let record = publisher.signed_by(&publisher.0, sequence, image, Some(grant.clone()));
            known.offer(record, at(sequence));
        }
    }
    assert_eq!(known.history().count(), HISTORY_MAX);
    let text = known.to_text();
    assert!(text.len() <= KNOWN_MAX, "{}", text.len());
    assert_eq!(KnownName::parse(text.as_bytes()).unwrap().to_text(), text);
}

#[test]
fn what_was_saved_otherwise_is_refused() {
    let (publisher, stranger) = (Publisher::new(), Publisher::new());
    let mut known = KnownName::new(publisher.name());
    known.offer(publisher.record(1, 1), at(1));
    known.offer(publisher.record(2, 2), at(2));
    let text = known.to_text();
    let mut other = KnownName::new(stranger.name());
    other.offer(stranger.record(1, 1), at(1));
    let foreign = text.replace(&publisher.name().to_string(), &stranger.name().to_string());
    for (text, named) in [
        (String::new(), "EOF"),
        (
            text.replace("\"version\":1", "\"version\":2"),
            "version is 2",
        ),
        (
            text.replace("\"record\":\"UEZ", "\"record\":\"QUZ"),
            "no record",
        ),
        (text.replace("\"record\":\"", "\"record\":\"!"), "Base64"),
        (foreign, "order"),
        (" ".repeat(KNOWN_MAX + 1), "more than"),
    ] {
        let problem = KnownName::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(problem.contains(named), "{named}: {problem}");
    }
}
