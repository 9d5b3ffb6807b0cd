// SPDX-License-Identifier: GPL-2.0

//! The kernel's SHA-256, HMAC and XChaCha20.
//!
//! Locking: none; they only compute, and sleep nowhere.

use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;

use crate::rust::bindings;

/// The digest of `data`.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    // SAFETY: the data has this length, and a digest has 32 bytes.
    unsafe { bindings::sha256(data.as_ptr(), data.len(), digest.as_mut_ptr()) };
    digest
}

/// A secret, zeroed when it is dropped. Stays in one place in memory.
pub(crate) struct Secret(KBox<[u8; Secret::SIZE]>);

impl Secret {
    /// Bytes of one.
    pub(crate) const SIZE: usize = 32;

    /// A place for one: zeros.
    pub(crate) fn new() -> Result<Self> {
        Ok(Secret(KBox::new([0; Secret::SIZE], GFP_KERNEL)?))
    }

    /// The HMAC-SHA-256 of `data` with this key.
    pub(crate) fn hmac(&self, data: &[u8]) -> [u8; 32] {
        let mut code = [0; 32];
        self.hmac_to(data, &mut code);
        code
    }

    /// The same as a secret.
    pub(crate) fn derive(&self, data: &[u8]) -> Result<Secret> {
        let mut derived = Secret::new()?;
        self.hmac_to(data, derived.bytes_mut());
        Ok(derived)
    }

    fn hmac_to(&self, data: &[u8], code: &mut [u8; 32]) {
        // SAFETY: key and data have these lengths, and a code has 32 bytes.
        unsafe {
            bindings::hmac_sha256_usingrawkey(
                self.0.as_ptr(),
                Secret::SIZE,
                data.as_ptr(),
                data.len(),
                code.as_mut_ptr(),
            )
        };
    }

    /// The bytes, to write.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; Secret::SIZE] {
        &mut self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zero(&mut *self.0);
    }
}

/// Encrypts bytes, or decrypts those that were: by XChaCha20 with this key, and a nonce that begins so and ends with eight
/// zeros.
pub(crate) fn xchacha20(key: &Secret, nonce: &[u8; 16], bytes: &mut [u8]) {
    let words = Iterator::chain(key.0.chunks_exact(4), nonce.chunks_exact(4));
    let mut state = state(words.map(|word| word.try_into().map_or(0, u32::from_le_bytes)));
    let mut subkey = [0; 8];
    // SAFETY: the function reads the state, and writes eight words.
    unsafe { bindings::hchacha_block(&state, subkey.as_mut_ptr(), ROUNDS) };
    // Behind the key are the block's number and the rest of the nonce: zeros.
    zero(&mut state);
    state = self::state(subkey.iter().copied());
    // More than a shard has at once; a number of the last block that does not fit does not come about.
    for part in bytes.chunks_mut(1 << 30) {
        let to = part.as_mut_ptr();
        // SAFETY: the bytes are read and written in place, and have this length.
        unsafe { bindings::chacha_crypt(&mut state, to, to, part.len() as c_uint, ROUNDS) };
    }
    zero(&mut state);
    zero(&mut subkey);
}

const ROUNDS: c_int = 20;

/// A state of the constants and these words; behind them zeros.
fn state(words: impl Iterator<Item = u32>) -> bindings::chacha_state {
    let constants = [*b"expa", *b"nd 3", *b"2-by", *b"te k"];
    let words = Iterator::chain(constants.into_iter().map(u32::from_le_bytes), words);
    let mut state = bindings::chacha_state { x: [0; 16] };
    for (place, word) in state.x.iter_mut().zip(words) {
        *place = word;
    }
    state
}

/// Zeroes a value, whether or not anybody reads it afterwards.
fn zero<T: Zeroable>(value: &mut T) {
    // SAFETY: it is ours, has this size, and zeros are a value of its type.
    unsafe {
        bindings::peerfs_memzero_explicit(core::ptr::from_mut(value).cast(), size_of::<T>());
    }
}
