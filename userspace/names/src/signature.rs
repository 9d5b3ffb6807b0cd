// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images in registries, as cosign makes them with a key: a small text that names the image's digest, and a
//! signature of that text, in an OCI manifest beside the image.

use std::fmt;

use data_encoding::BASE64;
use peerfs_format::Digest;
use peerfs_oci::{PublisherKey, Reference, RegistryReference};
use ring::rand::SystemRandom;
use ring::signature::{
    EcdsaKeyPair, KeyPair, UnparsedPublicKey, ECDSA_P256_SHA256_ASN1,
    ECDSA_P256_SHA256_ASN1_SIGNING,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::key::verifies;
use crate::{InvalidKey, SecretKey};

/// The most bytes of what is signed.
pub const PAYLOAD_MAX: u64 = 64 * 1024;
/// The most signatures of an image that are looked at.
pub const SIGNATURES_MAX: usize = 64;
/// The most bytes of the manifest that leads to them.
const MANIFEST_MAX: usize = 1024 * 1024;

/// The type that cosign gives what it signs.
const KIND: &str = "cosign container image signature";
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// The media type of the manifest that leads to signatures.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// What PEM calls a public key.
const PUBLIC_TAG: &str = "PUBLIC KEY";
/// SubjectPublicKeyInfo (RFC 5480) of a P-256 key that is not compressed, but for its 65 bytes.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same of an Ed25519 key (RFC 8410), but for its 32 bytes.
const ED25519_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A public key that verifies signatures of images.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VerifyingKey {
    /// ECDSA with P-256 and SHA-256: the point, not compressed.
    P256([u8; 65]),
    /// Ed25519, as publishers of names have it.
    Ed25519(PublisherKey),
}

/// A secret key that signs images.
#[derive(Debug)]
pub enum SigningKey {
    /// ECDSA with P-256 and SHA-256.
    P256(EcdsaKeyPair),
    /// Ed25519, as publishers of names have it.
    Ed25519(SecretKey),
}

/// Why a text is no signature's payload, or no manifest that leads to signatures.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSignature {
    /// It is too long.
    #[error("it has more than {0} bytes")]
    TooLong(usize),
    /// It is no JSON, or not of this form.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is of another type.
    #[error("it is no signature of an image")]
    Kind,
    /// It names no digest.
    #[error("it names no SHA-256 digest of an image")]
    Digest,
    /// The key can't sign.
    #[error("the key can't sign")]
    Key,
}

impl VerifyingKey {
    /// The key in a text: PEM, as `cosign generate-key-pair` and OpenSSL write it, or the KEY of a publisher.
    ///
    /// # Errors
    /// [`InvalidKey::Form`], [`InvalidKey::Kind`].
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        if let Ok(Reference::Published { key, .. }) = format!("{}/x", text.trim()).parse() {
            return Ok(VerifyingKey::Ed25519(key));
        }
        let file = pem::parse(text).map_err(|_| InvalidKey::Form)?;
        if file.tag() != PUBLIC_TAG {
            return Err(InvalidKey::Form);
        }
        let bytes = file.contents();
        let p256 = bytes.strip_prefix(&P256_PREFIX).map(<[u8; 65]>::try_from);
        let ed25519 = bytes
            .strip_prefix(&ED25519_PREFIX)
            .map(<[u8; 32]>::try_from);
        match (p256, ed25519) {
            (Some(Ok(point)), _) => Ok(VerifyingKey::P256(point)),
            (_, Some(Ok(key))) => Ok(VerifyingKey::Ed25519(PublisherKey(key))),
            _ => Err(InvalidKey::Kind),
        }
    }

    /// Its text in PEM, as other tools want it.
    pub fn to_pem(&self) -> String {
        let bytes = match self {
            VerifyingKey::P256(point) => [&P256_PREFIX[..], point].concat(),
            VerifyingKey::Ed25519(key) => [&ED25519_PREFIX[..], &key.0].concat(),
        };
        pem::encode(&pem::Pem::new(PUBLIC_TAG, bytes))
    }

    /// Whether this is its signature of a text.
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        match self {
            VerifyingKey::P256(point) => {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
                key.verify(text, signature).is_ok()
            }
            VerifyingKey::Ed25519(key) => verifies(key, text, signature),
        }
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifyingKey::P256(point) => {
                write!(f, "P-256 {}", Digest(Sha256::digest(point).into()))
            }
            VerifyingKey::Ed25519(key) => key.fmt(f),
        }
    }
}

impl SigningKey {
    /// The key in the text of a file, as `peerfs key new` or OpenSSL makes it: PKCS #8 in PEM.
    ///
    /// # Errors
    /// [`InvalidKey::Form`], [`InvalidKey::Kind`].
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        match SecretKey::parse(text) {
            Err(InvalidKey::Kind) => (),
            parsed => return parsed.map(SigningKey::Ed25519),
        }
        let file = pem::parse(text).map_err(|_| InvalidKey::Form)?;
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, file.contents(), &SystemRandom::new());
        pair.map(SigningKey::P256).map_err(|_| InvalidKey::Kind)
    }

    /// What verifies its signatures.
    ///
    /// # Errors
    /// [`InvalidKey::Kind`], which no key that was parsed is.
    pub fn public(&self) -> Result<VerifyingKey, InvalidKey> {
        match self {
            SigningKey::P256(pair) => {
                let point = pair.public_key().as_ref().try_into();
                point.map(VerifyingKey::P256).map_err(|_| InvalidKey::Kind)
            }
            SigningKey::Ed25519(key) => Ok(VerifyingKey::Ed25519(key.public())),
        }
    }

    /// Its signature of a text; none if the system gives no random bytes.
    pub fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        match self {
            SigningKey::P256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), text).ok()?;
                Some(signature.as_ref().to_vec())
            }
            SigningKey::Ed25519(key) => Some(key.sign(text).to_vec()),
        }
    }
}

/// A signature of an image: who made it is what a key can tell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImageSignature {
    /// What was signed.
    pub payload: Vec<u8>,
    /// The signature of that.
    pub signature: Vec<u8>,
}

/// The text that cosign signs ("simple signing" of containers/image).
#[derive(Deserialize, Serialize)]
struct Payload {
    critical: Critical,
    #[serde(default)]
    optional: Option<serde_json::Value>,
}

#[derive(Deserialize, Serialize)]
struct Critical {
    identity: Identity,
    image: Image,
    r#type: String,
}

#[derive(Deserialize, Serialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Deserialize, Serialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: String,
}

impl ImageSignature {
    /// A key's signature of the index or manifest with this digest in a repository.
    ///
    /// # Errors
    /// [`InvalidSignature::Key`].
    pub fn new(
        repository: &RegistryReference,
        image: &Digest,
        key: &SigningKey,
    ) -> Result<Self, InvalidSignature> {
        let payload = Payload {
            critical: Critical {
                identity: Identity {
                    docker_reference: format!("{}/{}", repository.registry, repository.repository),
                },
                image: Image {
                    docker_manifest_digest: format!("sha256:{image}"),
                },
                r#type: KIND.to_owned(),
            },
            optional: None,
        };
        let payload = serde_json::to_vec(&payload)?;
        let signature = key.sign(&payload).ok_or(InvalidSignature::Key)?;
        Ok(ImageSignature { payload, signature })
    }

    /// The digest of the index or manifest that is signed, if one of these keys has; none if none has. Only then is the text
    /// looked at.
    ///
    /// # Errors
    /// [`InvalidSignature`] for what one of them has signed and is no signature of an image.
    pub fn image(&self, keys: &[VerifyingKey]) -> Result<Option<Digest>, InvalidSignature> {
        if self.payload.len() as u64 > PAYLOAD_MAX {
            return Err(InvalidSignature::TooLong(PAYLOAD_MAX as usize));
        }
        let is_ours = |key: &VerifyingKey| key.verifies(&self.payload, &self.signature);
        if !keys.iter().any(is_ours) {
            return Ok(None);
        }
        let Critical { image, r#type, .. } =
            serde_json::from_slice::<Payload>(&self.payload)?.critical;
        if r#type != KIND {
            return Err(InvalidSignature::Kind);
        }
        let digest = image.docker_manifest_digest;
        let digest = digest.starts_with("sha256:").then(|| digest.parse().ok());
        digest.flatten().map(Some).ok_or(InvalidSignature::Digest)
    }
}

/// The tag under which the signatures of an index or manifest are, in the same repository.
pub fn signature_tag(image: &Digest) -> String {
    format!("sha256-{image}.sig")
}

/// The manifest that leads to the signatures of an image. Of what others have written into it nothing is lost.
#[derive(Clone, Debug, Default)]
pub struct SignatureManifest {
    layers: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Layers {
    #[serde(default)]
    layers: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Layer {
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

impl SignatureManifest {
    /// The one in these bytes.
    ///
    /// # Errors
    /// [`InvalidSignature::TooLong`], [`InvalidSignature::Json`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidSignature> {
        if bytes.len() > MANIFEST_MAX {
            return Err(InvalidSignature::TooLong(MANIFEST_MAX));
        }
        let Layers { layers } = serde_json::from_slice(bytes)?;
        Ok(SignatureManifest { layers })
    }

    /// The digests of payloads, and the signatures of these: those that are understood, at most [`SIGNATURES_MAX`].
    pub fn signatures(&self) -> Vec<(Digest, Vec<u8>)> {
        self.understood().take(SIGNATURES_MAX).collect()
    }

    /// Whether it has a signature, be it one more than are looked at.
    pub fn has(&self, signature: &ImageSignature) -> bool {
        let payload = sha256(&signature.payload);
        self.understood()
            .any(|(digest, made)| digest == payload && made == signature.signature)
    }

    fn understood(&self) -> impl Iterator<Item = (Digest, Vec<u8>)> + '_ {
        let read = |layer: &serde_json::Value| {
            let layer: Layer = serde_json::from_value(layer.clone()).ok()?;
            let signature = layer.annotations.get(SIGNATURE_ANNOTATION)?;
            let signature = BASE64.decode(signature.as_bytes()).ok()?;
            Some((layer.digest.parse().ok()?, signature))
        };
        self.layers.iter().filter_map(read)
    }

    /// Adds a signature.
    pub fn add(&mut self, signature: &ImageSignature) {
        self.layers.push(serde_json::json!({
            "mediaType": PAYLOAD_TYPE,
            "size": signature.payload.len(),
            "digest": format!("sha256:{}", sha256(&signature.payload)),
            "annotations": {SIGNATURE_ANNOTATION: BASE64.encode(&signature.signature)},
        }));
    }

    /// The configuration that the manifest names, and its own bytes.
    pub fn to_bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let digests = self.layers.iter().map(|layer| &layer["digest"]);
        let config = serde_json::json!({
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests.collect::<Vec<_>>()},
        });
        let config = config.to_string().into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": CONFIG_TYPE,
                "size": config.len(),
                "digest": format!("sha256:{}", sha256(&config)),
            },
            "layers": self.layers,
        });
        (config, manifest.to_string().into_bytes())
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
