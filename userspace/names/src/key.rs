// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keys that sign.

use std::fmt;

use peerfs_oci::PublisherKey;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair, UnparsedPublicKey, ED25519};

/// Bytes of a signature.
pub(crate) const SIGNATURE_SIZE: usize = 64;
/// What the file of a secret key is called inside.
const PEM_TAG: &str = "PRIVATE KEY";

/// A publisher's secret key: Ed25519.
pub struct SecretKey {
    pair: Ed25519KeyPair,
    public: PublisherKey,
}

/// A text that is no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidKey {
    /// It is no PEM of a secret key.
    #[error("it is no secret key in PEM form, as `peerfs key new` makes it")]
    Form,
    /// It is a key of another kind.
    #[error("it is no Ed25519 key, as `peerfs key new` makes it")]
    Kind,
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
}

impl SecretKey {
    /// A new key, as the text of a file: PKCS #8 in PEM, which OpenSSL reads as well.
    ///
    /// # Errors
    /// [`InvalidKey::Random`].
    pub fn generate() -> Result<String, InvalidKey> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let document = document.map_err(|_| InvalidKey::Random)?;
        Ok(pem::encode(&pem::Pem::new(PEM_TAG, document.as_ref())))
    }

    /// The key in the text of a file.
    ///
    /// # Errors
    /// [`InvalidKey::Form`], [`InvalidKey::Kind`].
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let file = pem::parse(text).map_err(|_| InvalidKey::Form)?;
        if file.tag() != PEM_TAG {
            return Err(InvalidKey::Form);
        }
        // OpenSSL writes none of the public half beside it.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(file.contents());
        let pair = pair.map_err(|_| InvalidKey::Kind)?;
        let public = pair.public_key().as_ref().try_into();
        let public = PublisherKey(public.map_err(|_| InvalidKey::Kind)?);
        Ok(SecretKey { pair, public })
    }

    /// Its public half.
    pub fn public(&self) -> PublisherKey {
        self.public
    }

    /// Its signature of a message, which has a domain at its beginning.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_SIZE] {
        let mut bytes = [0; SIGNATURE_SIZE];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        bytes
    }
}

impl fmt::Debug for SecretKey {
    // The secret half must not get into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretKey").field(&self.public).finish()
    }
}

/// Whether this is the signature of a message by a key.
pub(crate) fn verifies(key: &PublisherKey, message: &[u8], signature: &[u8]) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, key.0);
    key.verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl genpkey -algorithm ed25519`, and what `openssl pkey -pubout` says of it.
    const OF_OPENSSL: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn a_key_is_the_same_when_it_is_read_again_and_says_no_secret() {
        let text = SecretKey::generate().unwrap();
        let [one, two] = [(); 2].map(|()| SecretKey::parse(&text).unwrap());
        assert_eq!(one.public(), two.public());
        assert_ne!(
            one.public(),
            SecretKey::parse(&SecretKey::generate().unwrap())
                .unwrap()
                .public()
        );
        assert_eq!(format!("{one:?}"), format!("SecretKey({})", one.public()));
        // RFC 8032, 7.1, test 1.
        let key = SecretKey::parse(OF_OPENSSL).unwrap();
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(Ok(peerfs_format::Digest(key.public().0)), public.parse());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        let other = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (text, expected) in [
            ("", InvalidKey::Form),
            (public, InvalidKey::Form),
            (other, InvalidKey::Kind),
        ] {
            assert_eq!(SecretKey::parse(text).unwrap_err(), expected, "{text}");
        }
    }
}
