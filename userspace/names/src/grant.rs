// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who else may sign records of a name.

use std::collections::BTreeSet;

use peerfs_oci::PublisherKey;

use crate::key::{verifies, SecretKey, SIGNATURE_SIZE};
use crate::reader::Reader;
use crate::{InvalidRecord, Name};

/// The most writers of a name.
pub const WRITERS_MAX: usize = 16;
/// What tells the signature of a grant from others of the same key.
const DOMAIN: &[u8] = b"peerfs-writers-1\0";

/// A publisher's word on who else may sign records of a name. It is a part of each record, so that whoever has one needs
/// nothing else to see that its writer may have signed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    generation: u64,
    writers: BTreeSet<PublisherKey>,
    signature: [u8; SIGNATURE_SIZE],
}

impl Grant {
    /// The grant of a name's publisher to these. It takes the place of those of lower generations.
    ///
    /// # Errors
    /// [`InvalidRecord::Grant`] if there are too many writers, or no generation; [`InvalidRecord::Signer`] if the key is not
    /// the name's.
    pub fn new(
        name: &Name,
        generation: u64,
        writers: BTreeSet<PublisherKey>,
        key: &SecretKey,
    ) -> Result<Self, InvalidRecord> {
        if generation == 0 || writers.len() > WRITERS_MAX {
            return Err(InvalidRecord::Grant);
        }
        if key.public() != name.key() {
            return Err(InvalidRecord::Signer);
        }
        let signature = key.sign(&message(name, generation, &writers));
        Ok(Grant {
            generation,
            writers,
            signature,
        })
    }

    /// Its place among the grants of the name: the highest one counts.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Who may sign.
    pub fn writers(&self) -> &BTreeSet<PublisherKey> {
        &self.writers
    }

    /// Appends what [`Grant::read`] reads.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        for writer in &self.writers {
            bytes.extend_from_slice(&writer.0);
        }
        bytes.extend_from_slice(&self.signature);
    }

    /// Reads as many writers, and a signature that holds.
    pub(crate) fn read(
        name: &Name,
        generation: u64,
        count: usize,
        reader: &mut Reader<'_>,
    ) -> Result<Self, InvalidRecord> {
        if count > WRITERS_MAX {
            return Err(InvalidRecord::Grant);
        }
        let mut writers = BTreeSet::new();
        for _ in 0..count {
            let writer = PublisherKey(reader.array().ok_or(InvalidRecord::Length)?);
            // One form of each, or a signature would be good for several.
            if writers.last().is_some_and(|last| *last >= writer) {
                return Err(InvalidRecord::Grant);
            }
            writers.insert(writer);
        }
        let signature = reader.array().ok_or(InvalidRecord::Length)?;
        if !verifies(
            &name.key(),
            &message(name, generation, &writers),
            &signature,
        ) {
            return Err(InvalidRecord::Forged);
        }
        Ok(Grant {
            generation,
            writers,
            signature,
        })
    }
}

fn message(name: &Name, generation: u64, writers: &BTreeSet<PublisherKey>) -> Vec<u8> {
    let mut message = DOMAIN.to_vec();
    message.extend_from_slice(&name.topic().0);
    message.extend_from_slice(&generation.to_le_bytes());
    for writer in writers {
        message.extend_from_slice(&writer.0);
    }
    message
}
