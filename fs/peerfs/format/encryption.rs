// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How an encrypted image is encrypted. Computing with keys is left to the user of this crate, as that of digests is.

use core::fmt;

use crate::table::{FieldReader, FieldWriter, Record};
use crate::{Error, Result};

/// The bit of a chunk's codec that says that it is encrypted.
pub const ENCRYPTED: u8 = 0x80;

/// Bytes of a realm's key, and of the keys that are derived from it.
pub const KEY_SIZE: usize = 32;

/// What the keys of a realm are derived by: each is HKDF-Expand (RFC 5869) with SHA-256 of the realm's key and this.
pub mod label {
    /// Of the key of the cipher.
    pub const ENCRYPTION: &[u8] = b"peerfs realm 1 encryption";
    /// Of the key of initialization vectors.
    pub const IV: &[u8] = b"peerfs realm 1 initialization vector";
    /// Of the key of content digests.
    pub const CONTENT: &[u8] = b"peerfs realm 1 content digest";
    /// Of the [`KeyId`](super::KeyId): the first bytes.
    pub const KEY_ID: &[u8] = b"peerfs realm 1 key id";
}

/// What a realm's key is called: derived from it, and no secret.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId(pub [u8; KeyId::SIZE]);

impl KeyId {
    /// Bytes of an id.
    pub const SIZE: usize = 16;
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// An initialization vector.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Iv(pub [u8; Iv::SIZE]);

impl Iv {
    /// Bytes of one.
    pub const SIZE: usize = 16;
}

impl fmt::Debug for Iv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl Record for Iv {
    const SIZE: usize = 16;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        Iv(fields.bytes())
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.bytes(&self.0);
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// What is encrypted: goes into the initialization vector, so that no two kinds have one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Kind {
    /// The bytes of a chunk, compressed or raw.
    Chunk = 1,
    /// An inode shard.
    Shard = 2,
    /// The root directory's record in the manifest.
    Root = 3,
}

/// What encrypts and decrypts with the key of a realm: XChaCha20 with the initialization vector and eight zeros as its
/// nonce, from block 0 on.
pub trait Cipher {
    /// Encrypts bytes, or decrypts those that were.
    fn apply(&self, iv: &Iv, bytes: &mut [u8]);
}

/// Decrypts what has its initialization vector before it, in place: that and the plain bytes.
///
/// # Errors
/// [`Error::Malformed`], which names `what`, if there is no such vector.
pub fn decrypt<'a>(
    bytes: &'a mut [u8],
    cipher: &impl Cipher,
    what: &'static str,
) -> Result<&'a mut [u8]> {
    let (iv, rest) = bytes
        .split_first_chunk_mut::<{ Iv::SIZE }>()
        .ok_or(Error::Malformed(what))?;
    cipher.apply(&Iv(*iv), rest);
    Ok(rest)
}

/// Answers that all who compute with keys must come to.
pub mod known_answers {
    use super::KEY_SIZE;

    /// A key, and what HChaCha20 makes of it with [`NONCE`]: draft-irtf-cfrg-xchacha-03, 2.2.1.
    pub const KEY: [u8; KEY_SIZE] = [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e,
        0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d,
        0x1e, 0x1f,
    ];
    /// What stands for an initialization vector there.
    pub const NONCE: [u8; 16] = [
        0x00, 0x00, 0x00, 0x09, 0x00, 0x00, 0x00, 0x4a, 0x00, 0x00, 0x00, 0x00, 0x31, 0x41, 0x59,
        0x27,
    ];
    /// The key that it makes.
    pub const SUBKEY: [u8; KEY_SIZE] = [
        0x82, 0x41, 0x3b, 0x42, 0x27, 0xb2, 0x7b, 0xfe, 0xd3, 0x0e, 0x42, 0x50, 0x8a, 0x87, 0x7d,
        0x73, 0xa0, 0xf9, 0xe4, 0xd5, 0x8a, 0x74, 0xa8, 0x53, 0xc1, 0x2e, 0xc4, 0x13, 0x26, 0xd3,
        0xec, 0xdc,
    ];
    /// The id of a realm with [`KEY`].
    pub const KEY_ID: [u8; 16] = [
        0x19, 0x47, 0x20, 0x7f, 0xd4, 0x11, 0xdd, 0x80, 0x45, 0x6a, 0x93, 0x08, 0x6c, 0xfa, 0x4a,
        0x72,
    ];
    /// A zstd chunk of that realm as it goes into the cipher: what it decompresses to is of no matter here.
    pub const PLAIN: &[u8; 100] =
        b"peerfs: 100 bytes of a chunk, so that there is a whole block of the cipher and a part of another one";
    /// Its initialization vector.
    pub const IV: [u8; 16] = [
        0xea, 0x05, 0x2c, 0x23, 0x53, 0xd5, 0xa4, 0x1e, 0x5f, 0x55, 0x59, 0x68, 0x4d, 0x3c, 0xf5,
        0x76,
    ];
    /// It as it is stored.
    pub const STORED: [u8; 100] = [
        0x93, 0x10, 0x16, 0x95, 0xb9, 0xa9, 0xfe, 0x94, 0xa1, 0xb0, 0x06, 0xd5, 0x7d, 0xd0, 0x04,
        0x86, 0x85, 0x63, 0x6e, 0x5f, 0xfc, 0x28, 0x40, 0x5a, 0xe8, 0x12, 0x46, 0xef, 0x51, 0x72,
        0x4d, 0xc0, 0x4b, 0x72, 0xe4, 0x28, 0x5b, 0x25, 0xe3, 0x95, 0xe5, 0xf7, 0xbf, 0xc1, 0xfc,
        0x74, 0xd4, 0x30, 0x34, 0xe7, 0x67, 0xbb, 0x68, 0xa1, 0xac, 0x7f, 0x27, 0xb5, 0x8a, 0xba,
        0x3d, 0xdc, 0x6d, 0xfb, 0x6a, 0xcc, 0xfe, 0x36, 0x89, 0x57, 0x8e, 0x5e, 0xa0, 0x7d, 0x18,
        0x86, 0x25, 0x8d, 0x6f, 0x6b, 0x9e, 0x07, 0x58, 0x35, 0x47, 0x2a, 0x48, 0xbf, 0x2c, 0x5a,
        0x9c, 0xe3, 0xb6, 0x96, 0xc9, 0x72, 0x00, 0xbc, 0x1e, 0x69,
    ];
    /// What stands for its content in the contents of a pack, were it raw.
    pub const CONTENT: [u8; KEY_SIZE] = [
        0x57, 0x5d, 0x06, 0xe7, 0xc9, 0x8a, 0xd1, 0x7f, 0x4d, 0xa6, 0xdc, 0xa3, 0x45, 0x1c, 0x33,
        0xe7, 0xbb, 0xf3, 0xeb, 0x57, 0x2d, 0xda, 0xa0, 0x72, 0x8d, 0x0c, 0x48, 0x3f, 0xa6, 0x9e,
        0x6d, 0xe3,
    ];
}
