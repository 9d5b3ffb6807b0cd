// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A table of places: in which data file of a store each chunk of a pack is. See `Documentation/store.md`.
//!
//! A header, an entry of [`PLACE_SIZE`] bytes for each chunk, and a slot for each data file that the entries name. All
//! of it is a hint: whoever reads a chunk verifies it, whatever the table says.

use crate::table::{FieldReader, FieldWriter, Record};
use crate::{Digest, Error, Result, Table};

/// Bytes before the entries.
pub const PLACES_HEADER_SIZE: usize = PlacesHeader::SIZE;
/// Bytes of an entry.
pub const PLACE_SIZE: usize = 8;
/// Bytes of a slot.
pub const SLOT_SIZE: usize = DataFile::SIZE;
/// Data files that a table names at the most.
pub const SLOTS_MAX: u32 = 64;
/// Bytes of the longest data file: offsets in one have 40 bits.
pub const DATA_FILE_MAX: u64 = 1 << OFFSET_BITS;
/// Bytes that a loose data file may have.
pub const LOOSE_MAX: u64 = 256 * 1024 * 1024;

const MAGIC: [u8; 8] = *b"peerfspl";
const VERSION: u32 = 1;
const OFFSET_BITS: u32 = 40;

/// The header of a table of places.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlacesHeader {
    /// Chunks of the pack.
    pub chunk_count: u32,
    /// Another number after each change of a slot.
    pub generation: u64,
    /// The pack.
    pub pack: Digest,
    /// The index that says which chunk is which.
    pub index: Digest,
}

impl PlacesHeader {
    /// Reads a header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        const WHAT: &str = "table of places";
        let bytes = bytes.get(..Self::SIZE).ok_or(Error::Malformed(WHAT))?;
        let table: Table<'_, RawHeader> = Table::new(bytes, WHAT)?;
        match table.get(0) {
            Some(raw) if raw.magic == MAGIC && raw.version == VERSION => Ok(raw.header),
            _ => Err(Error::Malformed(WHAT)),
        }
    }

    /// Bytes of the header.
    pub const SIZE: usize = RawHeader::SIZE;

    /// Writes the header: calls `append` with pieces of it.
    pub fn write_to(&self, append: impl FnMut(&[u8])) {
        let raw = RawHeader {
            magic: MAGIC,
            version: VERSION,
            header: *self,
        };
        raw.write_to(append);
    }

    /// Whether it is that of a pack with this index and so many chunks.
    pub fn is_of(&self, pack: &Digest, index: &Digest, chunk_count: u32) -> bool {
        self.pack == *pack && self.index == *index && self.chunk_count == chunk_count
    }

    /// Where a chunk's entry is in the table. There is none from `chunk_count` on.
    pub fn place_offset(chunk: u32) -> u64 {
        PLACES_HEADER_SIZE as u64 + u64::from(chunk) * PLACE_SIZE as u64
    }

    /// Where a slot is in the table.
    pub fn slot_offset(&self, slot: u32) -> u64 {
        Self::place_offset(self.chunk_count) + u64::from(slot) * SLOT_SIZE as u64
    }
}

struct RawHeader {
    magic: [u8; 8],
    version: u32,
    header: PlacesHeader,
}

impl Record for RawHeader {
    const SIZE: usize = 128;

    fn decode(fields: &mut FieldReader<'_>) -> Self {
        let raw = RawHeader {
            magic: fields.bytes(),
            version: fields.u32(),
            header: PlacesHeader {
                chunk_count: fields.u32(),
                generation: fields.u64(),
                pack: Digest(fields.bytes()),
                index: Digest(fields.bytes()),
            },
        };
        let _reserved: [u8; 40] = fields.bytes();
        raw
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.bytes(&self.magic);
        fields.u32(self.version);
        fields.u32(self.header.chunk_count);
        fields.u64(self.header.generation);
        fields.bytes(&self.header.pack.0);
        fields.bytes(&self.header.index.0);
        fields.bytes(&[0; 40]);
    }
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// The number of the slot that names the data file, below [`SLOTS_MAX`].
    pub slot: u32,
    /// Where the chunk's stored bytes begin in it, below [`DATA_FILE_MAX`].
    pub offset: u64,
}

impl Place {
    /// The place in an entry; `None` if that says that the chunk is not here, or nothing that makes sense.
    pub fn of_entry(entry: u64) -> Option<Self> {
        let slot = u32::try_from(entry >> OFFSET_BITS).ok()?.checked_sub(1)?;
        (slot < SLOTS_MAX).then_some(Place {
            slot,
            offset: entry & (DATA_FILE_MAX - 1),
        })
    }

    /// The entry of a chunk that is here; the one of a chunk that is not is 0.
    pub fn to_entry(self) -> u64 {
        (u64::from(self.slot) + 1) << OFFSET_BITS | self.offset & (DATA_FILE_MAX - 1)
    }
}

/// A file of a store that chunks lie in. The order is of no meaning.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum DataFile {
    /// A pack, as an index describes it, that is being filled or was: each chunk that is in it is where it is in the pack.
    Pack(Digest, Digest),
    /// A file of chunks in the order in which they came.
    Loose(u64),
}

impl DataFile {
    /// Reads the slot at the front of `bytes`; `None` if it is empty or of a kind that this reader does not know.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let table: Table<'_, RawSlot> = Table::new(bytes.get(..SLOT_SIZE)?, "slot").ok()?;
        let raw = table.get(0)?;
        match raw.kind {
            PACK => Some(DataFile::Pack(raw.pack, raw.index)),
            LOOSE => Some(DataFile::Loose(raw.number)),
            _ => None,
        }
    }

    /// Bytes of a slot.
    pub const SIZE: usize = RawSlot::SIZE;

    /// Writes the slot: calls `append` with pieces of it.
    pub fn write_to(&self, append: impl FnMut(&[u8])) {
        let none = Digest::default();
        let (kind, number, pack, index) = match *self {
            DataFile::Pack(pack, index) => (PACK, 0, pack, index),
            DataFile::Loose(number) => (LOOSE, number, none, none),
        };
        let raw = RawSlot {
            kind,
            number,
            pack,
            index,
        };
        raw.write_to(append);
    }
}

const PACK: u32 = 1;
const LOOSE: u32 = 2;

struct RawSlot {
    kind: u32,
    number: u64,
    pack: Digest,
    index: Digest,
}

impl Record for RawSlot {
    const SIZE: usize = 80;

    fn decode(fields: &mut FieldReader<'_>) -> Self {
        let kind = fields.u32();
        let _reserved = fields.u32();
        RawSlot {
            kind,
            number: fields.u64(),
            pack: Digest(fields.bytes()),
            index: Digest(fields.bytes()),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u32(self.kind);
        fields.u32(0);
        fields.u64(self.number);
        fields.bytes(&self.pack.0);
        fields.bytes(&self.index.0);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn an_entry_is_a_place_or_says_that_there_is_none() {
        let last = Place {
            slot: SLOTS_MAX - 1,
            offset: DATA_FILE_MAX - 1,
        };
        for place in [Place { slot: 0, offset: 0 }, last] {
            assert_eq!(Place::of_entry(place.to_entry()), Some(place));
        }
        assert_eq!(Place::of_entry(0), None);
        assert_eq!(Place::of_entry(7), None);
        assert_eq!(Place::of_entry(last.to_entry() + 1), None);
        assert_eq!(Place::of_entry(u64::MAX), None);
    }

    #[test]
    fn slots_and_headers_are_read_as_they_were_written() {
        let (pack, index) = (Digest([1; 32]), Digest([2; 32]));
        let files = [DataFile::Pack(pack, index), DataFile::Loose(u64::MAX)];
        for file in files {
            let mut bytes = Vec::new();
            file.write_to(|piece| bytes.extend(piece));
            assert_eq!(bytes.len(), SLOT_SIZE);
            assert_eq!(DataFile::parse(&bytes), Some(file));
            assert_eq!(DataFile::parse(&bytes[1..]), None);
        }
        assert_eq!(DataFile::parse(&[0; SLOT_SIZE]), None);

        let header = PlacesHeader {
            chunk_count: 3,
            generation: 4,
            pack,
            index,
        };
        let mut bytes = Vec::new();
        header.write_to(|piece| bytes.extend(piece));
        assert_eq!(bytes.len(), PLACES_HEADER_SIZE);
        assert_eq!(PlacesHeader::parse(&bytes), Ok(header));
        assert!(header.is_of(&pack, &index, 3) && !header.is_of(&index, &pack, 3));
        assert_eq!((header.slot_offset(0), header.slot_offset(1)), (152, 232));
        bytes[8] += 1;
        assert!(PlacesHeader::parse(&bytes).is_err());
        assert!(PlacesHeader::parse(&[0; 100]).is_err());
    }
}
