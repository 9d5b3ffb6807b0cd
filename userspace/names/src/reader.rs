// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reads fields of fixed width, one behind the other.

/// The bytes that are left.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// So many bytes, if there are as many.
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A field of this width.
    pub(crate) fn array<const SIZE: usize>(&mut self) -> Option<[u8; SIZE]> {
        self.bytes(SIZE)?.try_into().ok()
    }

    /// A little-endian number of 8 bytes.
    pub(crate) fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
