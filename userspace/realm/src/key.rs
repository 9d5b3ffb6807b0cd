// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The key, what is derived from it, and its text.

use std::fmt;

use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20::{XChaCha20, XNonce};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit, Mac};
use peerfs_format::encryption::{label, Cipher, Kind, KEY_SIZE};
use peerfs_format::{Digest, Iv, KeyId};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The first line of its text.
const TITLE: &str = "peerfs realm key 1";

type Secret = Zeroizing<[u8; KEY_SIZE]>;

/// What all who read and make the images of a realm have, and nobody else: 32 random bytes.
#[derive(Clone)]
pub struct RealmKey {
    key: Secret,
    encryption: Secret,
    iv: Secret,
    content: Secret,
    id: KeyId,
}

/// A text that is no key, or no randomness for one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidRealmKey {
    /// It begins otherwise.
    #[error("its first line is not `{TITLE}`, as `peerfs key realm` writes it")]
    Title,
    /// The key is no such number.
    #[error("its second line is not 64 hexadecimal digits")]
    Digits,
    /// There is more.
    #[error("there is something behind its second line")]
    Trailing,
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
}

impl RealmKey {
    /// A new key.
    ///
    /// # Errors
    /// [`InvalidRealmKey::Random`].
    pub fn generate() -> Result<Self, InvalidRealmKey> {
        let mut key = Secret::default();
        getrandom::fill(&mut *key).map_err(|_| InvalidRealmKey::Random)?;
        Ok(Self::new(key))
    }

    /// The key in the text of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidRealmKey> {
        let mut lines = text.lines().map(str::trim_end);
        if lines.next() != Some(TITLE) {
            return Err(InvalidRealmKey::Title);
        }
        let digits = lines.next().unwrap_or_default().as_bytes();
        let mut key = Secret::default();
        if digits.len() != 2 * KEY_SIZE
            || HEXLOWER_PERMISSIVE.decode_mut(digits, &mut *key) != Ok(KEY_SIZE)
        {
            return Err(InvalidRealmKey::Digits);
        }
        match lines.any(|line| !line.is_empty()) {
            true => Err(InvalidRealmKey::Trailing),
            false => Ok(Self::new(key)),
        }
    }

    fn new(key: Secret) -> Self {
        let [encryption, iv, content, id] =
            [label::ENCRYPTION, label::IV, label::CONTENT, label::KEY_ID]
                .map(|label| hmac(&key, &[label, &[1]]));
        let id = KeyId(std::array::from_fn(|place| id[place]));
        RealmKey {
            key,
            encryption,
            iv,
            content,
            id,
        }
    }

    /// The text of a file with it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(HEXLOWER.encode(&*self.key));
        Zeroizing::new(format!("{TITLE}\n{}\n", *digits))
    }

    /// The key itself, for the kernel.
    pub fn bytes(&self) -> &[u8; KEY_SIZE] {
        &self.key
    }

    /// What images call it.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The initialization vector of bytes that are to be encrypted, which depends on nothing but these: what is equal is
    /// equal when it is encrypted, too, and only then are two vectors equal. The codec is that of a chunk, and else 0.
    pub fn iv(&self, kind: Kind, codec: u8, bytes: &[u8]) -> Iv {
        let digest = hmac(&self.iv, &[&[kind as u8, codec], bytes]);
        Iv(std::array::from_fn(|place| digest[place]))
    }

    /// Bytes of a shard or a root record, encrypted, with their initialization vector before them.
    pub fn encrypt(&self, kind: Kind, bytes: &[u8]) -> Vec<u8> {
        let iv = self.iv(kind, 0, bytes);
        let mut encrypted = [&iv.0, bytes].concat();
        if let Some((_, rest)) = encrypted.split_first_chunk_mut::<{ Iv::SIZE }>() {
            self.apply(&iv, rest);
        }
        encrypted
    }

    /// What stands for a digest of content that others than the realm must not learn.
    pub fn hide(&self, digest: &Digest) -> Digest {
        Digest(*hmac(&self.content, &[&digest.0]))
    }
}

impl Cipher for RealmKey {
    fn apply(&self, iv: &Iv, bytes: &mut [u8]) {
        let mut nonce = XNonce::default();
        for (to, from) in nonce.iter_mut().zip(iv.0) {
            *to = from;
        }
        XChaCha20::new((&*self.encryption).into(), &nonce).apply_keystream(bytes);
    }
}

/// The HMAC-SHA-256 of some parts, one behind the other.
fn hmac(key: &[u8; KEY_SIZE], parts: &[&[u8]]) -> Secret {
    // The key is a block of it at most, for which there is no error.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

impl fmt::Debug for RealmKey {
    // The key must not get into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RealmKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use peerfs_format::encryption::known_answers::*;
    use proptest::prelude::*;

    use super::*;

    fn known() -> RealmKey {
        RealmKey::new(Zeroizing::new(KEY))
    }

    #[test]
    fn what_is_derived_and_encrypted_is_what_it_must_be() {
        let subkey = chacha20::hchacha::<chacha20::cipher::consts::U10>(&KEY.into(), &NONCE.into());
        assert_eq!(subkey[..], SUBKEY);
        let key = known();
        assert_eq!(key.id().0, KEY_ID);
        assert_eq!(key.iv(Kind::Chunk, 1, PLAIN).0, IV);
        let mut bytes = *PLAIN;
        key.apply(&Iv(IV), &mut bytes);
        assert_eq!(bytes, STORED);
        let digest = <Sha256 as sha2::Digest>::digest(PLAIN);
        assert_eq!(key.hide(&Digest(digest.into())).0, CONTENT);
    }

    proptest! {
        #[test]
        fn what_is_encrypted_decrypts(bytes: Vec<u8>) {
            let (key, other) = (known(), RealmKey::generate().unwrap());
            let encrypted = key.encrypt(Kind::Shard, &bytes);
            prop_assert_eq!(&encrypted, &key.encrypt(Kind::Shard, &bytes));
            let decrypt = |key: &RealmKey| {
                let mut bytes = encrypted.clone();
                peerfs_format::encryption::decrypt(&mut bytes, key, "shard").map(|bytes| bytes.to_vec())
            };
            prop_assert_eq!(decrypt(&key), Ok(bytes.clone()));
            if bytes.len() >= 16 {
                prop_assert_ne!(decrypt(&other), Ok(bytes.clone()));
            }
        }

        #[test]
        fn no_two_inputs_have_one_vector(bytes: Vec<u8>, place: prop::sample::Index, flip in 1_u8..) {
            let key = known();
            let iv = key.iv(Kind::Chunk, 1, &bytes);
            prop_assert_ne!(iv, key.iv(Kind::Chunk, 0, &bytes));
            prop_assert_ne!(iv, key.iv(Kind::Shard, 1, &bytes));
            prop_assert_ne!(iv, RealmKey::generate().unwrap().iv(Kind::Chunk, 1, &bytes));
            if !bytes.is_empty() {
                let mut other = bytes.clone();
                other[place.index(bytes.len())] ^= flip;
                prop_assert_ne!(iv, key.iv(Kind::Chunk, 1, &other));
            }
        }
    }

    #[test]
    fn a_key_comes_back_from_its_text_and_is_shown_to_nobody() {
        let [one, two] = [(); 2].map(|()| RealmKey::generate().unwrap());
        assert_ne!(one.id(), two.id());
        let again = RealmKey::parse(&one.to_text()).unwrap();
        assert!(one.key == again.key && one.id() == again.id());
        assert_eq!(format!("{one:?}"), format!("RealmKey({})", one.id()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        use InvalidRealmKey::*;
        let digits = "0f".repeat(KEY_SIZE);
        for (text, expected) in [
            (String::new(), Title),
            (digits.clone(), Title),
            (TITLE.to_owned(), Digits),
            (format!("{TITLE}\n{}", &digits[1..]), Digits),
            (format!("{TITLE}\n{digits}00"), Digits),
            (format!("{TITLE}\n{}", "ä".repeat(KEY_SIZE)), Digits),
            (format!("{TITLE}\n{digits}\n{digits}"), Trailing),
        ] {
            assert_eq!(RealmKey::parse(&text).unwrap_err(), expected, "{text}");
        }
        assert!(RealmKey::parse(&format!("{TITLE}\r\n{}\r\n\r\n", digits.to_uppercase())).is_ok());
    }
}
