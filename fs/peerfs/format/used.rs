// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which chunks were read from a store: the answer to [`IOCTL_USED`](crate::upcall::IOCTL_USED).

use core::iter;

use crate::table::{FieldReader, FieldWriter, Record};
use crate::upcall::{payload_record, Header, Operation, HEADER_SIZE};
use crate::{Digest, Error, Result};

/// Bytes of the argument of [`IOCTL_USED`](crate::upcall::IOCTL_USED): room for the longest message [`Operation::Used`].
pub const USED_SIZE: usize = 8192;
/// Bytes of that message without its header.
pub const USED_PAYLOAD_MAX: usize = USED_SIZE - HEADER_SIZE;

/// Begins a run in the payload of [`Operation::Used`]: chunks of a pack, of which those were read whose bits are set in the
/// words that follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UsedRun {
    /// The pack.
    pub pack: Digest,
    /// Its index.
    pub index: Digest,
    /// The chunk that the first bit is of.
    pub first_chunk: u32,
    /// Words of 64 bits, little-endian; the lowest bit is of the first chunk.
    pub words: u32,
}

impl UsedRun {
    /// Bytes of a word.
    pub const WORD_SIZE: usize = 8;
}

impl Record for UsedRun {
    const SIZE: usize = 72;

    fn decode(fields: &mut FieldReader<'_>) -> Self {
        UsedRun {
            pack: Digest(fields.bytes()),
            index: Digest(fields.bytes()),
            first_chunk: fields.u32(),
            words: fields.u32(),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.bytes(&self.pack.0);
        fields.bytes(&self.index.0);
        fields.u32(self.first_chunk);
        fields.u32(self.words);
    }
}

/// Chunks of a pack that were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UsedChunks<'a> {
    /// The pack.
    pub pack: Digest,
    /// Its index.
    pub index: Digest,
    first: u32,
    bits: &'a [u8],
}

impl<'a> UsedChunks<'a> {
    /// The numbers of the chunks.
    pub fn chunks(&self) -> impl Iterator<Item = u32> + 'a {
        let (first, bits) = (self.first, self.bits);
        let numbers = (first..=u32::MAX).zip(bits.iter().flat_map(|byte| {
            let byte = *byte;
            (0..8).map(move |bit| byte & (1 << bit) != 0)
        }));
        numbers.filter_map(|(number, is_set)| is_set.then_some(number))
    }
}

/// Reads the message in the argument that [`IOCTL_USED`](crate::upcall::IOCTL_USED) has filled: its runs, up to the first one that
/// is malformed. None: nothing was read since it was asked last.
///
/// # Errors
/// [`Error::Malformed`] if it is another message, or none.
pub fn used_chunks(argument: &[u8]) -> Result<impl Iterator<Item = Result<UsedChunks<'_>>>> {
    const WHAT: &str = "Used message";
    let (header, mut rest) = Header::parse(argument)?;
    if header.operation != Operation::Used {
        return Err(Error::Malformed(WHAT));
    }
    let mut take = move || {
        let (run, behind) = rest
            .split_at_checked(UsedRun::SIZE)
            .ok_or(Error::Malformed(WHAT))?;
        let run: UsedRun = payload_record(run, WHAT)?;
        let (bits, behind) = (run.words as usize)
            .checked_mul(UsedRun::WORD_SIZE)
            .and_then(|length| behind.split_at_checked(length))
            .ok_or(Error::Malformed(WHAT))?;
        rest = behind;
        let chunks = UsedChunks {
            pack: run.pack,
            index: run.index,
            first: run.first_chunk,
            bits,
        };
        Ok((chunks, rest.is_empty()))
    };
    let mut is_over = rest.is_empty();
    Ok(iter::from_fn(move || {
        if is_over {
            return None;
        }
        let taken = take();
        is_over = taken.map_or(true, |(_, is_last)| is_last);
        Some(taken.map(|(chunks, _)| chunks))
    }))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::upcall::write_message;

    fn message(operation: Operation, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        write_message(operation, 0, payload, |piece| {
            message.extend_from_slice(piece)
        });
        message.resize(USED_SIZE, 0xee);
        message
    }

    fn run(pack: u8, first_chunk: u32, words: &[u64]) -> Vec<u8> {
        let run = UsedRun {
            pack: Digest([pack; 32]),
            index: Digest([9; 32]),
            first_chunk,
            words: words.len() as u32,
        };
        let mut bytes = Vec::new();
        run.write_to(|piece| bytes.extend_from_slice(piece));
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    #[test]
    fn the_layout_is_the_one_in_the_document() {
        let bytes = message(Operation::Used, &run(7, 64, &[0x8000_0000_0000_0005]));
        assert_eq!(bytes[..8], *b"PRFS\x02\0\x04\0");
        assert_eq!(bytes[8..24], [[0; 8], [104, 0, 0, 0, 0, 0, 0, 0]].concat());
        assert_eq!(bytes[24..88], [[7; 32], [9; 32]].concat());
        assert_eq!(bytes[88..96], [64, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[96..104], [5, 0, 0, 0, 0, 0, 0, 0x80]);
    }

    #[test]
    fn runs_come_back_one_behind_the_other() {
        let payload = [run(1, 0, &[1 << 63, 1]), run(2, u32::MAX, &[!0])].concat();
        let bytes = message(Operation::Used, &payload);
        let runs: Vec<_> = used_chunks(&bytes).unwrap().map(Result::unwrap).collect();
        let read = |place: usize| (runs[place].pack.0[0], runs[place].chunks().collect());
        assert_eq!(read(0), (1, Vec::from([63, 64])));
        // There are no chunks beyond.
        assert_eq!(read(1), (2, Vec::from([u32::MAX])));
        assert_eq!(runs.len(), 2);
        let nothing = message(Operation::Used, &[]);
        assert_eq!(used_chunks(&nothing).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert!(used_chunks(&[0; USED_SIZE]).is_err());
        assert!(used_chunks(&message(Operation::Cancel, &[])).is_err());
        let whole = [run(1, 0, &[3]), run(2, 0, &[3, 3])].concat();
        for length in 81..whole.len() {
            let bytes = message(Operation::Used, &whole[..length]);
            let runs: Vec<_> = used_chunks(&bytes).unwrap().collect();
            assert!(runs[0].is_ok() && runs[1].is_err() && runs.len() == 2);
        }
        let endless = [&run(1, 0, &[])[..68], &[0xff; 4]].concat();
        let bytes = message(Operation::Used, &endless);
        assert!(used_chunks(&bytes).unwrap().next().unwrap().is_err());
    }
}
