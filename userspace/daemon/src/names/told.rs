// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What clients are told of names.

use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use peerfs_control::{NameRecord, NameStatus};
use peerfs_fetch::PolicyError;
use peerfs_names::{KnownName, Name, Past, Policy, Record, SignedRecord};

use super::{allow, NameError, Names};

impl Names {
    /// What is known of a name.
    ///
    /// # Errors
    /// [`NameError::Damaged`].
    pub fn status(&self, name: &Name) -> Result<NameStatus, NameError> {
        let known = self.known(name)?;
        Ok(status_of(&known, &self.policy(), self.now()))
    }

    /// What is known of all names.
    pub fn statuses(&self) -> Vec<NameStatus> {
        let (now, policy) = (self.now(), self.policy());
        let state = self.0.lock();
        let mut all: Vec<NameStatus> = state
            .known
            .values()
            .map(|known| NameStatus {
                // One record of each fits a reply.
                history: known.newest().map(record_of).into_iter().collect(),
                ..status_of(known, &policy, now)
            })
            .collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

/// What a client is told of a name.
fn status_of(
    known: &KnownName,
    policy: &Result<Policy, PolicyError>,
    now: SystemTime,
) -> NameStatus {
    let current = known.current(now).map_err(NameError::from);
    let current = current.and_then(|current| {
        allow(policy, current.record.record())?;
        Ok(current)
    });
    let record = current.as_ref().ok().map(|current| current.record.record());
    NameStatus {
        name: known.name().to_string(),
        image: record.map(|record| record.manifest.to_string()),
        sequence: record.map(|record| record.sequence),
        generation: record.map(Record::generation),
        signer: record.map(|record| record.signer.to_string()),
        chosen: current.as_ref().is_ok_and(|current| current.is_chosen),
        problem: current.as_ref().err().map(ToString::to_string),
        history: known.history().map(record_of).collect(),
    }
}

fn record_of(past: &Past) -> NameRecord {
    let record = past.record.record();
    let writers = record.grant.iter().flat_map(|grant| grant.writers());
    let accepted = past.accepted.duration_since(UNIX_EPOCH);
    let rival = past.rival.as_ref().map(SignedRecord::record);
    NameRecord {
        sequence: record.sequence,
        generation: record.generation(),
        image: record.manifest.to_string(),
        signer: record.signer.to_string(),
        writers: writers.map(ToString::to_string).collect(),
        issued: record.issued,
        expires: record.expires,
        accepted: accepted.map_or(0, |since| since.as_secs()),
        trace: record.trace.map(|trace| trace.to_string()),
        replicas: record.replicas,
        rival: rival.map(|rival| rival.manifest.to_string()),
        rival_signer: rival.map(|rival| rival.signer.to_string()),
        record: BASE64.encode(past.record.bytes()),
    }
}
