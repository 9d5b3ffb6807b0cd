// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a machine knows of a name: never less than it did.

use std::collections::VecDeque;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use peerfs_format::Digest;
use serde::{Deserialize, Serialize};

use crate::record::time_at;
use crate::{InvalidName, InvalidRecord, Name, PublisherKey, SignedRecord};

/// The records of a name that are remembered.
pub const HISTORY_MAX: usize = 16;
/// The most bytes of what is saved of a name.
pub const KNOWN_MAX: usize = 64 * 1024;
/// The version of that.
const VERSION: u32 = 1;

/// A record's place among those of its name: a higher generation of the publisher's grant comes before a higher sequence. So a
/// writer whom the publisher has struck out can neither go on nor have used up all sequences.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Point {
    /// The generation of its grant.
    pub generation: u64,
    /// Its sequence.
    pub sequence: u64,
}

impl From<&SignedRecord> for Point {
    fn from(signed: &SignedRecord) -> Self {
        Point {
            generation: signed.record().generation(),
            sequence: signed.record().sequence,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            0 => write!(f, "{}", self.sequence),
            generation => write!(f, "{generation}.{}", self.sequence),
        }
    }
}

/// What became of a record that came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is the newest one from now on.
    New,
    /// It says that somebody has signed two for one place.
    Fork,
    /// It is known.
    Known,
    /// A newer one is known.
    Old,
    /// It is of another name.
    Foreign,
}

/// A record that was accepted.
#[derive(Clone, Debug)]
pub struct Past {
    /// The record.
    pub record: SignedRecord,
    /// Another one for the same place.
    pub rival: Option<SignedRecord>,
    /// The second in which it was accepted here.
    pub accepted: SystemTime,
}

impl Past {
    /// The record, or the other one for its place, that is for an image.
    fn of(&self, image: &Digest) -> Option<&SignedRecord> {
        let mut both = [Some(&self.record), self.rival.as_ref()]
            .into_iter()
            .flatten();
        both.find(|signed| signed.record().manifest == *image)
    }
}

/// An earlier record that somebody on this machine has chosen, until a newer one than now comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Choice {
    /// The record.
    pub point: Point,
    /// Its image, since there may be two for one place; without it the one is meant that came first.
    pub image: Option<Digest>,
    /// The newest one when it was chosen.
    pub until: Point,
}

/// What a name stands for now.
#[derive(Clone, Copy, Debug)]
pub struct Current<'a> {
    /// The record.
    pub record: &'a SignedRecord,
    /// Whether somebody has chosen it in the place of a newer one.
    pub is_chosen: bool,
}

/// Why a name stands for nothing now.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// No record of it is known.
    #[error("nothing is known of {0}: no peer that can be reached has a record of it")]
    Unknown(Name),
    /// There are two for one place.
    #[error(
        "{name} is forked: its record {point} is signed twice, for image {one} and for image {other}; whoever has its key \
         must publish a newer one, or `peerfs rollback {name} --to` an earlier one, or one of both: --to {point} --image DIGEST",
        one = .images[0],
        other = .images[1]
    )]
    Forked {
        /// The name.
        name: Name,
        /// The place.
        point: Point,
        /// Both images, that first whose record came first.
        images: Box<[Digest; 2]>,
    },
    /// It says nothing any more.
    #[error(
        "the record {point} of {name} has expired at {expired}, no newer one was found, and it has been {now} here already \
         (seconds since 1970); `peerfs rollback {name} --to {point}` takes it all the same"
    )]
    Expired {
        /// The name.
        name: Name,
        /// The newest record.
        point: Point,
        /// When, in seconds since 1970.
        expired: u64,
        /// The time by which that is judged, in seconds since 1970.
        now: u64,
    },
}

/// Why a name can't be rolled back.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CannotGoBack {
    /// There is no such record.
    #[error("no such record of {0} is known here; `peerfs history {0}` shows those that are")]
    NotInHistory(Name),
    /// There are two.
    #[error(
        "record {point} of {name} is signed twice: by {} for image {}, and by {} for image {}; say with --image which one is meant",
        .signers[0], .images[0], .signers[1], .images[1]
    )]
    Forked {
        /// The name.
        name: Name,
        /// The place.
        point: Point,
        /// Both images, that first whose record came first.
        images: Box<[Digest; 2]>,
        /// Whose keys have signed them.
        signers: Box<[PublisherKey; 2]>,
    },
}

/// What is wrong with what was saved of a name.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKnown {
    /// It is too long.
    #[error("it has more than {KNOWN_MAX} bytes")]
    TooLong,
    /// It is no JSON, or not of this form.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is of another version.
    #[error("its version is {0}, not {VERSION}")]
    Version(u32),
    /// What should be a name is none.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A record is none.
    #[error(transparent)]
    Record(#[from] InvalidRecord),
    /// A record is no Base64.
    #[error("a record is no Base64")]
    Base64,
    /// The records are not those of one name in order.
    #[error("its records are not those of one name in their order")]
    Order,
    /// The image that was chosen is none.
    #[error("the image that was chosen is no digest")]
    Choice,
}

/// What a machine knows of a name: the newest record, those before it, and what somebody has chosen.
#[derive(Clone, Debug)]
pub struct KnownName {
    name: Name,
    /// The newest one last.
    records: VecDeque<Past>,
    choice: Option<Choice>,
}

impl KnownName {
    /// Nothing, of this name.
    pub fn new(name: Name) -> Self {
        KnownName {
            name,
            records: VecDeque::new(),
            choice: None,
        }
    }

    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The newest record.
    pub fn newest(&self) -> Option<&Past> {
        self.records.back()
    }

    /// The records that are remembered, the newest one last.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Past> {
        self.records.iter()
    }

    /// What somebody has chosen, as long as it counts.
    pub fn choice(&self) -> Option<Choice> {
        let newest = Point::from(&self.newest()?.record);
        self.choice.filter(|choice| choice.until >= newest)
    }

    /// Whether something would come of a record that has come.
    pub fn is_news(&self, record: &SignedRecord) -> bool {
        self.newest().is_none_or(|newest| {
            let (known, come) = (Point::from(&newest.record), Point::from(record));
            let is_rival = newest.record != *record && newest.rival.is_none();
            known < come || known == come && is_rival
        })
    }

    /// Takes a record that has come, if it is newer than what is known. Never goes back.
    pub fn offer(&mut self, record: SignedRecord, now: SystemTime) -> Verdict {
        if record.record().name != self.name {
            return Verdict::Foreign;
        }
        let point = Point::from(&record);
        match self.records.back_mut() {
            Some(newest) if Point::from(&newest.record) > point => return Verdict::Old,
            Some(newest) if Point::from(&newest.record) == point => {
                if newest.record == record || newest.rival.is_some() {
                    return Verdict::Known;
                }
                newest.rival = Some(record);
                return Verdict::Fork;
            }
            _ => (),
        }
        self.records.push_back(Past {
            record,
            rival: None,
            // As it is saved and shown, so that it can be named.
            accepted: time_at(seconds(now)),
        });
        if self.records.len() > HISTORY_MAX {
            self.records.pop_front();
        }
        self.choice = self.choice();
        Verdict::New
    }

    /// What the name stands for.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn current(&self, now: SystemTime) -> Result<Current<'_>, Unusable> {
        let Some(newest) = self.newest() else {
            return Err(Unusable::Unknown(self.name.clone()));
        };
        if let Some(record) = self.choice().and_then(|choice| self.chosen(choice)) {
            let is_chosen = true;
            return Ok(Current { record, is_chosen });
        }
        let record = newest.record.record();
        let point = Point::from(&newest.record);
        if let Some(rival) = &newest.rival {
            return Err(Unusable::Forked {
                name: self.name.clone(),
                point,
                images: Box::new([record.manifest, rival.record().manifest]),
            });
        }
        if now >= record.expiry() {
            return Err(Unusable::Expired {
                name: self.name.clone(),
                point,
                expired: record.expires,
                now: seconds(now),
            });
        }
        Ok(Current {
            record: &newest.record,
            is_chosen: false,
        })
    }

    /// Chooses an earlier record, or the newest one, until a newer one than now comes. Of several with this sequence it is
    /// that of the generation, or the last one; of two for one place, that for the image.
    ///
    /// # Errors
    /// [`CannotGoBack`].
    pub fn go_back_to(
        &mut self,
        generation: Option<u64>,
        sequence: u64,
        image: Option<Digest>,
    ) -> Result<Point, CannotGoBack> {
        let is_meant = |past: &Past| {
            let point = Point::from(&past.record);
            point.sequence == sequence
                && generation.is_none_or(|generation| point.generation == generation)
        };
        self.choose(is_meant, image)
    }

    /// Chooses what was the newest record here at a time; of two for one place, that for the image.
    ///
    /// # Errors
    /// [`CannotGoBack`].
    pub fn go_back_in_time(
        &mut self,
        time: SystemTime,
        image: Option<Digest>,
    ) -> Result<Point, CannotGoBack> {
        self.choose(|past| past.accepted <= time, image)
    }

    fn choose(
        &mut self,
        is_meant: impl Fn(&Past) -> bool,
        image: Option<Digest>,
    ) -> Result<Point, CannotGoBack> {
        let not_there = || CannotGoBack::NotInHistory(self.name.clone());
        let past = self.history().rev().find(|past| is_meant(past));
        let (past, newest) = past.zip(self.newest()).ok_or_else(not_there)?;
        let point = Point::from(&past.record);
        let record = past.record.record();
        let image = match (image, past.rival.as_ref().map(SignedRecord::record)) {
            (Some(image), _) => image,
            (None, Some(rival)) if rival.manifest != record.manifest => {
                return Err(CannotGoBack::Forked {
                    name: self.name.clone(),
                    point,
                    images: Box::new([record.manifest, rival.manifest]),
                    signers: Box::new([record.signer, rival.signer]),
                });
            }
            (None, _) => record.manifest,
        };
        past.of(&image).ok_or_else(not_there)?;
        self.choice = Some(Choice {
            point,
            image: Some(image),
            until: Point::from(&newest.record),
        });
        Ok(point)
    }

    fn chosen(&self, choice: Choice) -> Option<&SignedRecord> {
        let past = self
            .history()
            .find(|past| Point::from(&past.record) == choice.point)?;
        match choice.image {
            Some(image) => past.of(&image),
            None => Some(&past.record),
        }
    }

    /// All of it as a text for a file.
    pub fn to_text(&self) -> String {
        let encode = |record: &SignedRecord| BASE64.encode(record.bytes());
        let records = self.records.iter().map(|past| SavedPast {
            accepted: seconds(past.accepted),
            record: encode(&past.record),
            rival: past.rival.as_ref().map(encode),
        });
        let saved = Saved {
            version: VERSION,
            name: self.name.to_string(),
            records: records.collect(),
            choice: self.choice.map(|choice| SavedChoice {
                point: choice.point,
                image: choice.image.map(|image| image.to_string()),
                until: choice.until,
            }),
        };
        serde_json::to_string(&saved).expect("strings and numbers can be written as JSON")
    }

    /// What was saved so.
    ///
    /// # Errors
    /// [`InvalidKnown`].
    pub fn parse(text: &[u8]) -> Result<Self, InvalidKnown> {
        if text.len() > KNOWN_MAX {
            return Err(InvalidKnown::TooLong);
        }
        let saved: Saved = serde_json::from_slice(text)?;
        if saved.version != VERSION {
            return Err(InvalidKnown::Version(saved.version));
        }
        let mut known = KnownName::new(saved.name.parse()?);
        let decode = |text: &str| {
            let bytes = BASE64.decode(text.as_bytes());
            let bytes = bytes.map_err(|_| InvalidKnown::Base64)?;
            Ok::<_, InvalidKnown>(SignedRecord::parse(&bytes)?)
        };
        for past in saved.records {
            let accepted = time_at(past.accepted);
            let is_new = known.offer(decode(&past.record)?, accepted) == Verdict::New;
            let is_rival = match &past.rival {
                Some(rival) => known.offer(decode(rival)?, accepted) == Verdict::Fork,
                None => true,
            };
            if !is_new || !is_rival {
                return Err(InvalidKnown::Order);
            }
        }
        if let Some(SavedChoice {
            point,
            image,
            until,
        }) = saved.choice
        {
            let image = image.map(|image| image.parse()).transpose();
            known.choice = Some(Choice {
                point,
                image: image.map_err(|_| InvalidKnown::Choice)?,
                until,
            });
        }
        Ok(known)
    }
}

#[derive(Deserialize, Serialize)]
struct Saved {
    version: u32,
    name: String,
    records: Vec<SavedPast>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    choice: Option<SavedChoice>,
}

#[derive(Deserialize, Serialize)]
struct SavedChoice {
    point: Point,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    until: Point,
}

#[derive(Deserialize, Serialize)]
struct SavedPast {
    accepted: u64,
    record: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rival: Option<String>,
}

/// Whole seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
