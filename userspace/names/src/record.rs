// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a name stands for at a time, and that its key says so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerfs_format::Digest;
use peerfs_oci::PublisherKey;

use crate::key::{verifies, SecretKey, SIGNATURE_SIZE};
use crate::reader::Reader;
use crate::{Grant, Name, WRITERS_MAX};

/// The most copies that a record can ask for.
pub const REPLICAS_MAX: u8 = 8;
/// The bytes of a record without name and grant.
const FIXED: usize = 4 + 2 * PublisherKey::SIZE + 4 * 8 + 2 * 32 + 4 + SIGNATURE_SIZE;
/// The most bytes of a record.
pub const RECORD_MAX: usize = FIXED + 255 + WRITERS_MAX * PublisherKey::SIZE + SIGNATURE_SIZE;
/// What a record begins with: its kind and the version of its form.
const MAGIC: [u8; 4] = *b"PFN\x01";
/// What tells the signature of a record from others of the same key.
const DOMAIN: &[u8] = b"peerfs-name-1\0";
/// In the place of a trace's digest: there is none.
const NO_TRACE: [u8; 32] = [0; 32];

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidRecord {
    /// It has too few bytes, or too many.
    #[error("the record has another length than it says")]
    Length,
    /// It is something else, or of another version.
    #[error("this is no record of a name, or one of a newer version of peerfs")]
    Kind,
    /// A field has a value that is not allowed.
    #[error("the record's {0} is not allowed")]
    Field(&'static str),
    /// Its list of writers is not allowed.
    #[error("the record's list of writers is not allowed: at most {WRITERS_MAX}, each once")]
    Grant,
    /// Who signed it may not.
    #[error(
        "the record is signed by a key that is neither the publisher's nor one of its writers'"
    )]
    Signer,
    /// A signature does not hold.
    #[error("the record is forged: its signature does not hold")]
    Forged,
}

/// What a name stands for, from a time on and until another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// The name.
    pub name: Name,
    /// Whose key signs it: the publisher's, or that of one of the writers.
    pub signer: PublisherKey,
    /// Its place among the records of the name, from 1: the highest one counts.
    pub sequence: u64,
    /// When it was made, in seconds since 1970. Nothing is decided by it.
    pub issued: u64,
    /// From when on it says nothing any more, in seconds since 1970.
    pub expires: u64,
    /// The manifest of the image.
    pub manifest: Digest,
    /// The trace that goes with the image.
    pub trace: Option<Digest>,
    /// How many copies the publisher wishes for; 0 if it does not say.
    pub replicas: u8,
    /// Who else may sign records of the name.
    pub grant: Option<Grant>,
}

/// A record, and the proof that who may sign it has.
#[derive(Clone, Debug)]
pub struct SignedRecord {
    record: Record,
    bytes: Box<[u8]>,
}

impl Record {
    /// When it expires.
    pub fn expiry(&self) -> SystemTime {
        time_at(self.expires)
    }

    /// The generation of its grant; 0 without one.
    pub fn generation(&self) -> u64 {
        self.grant.as_ref().map_or(0, Grant::generation)
    }

    /// Signs it.
    ///
    /// # Errors
    /// [`InvalidRecord`] if it is none that anybody would accept.
    pub fn sign(self, key: &SecretKey) -> Result<SignedRecord, InvalidRecord> {
        if key.public() != self.signer {
            return Err(InvalidRecord::Signer);
        }
        self.check()?;
        let mut bytes = self.body();
        let signature = key.sign(&message(&bytes));
        bytes.extend_from_slice(&signature);
        Ok(SignedRecord {
            record: self,
            bytes: bytes.into(),
        })
    }

    fn check(&self) -> Result<(), InvalidRecord> {
        let writers = self.grant.as_ref().map(Grant::writers);
        let is_writer = writers.is_some_and(|writers| writers.contains(&self.signer));
        let field = InvalidRecord::Field;
        match self {
            _ if self.signer != self.name.key() && !is_writer => Err(InvalidRecord::Signer),
            Record { sequence: 0, .. } => Err(field("sequence")),
            _ if self.expires <= self.issued => Err(field("expiry")),
            _ if self.replicas > REPLICAS_MAX => Err(field("number of replicas")),
            _ => Ok(()),
        }
    }

    /// All but the signature.
    fn body(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_MAX);
        let grant = self.grant.as_ref();
        let writers = grant.map_or(0, |grant| grant.writers().len());
        // Both are bounded by the types that hold them.
        let count = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.name.key().0);
        bytes.extend_from_slice(&self.signer.0);
        for number in [self.sequence, self.issued, self.expires, self.generation()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.manifest.0);
        bytes.extend_from_slice(&self.trace.map_or(NO_TRACE, |trace| trace.0));
        bytes.extend_from_slice(&[
            count(self.name.text().len()),
            count(writers),
            self.replicas,
            0,
        ]);
        bytes.extend_from_slice(self.name.text().as_bytes());
        if let Some(grant) = grant {
            grant.write(&mut bytes);
        }
        bytes
    }
}

impl SignedRecord {
    /// The record in these bytes, of which there are no more, if its signature holds.
    ///
    /// # Errors
    /// [`InvalidRecord`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidRecord> {
        use InvalidRecord::{Field, Kind, Length};
        if bytes.len() > RECORD_MAX {
            return Err(Length);
        }
        let mut reader = Reader(bytes);
        if reader.array() != Some(MAGIC) {
            return Err(Kind);
        }
        let key = PublisherKey(reader.array().ok_or(Length)?);
        let signer = PublisherKey(reader.array().ok_or(Length)?);
        let mut number = || reader.number().ok_or(Length);
        let (sequence, issued, expires, generation) = (number()?, number()?, number()?, number()?);
        let manifest = Digest(reader.array().ok_or(Length)?);
        let trace = reader.array().ok_or(Length)?;
        let [name_length, writers, replicas, reserved] = reader.array().ok_or(Length)?;
        if reserved != 0 {
            return Err(Field("reserved byte"));
        }
        let text = reader.bytes(name_length.into()).ok_or(Length)?;
        let text = std::str::from_utf8(text).map_err(|_| Field("name"))?;
        let name = Name::new(key, text).map_err(|_| Field("name"))?;
        let grant = match (generation, writers) {
            (0, 0) => None,
            (0, _) => return Err(InvalidRecord::Grant),
            _ => Some(Grant::read(&name, generation, writers.into(), &mut reader)?),
        };
        let signature: [u8; SIGNATURE_SIZE] = reader.array().ok_or(Length)?;
        if !reader.0.is_empty() {
            return Err(Length);
        }
        let record = Record {
            name,
            signer,
            sequence,
            issued,
            expires,
            manifest,
            trace: (trace != NO_TRACE).then_some(Digest(trace)),
            replicas,
            grant,
        };
        record.check()?;
        let (body, _) = bytes.split_at(bytes.len() - SIGNATURE_SIZE);
        if !verifies(&signer, &message(body), &signature) {
            return Err(InvalidRecord::Forged);
        }
        Ok(SignedRecord {
            record,
            bytes: bytes.into(),
        })
    }

    /// What it says.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Two that say the same are the same, however they were signed.
impl PartialEq for SignedRecord {
    fn eq(&self, other: &Self) -> bool {
        self.record == other.record
    }
}

impl Eq for SignedRecord {}

fn message(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}

/// The time so many seconds after the beginning of 1970; the latest one if the system knows none so late.
pub(crate) fn time_at(seconds: u64) -> SystemTime {
    // What the system's clock counts in has 63 bits.
    let seconds = Duration::from_secs(seconds.min(i64::MAX as u64));
    UNIX_EPOCH.checked_add(seconds).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
