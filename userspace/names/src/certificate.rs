// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Certificates of a swarm's members.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerfs_oci::PublisherKey;

use crate::key::{verifies, SecretKey, SIGNATURE_SIZE};
use crate::reader::Reader;

/// What a certificate begins with.
const MAGIC: [u8; 4] = *b"PFC\x01";
/// What tells its signature from others of the same key.
const DOMAIN: &[u8] = b"peerfs-member-1\0";
/// What its text is called inside.
const PEM_TAG: &str = "PEERFS MEMBER";
/// The name of the swarm's key for the list of nodes whose certificates hold no longer: an image with an entry for each, called by its id.
pub const REVOKED_MEMBERS: &str = "revoked-members";
/// The most letters and digits of a node's id.
const NODE_MAX: usize = 64;
/// The most bytes of a certificate.
pub const CERTIFICATE_MAX: usize =
    MAGIC.len() + PublisherKey::SIZE + 2 * 8 + 1 + NODE_MAX + SIGNATURE_SIZE;

/// What makes a node a member of a swarm: the word of the key that the swarm belongs to, for a time. It is no secret: who shows it has to
/// have the node's own key besides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    authority: PublisherKey,
    node: String,
    issued: u64,
    expires: u64,
    signature: [u8; SIGNATURE_SIZE],
}

/// Bytes or a text that are no certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidCertificate {
    /// It is something else, or was cut off.
    #[error("it is no certificate of a member, as `peerfs member issue` makes it")]
    Form,
    /// The id is none.
    #[error("a node's id is expected, as `peerfs status` prints it")]
    Node,
    /// It would never hold.
    #[error("it would expire before it is made")]
    Expiry,
    /// The signature is not that of the key.
    #[error("its signature is not the one of the key that it names")]
    Forged,
}

impl Certificate {
    /// The certificate of this node, from the time `issued` until `expires`, both in seconds since 1970.
    ///
    /// # Errors
    /// [`InvalidCertificate::Node`], [`InvalidCertificate::Expiry`].
    pub fn issue(
        node: &str,
        issued: u64,
        expires: u64,
        key: &SecretKey,
    ) -> Result<Self, InvalidCertificate> {
        let mut certificate = Certificate {
            authority: key.public(),
            node: node.to_owned(),
            issued,
            expires,
            signature: [0; SIGNATURE_SIZE],
        };
        certificate.check()?;
        certificate.signature = key.sign(&message(&certificate.body()));
        Ok(certificate)
    }

    /// The certificate in these bytes, of which there are no more, if its signature holds.
    ///
    /// # Errors
    /// [`InvalidCertificate`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidCertificate> {
        use InvalidCertificate::Form;
        let mut reader = Reader(bytes);
        if reader.array() != Some(MAGIC) {
            return Err(Form);
        }
        let authority = PublisherKey(reader.array().ok_or(Form)?);
        let issued = reader.number().ok_or(Form)?;
        let expires = reader.number().ok_or(Form)?;
        let [length] = reader.array().ok_or(Form)?;
        let node = reader.bytes(length.into()).ok_or(Form)?;
        let node = std::str::from_utf8(node).map_err(|_| InvalidCertificate::Node)?;
        let signature = reader.array().ok_or(Form)?;
        if !reader.0.is_empty() {
            return Err(Form);
        }
        let certificate = Certificate {
            authority,
            node: node.to_owned(),
            issued,
            expires,
            signature,
        };
        certificate.check()?;
        match verifies(&authority, &message(&certificate.body()), &signature) {
            true => Ok(certificate),
            false => Err(InvalidCertificate::Forged),
        }
    }

    /// The certificate in the text of a file.
    ///
    /// # Errors
    /// [`InvalidCertificate`].
    pub fn from_text(text: &str) -> Result<Self, InvalidCertificate> {
        let file = pem::parse(text).map_err(|_| InvalidCertificate::Form)?;
        match file.tag() == PEM_TAG {
            true => Certificate::parse(file.contents()),
            false => Err(InvalidCertificate::Form),
        }
    }

    /// The text of a file: PEM.
    pub fn to_text(&self) -> String {
        pem::encode(&pem::Pem::new(PEM_TAG, self.to_bytes()))
    }

    /// What [`Certificate::parse`] reads: at most [`CERTIFICATE_MAX`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// The key that the swarm belongs to.
    pub fn authority(&self) -> PublisherKey {
        self.authority
    }

    /// The member's id.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// From when on it says nothing any more.
    pub fn expiry(&self) -> SystemTime {
        let end = UNIX_EPOCH.checked_add(Duration::from_secs(self.expires));
        // Later than any clock shows.
        end.unwrap_or(UNIX_EPOCH + Duration::from_secs(u32::MAX.into()))
    }

    fn check(&self) -> Result<(), InvalidCertificate> {
        match is_node_id(&self.node) {
            false => Err(InvalidCertificate::Node),
            true if self.expires <= self.issued => Err(InvalidCertificate::Expiry),
            true => Ok(()),
        }
    }

    /// All but the signature.
    fn body(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CERTIFICATE_MAX);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.authority.0);
        bytes.extend_from_slice(&self.issued.to_le_bytes());
        bytes.extend_from_slice(&self.expires.to_le_bytes());
        // Bounded by check().
        bytes.push(u8::try_from(self.node.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(self.node.as_bytes());
        bytes
    }
}

/// Whether a text may be a node's id, as far as that can be told without the node.
pub fn is_node_id(text: &str) -> bool {
    (1..=NODE_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.node, self.authority)
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NODE: &str = "12D3KooWPHp4rHeXFVCqgyFLm1xbCRdZ5RWX5pXodwZmQcxQ1HAj";

    fn key() -> SecretKey {
        SecretKey::parse(&SecretKey::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_is_the_same_when_it_is_read_again() {
        let key = key();
        let made = Certificate::issue(NODE, 10, 20, &key).unwrap();
        assert_eq!(Certificate::parse(&made.to_bytes()), Ok(made.clone()));
        assert_eq!(Certificate::from_text(&made.to_text()), Ok(made.clone()));
        assert_eq!((made.node(), made.authority()), (NODE, key.public()));
        assert_eq!(made.expiry(), UNIX_EPOCH + Duration::from_secs(20));
        let long = Certificate::issue(&"a".repeat(NODE_MAX), 0, u64::MAX, &key).unwrap();
        assert_eq!(long.to_bytes().len(), CERTIFICATE_MAX);
        assert!(long.expiry() > SystemTime::now());
    }

    #[test]
    fn what_never_holds_is_not_made() {
        let key = key();
        for node in ["", "../a", "a b", &"a".repeat(NODE_MAX + 1)] {
            let made = Certificate::issue(node, 10, 20, &key);
            assert_eq!(made, Err(InvalidCertificate::Node), "{node}");
        }
        let made = Certificate::issue(NODE, 20, 20, &key);
        assert_eq!(made, Err(InvalidCertificate::Expiry));
        let other = SecretKey::generate().unwrap();
        assert_eq!(
            Certificate::from_text(&other),
            Err(InvalidCertificate::Form)
        );
    }

    proptest! {
        #[test]
        fn no_byte_of_it_can_be_another_one(place in any::<prop::sample::Index>(), change in 1u8..) {
            let mut bytes = Certificate::issue(NODE, 10, 20, &key()).unwrap().to_bytes();
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            prop_assert!(Certificate::parse(&bytes).is_err());
            prop_assert!(Certificate::parse(&bytes[..place]).is_err());
        }

        #[test]
        fn anything_is_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(Certificate::parse(&bytes).is_err());
        }
    }
}
