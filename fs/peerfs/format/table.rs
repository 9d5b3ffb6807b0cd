// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tables of fixed-width little-endian records inside a Cap'n Proto Data field.

use core::marker::PhantomData;

use crate::{Error, Result};

/// A record of fixed width.
pub trait Record: Sized {
    /// Bytes of an encoded record.
    const SIZE: usize;

    /// Reads the fields in their order.
    fn decode(fields: &mut FieldReader<'_>) -> Self;

    /// Writes the fields in their order.
    fn encode(&self, fields: &mut FieldWriter<'_>);

    /// Appends the encoded record, for builders: calls `append` with pieces of it.
    fn write_to(&self, mut append: impl FnMut(&[u8])) {
        self.encode(&mut FieldWriter {
            append: &mut append,
        });
    }
}

/// Reads little-endian fields one after another; zero past the end.
pub struct FieldReader<'a> {
    rest: &'a [u8],
}

// The kernel compiles this crate by itself: what searches call for each record is inlined into them,
// and only the fields that they look at are read.
impl FieldReader<'_> {
    /// The next `N` bytes.
    #[inline]
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.rest = rest;
                *field
            }
            None => [0; N],
        }
    }

    /// The next byte.
    #[inline]
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    /// The next 16-bit integer.
    #[inline]
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// The next 32-bit integer.
    #[inline]
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// The next 64-bit integer.
    #[inline]
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

/// Writes little-endian fields one after another.
pub struct FieldWriter<'a> {
    append: &'a mut dyn FnMut(&[u8]),
}

impl FieldWriter<'_> {
    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        (self.append)(bytes);
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 16-bit integer.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 32-bit integer.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 64-bit integer.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
}

/// A table of records, read in place.
pub struct Table<'a, R> {
    bytes: &'a [u8],
    record: PhantomData<R>,
}

impl<R> Clone for Table<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Table<'_, R> {}

impl<'a, R: Record> Table<'a, R> {
    /// A table over its bytes, which `what` names in the error if they end inside a record.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Result<Self> {
        if bytes.len() % R::SIZE != 0 {
            return Err(Error::Malformed(what));
        }
        Ok(Table {
            bytes,
            record: PhantomData,
        })
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.bytes.len() / R::SIZE
    }

    /// The bytes of the records.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The record at `index`.
    pub fn get(&self, index: usize) -> Option<R> {
        let start = index.checked_mul(R::SIZE)?;
        let bytes = self.bytes.get(start..start.checked_add(R::SIZE)?)?;
        Some(R::decode(&mut FieldReader { rest: bytes }))
    }

    /// The part of the table that begins at `first` and has `count` records.
    pub fn range(&self, first: usize, count: usize) -> Option<Self> {
        let start = first.checked_mul(R::SIZE)?;
        let end = start.checked_add(count.checked_mul(R::SIZE)?)?;
        Some(Table {
            bytes: self.bytes.get(start..end)?,
            record: PhantomData,
        })
    }

    /// All records in order.
    pub fn iter(&self) -> impl Iterator<Item = R> + 'a {
        self.bytes
            .chunks_exact(R::SIZE)
            .map(|bytes| R::decode(&mut FieldReader { rest: bytes }))
    }

    /// The index of the first record for which `before` is false, by binary search; the table
    /// must be sorted accordingly, otherwise the answer is some index in `0..=len`.
    pub fn partition_point(&self, mut before: impl FnMut(&R) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle) {
                Some(record) if before(&record) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

/// Where a Data field lies in its blob, so that a parsed blob can be kept without a borrow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Field {
    start: usize,
    length: usize,
}

impl Field {
    /// Locates `data`, which Cap'n Proto returned as a slice of `blob`.
    pub(crate) fn locate(blob: &[u8], data: &[u8], what: &'static str) -> Result<Self> {
        if data.is_empty() {
            return Ok(Field::default());
        }
        let start = (data.as_ptr() as usize)
            .checked_sub(blob.as_ptr() as usize)
            .ok_or(Error::Malformed(what))?;
        let field = Field {
            start,
            length: data.len(),
        };
        if field.of(blob).len() != data.len() {
            return Err(Error::Malformed(what));
        }
        Ok(field)
    }

    /// The field's bytes; empty if `blob` is not the blob that the field was located in.
    #[inline]
    pub(crate) fn of<'a>(&self, blob: &'a [u8]) -> &'a [u8] {
        let end = self.start.saturating_add(self.length);
        blob.get(self.start..end).unwrap_or_default()
    }
}

/// Where a table lies in its blob.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableField<R> {
    field: Field,
    record: PhantomData<R>,
}

impl<R: Record> TableField<R> {
    /// Locates `data`, which Cap'n Proto returned as a slice of `blob`. An error, which `what` names, if
    /// there is none or it ends inside a record.
    pub(crate) fn locate(
        blob: &[u8],
        data: capnp::Result<&[u8]>,
        what: &'static str,
    ) -> Result<Self> {
        let data = data.map_err(|_| Error::Malformed(what))?;
        Table::<R>::new(data, what)?;
        Ok(TableField {
            field: Field::locate(blob, data, what)?,
            record: PhantomData,
        })
    }

    /// The table; empty if `blob` is not the blob that it was located in.
    #[inline]
    pub(crate) fn of<'a>(&self, blob: &'a [u8]) -> Table<'a, R> {
        Table {
            bytes: self.field.of(blob),
            record: PhantomData,
        }
    }
}
