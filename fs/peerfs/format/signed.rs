// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images that a kernel asks for: what is signed, and the file that they are in (`Documentation/names.md`,
//! "Signatures that the kernel asks for").

use crate::Digest;

/// The most bytes of a file of signatures.
pub const SIGNED_MAX: u64 = 64 * 1024;
/// The most signatures of a file that are looked at.
pub const SIGNED_COUNT_MAX: usize = 16;

/// What is signed before the digits of the digest: nothing else is signed that begins so.
const PREFIX: &[u8; 22] = b"peerfs-image-1 sha256:";

/// The text that is signed of an image: 86 bytes of ASCII, without a newline.
pub fn signed_text(manifest: &Digest) -> [u8; 86] {
    let mut text = [0; 86];
    let (prefix, digits) = text.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    digits.copy_from_slice(&manifest.to_hex());
    text
}

/// The signatures in a file: DER values, one behind the other, without anything between them.
#[derive(Clone, Copy, Debug)]
pub struct SignedFile<'a>(&'a [u8]);

impl<'a> SignedFile<'a> {
    /// Of the file's bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        SignedFile(bytes)
    }
}

impl<'a> Iterator for SignedFile<'a> {
    type Item = &'a [u8];

    /// The next signature: a DER SEQUENCE, into which nobody has looked. Ends before what is none.
    fn next(&mut self) -> Option<&'a [u8]> {
        let (signature, rest) = self.0.split_at_checked(sequence_size(self.0)?)?;
        self.0 = rest;
        Some(signature)
    }
}

/// Bytes of the DER SEQUENCE (ITU-T X.690, 8.1) that begins here, as its head says.
fn sequence_size(bytes: &[u8]) -> Option<usize> {
    const SEQUENCE: u8 = 0x30;
    match *bytes {
        [SEQUENCE, length @ 0..=0x7f, ..] => Some(2 + usize::from(length)),
        [SEQUENCE, 0x81, length, ..] => Some(3 + usize::from(length)),
        [SEQUENCE, 0x82, high, low, ..] => Some(4 + usize::from(u16::from_be_bytes([high, low]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn what_is_signed_names_the_digest() {
        let text = signed_text(&Digest([0xab; 32]));
        let expected = [&PREFIX[..], "ab".repeat(32).as_bytes()].concat();
        assert_eq!(text[..], expected);
    }

    #[test]
    fn signatures_are_found_one_behind_the_other() {
        let short = [0x30, 1, 7];
        let middle = [&[0x30, 0x81, 200][..], &[1; 200]].concat();
        let long = [&[0x30, 0x82, 1, 44][..], &[2; 300]].concat();
        let all = [&short[..], &middle, &long].concat();
        let found: Vec<&[u8]> = SignedFile::new(&all).collect();
        assert_eq!(found, [&short[..], &middle, &long]);
        // What is cut off, or no SEQUENCE, ends it.
        let cut = all.split_last().unwrap().1;
        assert_eq!(SignedFile::new(cut).count(), 2);
        for garbage in [
            &b""[..],
            b"\x30",
            b"\x30\x80\0\0",
            b"\x30\x84\xff\xff\xff\xff",
            b"\n",
        ] {
            assert_eq!(SignedFile::new(garbage).count(), 0, "{garbage:?}");
            let behind = [&short[..], garbage].concat();
            assert_eq!(SignedFile::new(&behind).count(), 1, "{garbage:?}");
        }
    }
}
