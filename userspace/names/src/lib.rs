// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signed names of images, signatures of images, and who needs whose (Documentation/names.md). Parsing and decisions
//! alone: nothing here reads a file, asks anybody or looks at a clock.
//!
//! | module | noun |
//! |---|---|
//! | [`Name`] | a publisher's name for an image: its key, and a text |
//! | [`Record`], [`SignedRecord`] | what a name stands for at a time, and that its key says so |
//! | [`Grant`] | who else may sign records of a name |
//! | [`Certificate`] | that a node is a member of a swarm |
//! | [`KnownName`] | what a machine knows of a name: never less than it did |
//! | [`LatestTime`] | the latest time that a machine has seen, by which is judged what has expired |
//! | [`SecretKey`] | what signs, as a file has it |
//! | [`ImageSignature`] | a signature of an image in a registry, as cosign makes them |
//! | [`CertifiedKey`] | what signs images for kernels that ask for it: a secret key and its certificate |
//! | [`Policy`] | which images need whose signature |

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod certificate;
mod certified;
mod grant;
mod key;
mod known;
mod latest_time;
mod name;
mod policy;
mod reader;
mod record;
mod signature;

pub use certificate::{
    is_node_id, Certificate, InvalidCertificate, CERTIFICATE_MAX, REVOKED_MEMBERS,
};
pub use certified::{certificate, certified_signature, CertifiedKey, NotCertified, CERTIFIED_MAX};
pub use grant::{Grant, WRITERS_MAX};
pub use key::{InvalidKey, SecretKey};
pub use known::{
    CannotGoBack, Choice, Current, InvalidKnown, KnownName, Past, Point, Unusable, Verdict,
    HISTORY_MAX, KNOWN_MAX,
};
pub use latest_time::{LatestTime, BEHIND_MAX};
pub use name::{InvalidName, Name};
pub use peerfs_oci::PublisherKey;
pub use policy::{InvalidPolicy, Policy, Requirement, POLICY_MAX};
pub use record::{InvalidRecord, Record, SignedRecord, RECORD_MAX, REPLICAS_MAX};
pub use signature::{
    signature_tag, ImageSignature, InvalidSignature, SignatureManifest, SigningKey, VerifyingKey,
    MANIFEST_TYPE, PAYLOAD_MAX, SIGNATURES_MAX,
};
