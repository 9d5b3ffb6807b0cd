// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images that kernels verify: PKCS #7 (RFC 5652), detached and in DER, by a key that has a certificate.

use std::fmt;

use cms::cert::x509::der::asn1::{ObjectIdentifier, OctetString, SetOfVec};
use cms::cert::x509::der::{self, Any, Decode, Encode};
use cms::cert::x509::spki::AlgorithmIdentifierOwned;
use cms::cert::x509::Certificate;
use cms::cert::IssuerAndSerialNumber;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{
    EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos,
};
use peerfs_format::{signed_text, Digest};
use ring::rand::SystemRandom;
use ring::signature::{
    EcdsaKeyPair, KeyPair, RsaKeyPair, ECDSA_P256_SHA256_ASN1_SIGNING, RSA_PKCS1_SHA256,
};

const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ID_SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

const CERTIFICATE_TAG: &str = "CERTIFICATE";
const KEY_TAG: &str = "PRIVATE KEY";
/// What PEM calls a signature, by RFC 7468 and by OpenSSL.
const SIGNATURE_TAGS: [&str; 2] = ["CMS", "PKCS7"];

/// The most bytes of a certificate or signature.
pub const CERTIFIED_MAX: u64 = 16 * 1024;

/// Why something can't sign images for kernels, or is no signature of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotCertified {
    /// It is no certificate.
    #[error("it is no X.509 certificate, in PEM or DER")]
    Certificate,
    /// The key is none, or of a kind that kernels don't verify.
    #[error("it is no secret key that kernels can verify signatures of: P-256, or RSA of 2048 to 4096 bits, as PKCS #8 in PEM, is expected")]
    Key,
    /// The certificate is of another key.
    #[error("the certificate is of another key")]
    OtherKey,
    /// It is no signature.
    #[error("it is no detached signature in PKCS #7, as `openssl cms -sign -binary -noattr -outform DER` makes it")]
    Signature,
    /// It can't be signed.
    #[error("the key can't sign")]
    Signing,
}

/// A certificate, in DER.
///
/// # Errors
/// [`NotCertified::Certificate`].
pub fn certificate(bytes: &[u8]) -> Result<Vec<u8>, NotCertified> {
    parse_certificate(bytes).map(|(bytes, _)| bytes)
}

fn parse_certificate(bytes: &[u8]) -> Result<(Vec<u8>, Certificate), NotCertified> {
    let bytes = decoded(bytes, &[CERTIFICATE_TAG]);
    let certificate = Certificate::from_der(&bytes).map_err(|_| NotCertified::Certificate)?;
    Ok((bytes, certificate))
}

/// A signature that others have made, in DER; whose, and of what, is not looked at.
///
/// # Errors
/// [`NotCertified::Signature`].
pub fn certified_signature(bytes: &[u8]) -> Result<Vec<u8>, NotCertified> {
    let bytes = decoded(bytes, &SIGNATURE_TAGS);
    let parse = || {
        let info = ContentInfo::from_der(&bytes)?;
        info.content.decode_as::<SignedData>()
    };
    let is_detached = |data: SignedData| {
        data.encap_content_info.econtent.is_none() && !data.signer_infos.0.is_empty()
    };
    match parse().is_ok_and(is_detached) && bytes.len() as u64 <= CERTIFIED_MAX {
        true => Ok(bytes),
        false => Err(NotCertified::Signature),
    }
}

/// What is in a file that may be PEM.
fn decoded(bytes: &[u8], tags: &[&str]) -> Vec<u8> {
    match pem::parse(bytes) {
        Ok(file) if tags.contains(&file.tag()) => file.into_contents(),
        _ => bytes.to_vec(),
    }
}

/// A secret key with its certificate.
pub struct CertifiedKey {
    certificate: Certificate,
    pair: Pair,
}

enum Pair {
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl CertifiedKey {
    /// The key of a file, in PEM, and its certificate.
    ///
    /// # Errors
    /// [`NotCertified::Certificate`], [`NotCertified::Key`], [`NotCertified::OtherKey`].
    pub fn parse(key: &str, certificate: &[u8]) -> Result<Self, NotCertified> {
        let (_, certificate) = parse_certificate(certificate)?;
        let file = pem::parse(key).map_err(|_| NotCertified::Key)?;
        if file.tag() != KEY_TAG {
            return Err(NotCertified::Key);
        }
        let pair = Pair::parse(file.contents())?;
        let spki = &certificate.tbs_certificate.subject_public_key_info;
        match spki.subject_public_key.raw_bytes() == pair.public() {
            true => Ok(CertifiedKey { certificate, pair }),
            false => Err(NotCertified::OtherKey),
        }
    }

    /// Its signature of an image.
    ///
    /// # Errors
    /// [`NotCertified::Signing`].
    pub fn sign(&self, manifest: &Digest) -> Result<Vec<u8>, NotCertified> {
        let signature = self.pair.sign(&signed_text(manifest))?;
        self.encode(signature).map_err(|_| NotCertified::Signing)
    }

    fn encode(&self, signature: Vec<u8>) -> der::Result<Vec<u8>> {
        let digest_algorithm = AlgorithmIdentifierOwned {
            oid: SHA256,
            parameters: None,
        };
        let signed = &self.certificate.tbs_certificate;
        let signer = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: signed.issuer.clone(),
                serial_number: signed.serial_number.clone(),
            }),
            digest_alg: digest_algorithm.clone(),
            signed_attrs: None,
            signature_algorithm: self.pair.algorithm(),
            signature: OctetString::new(signature)?,
            unsigned_attrs: None,
        };
        let data = SignedData {
            version: CmsVersion::V1,
            digest_algorithms: SetOfVec::from_iter([digest_algorithm])?,
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: ID_DATA,
                econtent: None,
            },
            certificates: None,
            crls: None,
            signer_infos: SignerInfos(SetOfVec::from_iter([signer])?),
        };
        ContentInfo {
            content_type: ID_SIGNED_DATA,
            content: Any::encode_from(&data)?,
        }
        .to_der()
    }
}

impl fmt::Debug for CertifiedKey {
    // The secret half must not get into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.certificate.tbs_certificate.subject;
        f.debug_tuple("CertifiedKey")
            .field(&subject.to_string())
            .finish()
    }
}

impl Pair {
    fn parse(pkcs8: &[u8]) -> Result<Self, NotCertified> {
        let p256 =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new());
        match p256 {
            Ok(pair) => Ok(Pair::P256(pair)),
            Err(_) => RsaKeyPair::from_pkcs8(pkcs8)
                .map(Pair::Rsa)
                .map_err(|_| NotCertified::Key),
        }
    }

    /// The public half, as certificates have it.
    fn public(&self) -> &[u8] {
        match self {
            Pair::P256(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    fn algorithm(&self) -> AlgorithmIdentifierOwned {
        let (oid, parameters) = match self {
            Pair::P256(_) => (ECDSA_WITH_SHA256, None),
            Pair::Rsa(_) => (RSA_ENCRYPTION, Some(Any::null())),
        };
        AlgorithmIdentifierOwned { oid, parameters }
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, NotCertified> {
        let random = SystemRandom::new();
        let signature = match self {
            Pair::P256(pair) => pair
                .sign(&random, text)
                .map(|signature| signature.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, text, &mut signature)
                    .map(|()| signature)
            }
        };
        signature.map_err(|_| NotCertified::Signing)
    }
}
