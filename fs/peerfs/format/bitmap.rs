// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Bits by number.

use core::ops::{Deref, DerefMut};

/// A bit for each number below some count: that of `n` is bit `n % 8` of byte `n / 8`. Beyond the bytes no bit is set,
/// nor can be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bitmap<B>(pub B);

impl Bitmap<()> {
    /// Bytes for so many bits.
    pub const fn size(count: u32) -> usize {
        count.div_ceil(8) as usize
    }
}

impl<B: Deref<Target = [u8]>> Bitmap<B> {
    /// Whether a bit is set.
    pub fn has(&self, number: u32) -> bool {
        let byte = self.0.get(number as usize / 8);
        byte.is_some_and(|byte| byte & mask(number) != 0)
    }
}

impl<B: DerefMut<Target = [u8]>> Bitmap<B> {
    /// Sets a bit, or clears it; returns what it was.
    pub fn set(&mut self, number: u32, value: bool) -> bool {
        let Some(byte) = self.0.get_mut(number as usize / 8) else {
            return false;
        };
        let was = *byte & mask(number) != 0;
        match value {
            true => *byte |= mask(number),
            false => *byte &= !mask(number),
        }
        was
    }

    /// Clears the bits that the last byte has from this number on, which mean nothing.
    pub fn clear_padding(&mut self, count: u32) {
        if let (Some(last), used @ 1..) = (self.0.get_mut(count as usize / 8), count % 8) {
            *last &= (1 << used) - 1;
        }
    }
}

fn mask(number: u32) -> u8 {
    1 << (number % 8)
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    #[test]
    fn bits_are_independent_and_there_are_none_beyond_the_bytes() {
        let mut bits = Bitmap(vec![0; Bitmap::size(20)]);
        assert!(!bits.set(7, true) && bits.set(7, true));
        assert!(!bits.set(8, true) && !bits.set(1000, true));
        assert_eq!(bits.0, [0x80, 1, 0]);
        assert!(bits.has(7) && !bits.has(6) && !bits.has(1000) && !bits.has(u32::MAX));
        assert!(bits.set(7, false) && !bits.has(7) && bits.has(8));
    }

    #[test]
    fn padding_is_cleared() {
        let mut bits = Bitmap([0xff_u8; 2]).0;
        Bitmap(bits.as_mut_slice()).clear_padding(11);
        assert_eq!(bits, [0xff, 7]);
        Bitmap(bits.as_mut_slice()).clear_padding(16);
        assert_eq!(bits, [0xff, 7]);
    }
}
