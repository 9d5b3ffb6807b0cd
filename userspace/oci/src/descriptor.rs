// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What OCI calls a descriptor: the type, digest and length of a blob.

use oci_spec::image::{Descriptor, MediaType, Sha256Digest};
use peerfs_format::Digest;
use sha2::{Digest as _, Sha256};

/// A descriptor of bytes.
pub(crate) fn describe(media_type: MediaType, bytes: &[u8]) -> Descriptor {
    descriptor(media_type, &sha256(bytes), bytes.len() as u64)
}

/// A descriptor of a blob.
pub(crate) fn descriptor(media_type: MediaType, digest: &Digest, length: u64) -> Descriptor {
    let digits = digest.to_string();
    let digest: Sha256Digest = digits.parse().expect("64 lower-case hexadecimal digits");
    Descriptor::new(media_type, length, digest)
}

/// The digest that a descriptor names, if it is a SHA-256.
pub(crate) fn digest_of(entry: &Descriptor) -> Option<Digest> {
    entry.as_digest_sha256()?.parse().ok()
}

/// The digest of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
