// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The lists in what a server tells who fetches or follows an image.

use std::ops::Range;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Fields, FrameError};
use crate::limits::{
    ADDRESSES_MAX, ADDRESS_SIZE_MAX, PEERS_MAX, RETRY_MAX, RUNS_MAX, SUGGESTED_MAX,
};
use crate::{ChunkMap, Suggestion};

/// A peer, as another one tells of it: nothing of it is proven before it is dialled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerRecord {
    /// Its id as bytes: 1 to [`ADDRESS_SIZE_MAX`] - 1 of them.
    pub id: Bytes,
    /// Where it listens, each a multiaddr of 1 to [`ADDRESS_SIZE_MAX`] bytes: at most [`ADDRESSES_MAX`].
    pub addresses: Vec<Bytes>,
}

impl PeerRecord {
    /// Bytes of it in a frame.
    pub(super) fn size(&self) -> usize {
        let addresses = self.addresses.iter().map(|address| 2 + address.len());
        2 + self.id.len() + addresses.sum::<usize>()
    }
}

pub(super) fn put_runs(to: &mut BytesMut, runs: &[Range<u32>]) {
    for run in runs {
        to.put_u32_le(run.start);
        to.put_u32_le(run.end - run.start);
    }
}

/// The rest of a payload as runs of chunks.
pub(super) fn runs(fields: &mut Fields) -> Result<Vec<Range<u32>>, FrameError> {
    let mut rest = fields.rest();
    let count = rest.len() / 8;
    if count * 8 != rest.len() || !(1..=RUNS_MAX).contains(&count) {
        return Err(fields.malformed());
    }
    let mut runs = Vec::with_capacity(count);
    // The first one may begin at 0.
    let mut end_before = None;
    while let (Ok(start), Ok(count)) = (rest.try_get_u32_le(), rest.try_get_u32_le()) {
        let end = start
            .checked_add(count)
            .filter(|end| start < *end && *end <= ChunkMap::CHUNKS_MAX)
            .filter(|_| end_before.is_none_or(|before| before < start))
            .ok_or(fields.malformed())?;
        end_before = Some(end);
        runs.push(start..end);
    }
    Ok(runs)
}

pub(super) fn suggestion_size(suggestion: &Suggestion) -> usize {
    match suggestion {
        Suggestion::Chunks(runs) => 4 + 8 * runs.len(),
        Suggestion::Later(_) | Suggestion::Any => 4,
    }
}

pub(super) fn put_suggestion(to: &mut BytesMut, suggestion: &Suggestion) {
    match suggestion {
        Suggestion::Chunks(runs) => {
            to.put_u32_le(0);
            put_runs(to, runs);
        }
        // Never none: that means another thing.
        Suggestion::Later(after) => {
            to.put_u32_le((*after).min(RETRY_MAX).as_millis().max(1) as u32);
        }
        Suggestion::Any => to.put_u32_le(0),
    }
}

/// The rest of a payload as what to ask for.
pub(super) fn suggestion(fields: &mut Fields) -> Result<Suggestion, FrameError> {
    let after = fields.u32()?;
    if fields.rest.is_empty() {
        return Ok(match after {
            0 => Suggestion::Any,
            after => Suggestion::Later(Duration::from_millis(after.into()).min(RETRY_MAX)),
        });
    }
    let runs = runs(fields)?;
    let count: u64 = runs.iter().map(|run| run.len() as u64).sum();
    if after != 0 || count > SUGGESTED_MAX as u64 {
        return Err(fields.malformed());
    }
    Ok(Suggestion::Chunks(runs))
}

pub(super) fn put_records(to: &mut BytesMut, records: &[PeerRecord]) {
    for record in records {
        // Both are as short as the fields' documentation says.
        to.put_u8(record.id.len() as u8);
        to.put_slice(&record.id);
        to.put_u8(record.addresses.len() as u8);
        for address in &record.addresses {
            to.put_u16_le(address.len() as u16);
            to.put_slice(address);
        }
    }
}

/// The rest of a payload as peers.
pub(super) fn records(fields: &mut Fields) -> Result<Vec<PeerRecord>, FrameError> {
    let mut records = Vec::new();
    while !fields.rest.is_empty() {
        let id = fields.u8()?;
        let id = fields.bytes(id.into())?;
        let count = usize::from(fields.u8()?);
        if records.len() == PEERS_MAX || count > ADDRESSES_MAX {
            return Err(fields.malformed());
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let length = fields.u16()?;
            addresses.push(fields.bytes(length.into())?);
        }
        records.push(PeerRecord { id, addresses });
    }
    Ok(records)
}

impl Fields {
    fn u16(&mut self) -> Result<u16, FrameError> {
        self.rest.try_get_u16_le().map_err(|_| self.malformed())
    }

    /// So many bytes: 1 to [`ADDRESS_SIZE_MAX`].
    fn bytes(&mut self, length: usize) -> Result<Bytes, FrameError> {
        if (1..=ADDRESS_SIZE_MAX.min(self.rest.len())).contains(&length) {
            Ok(self.rest.split_to(length))
        } else {
            Err(self.malformed())
        }
    }
}
