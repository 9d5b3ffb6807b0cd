// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The policy on this machine's disk: which images need whose signature.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use peerfs_format::Digest;
use peerfs_names::{ImageSignature, InvalidPolicy, Policy, Requirement, VerifyingKey, POLICY_MAX};
use peerfs_store::{Reference, RegistryReference, Store};

/// Where the policy is read from if no file is named. It need not exist.
pub const DEFAULT_POLICY: &str = "/etc/peerfs/policy.toml";

/// Why there is no policy, so that nothing is allowed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It can't be read.
    #[error("cannot read the policy {}; nothing that it may be about is done before", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not valid.
    #[error("the policy {} is not valid; nothing that it may be about is done before", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        source: InvalidPolicy,
    },
    /// It refuses an image.
    #[error("the policy refuses {0}")]
    Refused(String),
    /// An image is not signed as it requires.
    #[error(
        "the policy requires a signature of {image} by one of {keys} keys, and of the {found} that sha256:{digest} has none is \
         theirs"
    )]
    Unsigned {
        /// What was asked for.
        image: String,
        /// The OCI index or manifest that it stands for.
        digest: Digest,
        /// The keys whose signature would do.
        keys: usize,
        /// The signatures that there are.
        found: usize,
    },
    /// An image of the store was not signed as it requires when it came.
    #[error(
        "the policy requires a signature of {0}, and the store has none that holds; `peerfs pull {0}` asks its registry"
    )]
    NotNoted(String),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] peerfs_store::Error),
}

impl PolicyError {
    pub(crate) fn unsigned(
        image: &RegistryReference,
        digest: Digest,
        keys: &[VerifyingKey],
        found: usize,
    ) -> Self {
        PolicyError::Unsigned {
            image: image.to_string(),
            digest,
            keys: keys.len(),
            found,
        }
    }
}

/// Whether a signature is one of this OCI index or manifest by one of these keys.
pub(crate) fn is_signed(signature: &ImageSignature, image: &Digest, keys: &[VerifyingKey]) -> bool {
    matches!(signature.image(keys), Ok(Some(signed)) if signed == *image)
}

/// Fails unless the policy allows an image that is in the store: what a registry's is called, by the signatures that were
/// noted when it came.
///
/// # Errors
/// [`PolicyError`].
pub fn check_stored(
    store: &Store,
    policy: &Policy,
    reference: &Reference,
    manifest: &Digest,
) -> Result<(), PolicyError> {
    let keys = match policy.requires(reference) {
        Requirement::Nothing => return Ok(()),
        Requirement::Refused => return Err(PolicyError::Refused(reference.to_string())),
        Requirement::Signature(keys) => keys,
    };
    // Of what was made here of an ordinary image it is that which is signed.
    let converted = store.originals().unwrap_or_default();
    for noted in store.signatures()? {
        let signature = ImageSignature {
            payload: noted.payload,
            signature: noted.signature,
        };
        let leads_there = || {
            let found = store.resolve(&Reference::Digest(noted.image));
            found.is_ok_and(|found| found == *manifest)
        };
        let originals = converted
            .iter()
            .filter(|made| made.oci_index == noted.image)
            .map(|made| &made.original);
        let mut signed = originals.chain([&noted.image]);
        if signed.any(|image| is_signed(&signature, image, keys)) && leads_there() {
            return Ok(());
        }
    }
    Err(PolicyError::NotNoted(reference.to_string()))
}

/// The policy in this file; without one named that in [`DEFAULT_POLICY`], and without that none, which allows all.
///
/// # Errors
/// [`PolicyError`].
pub fn read_policy(named: Option<&Path>) -> Result<Policy, PolicyError> {
    let path = named.unwrap_or(Path::new(DEFAULT_POLICY));
    let text = match read(path) {
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(Policy::default());
        }
        text => text.map_err(|source| PolicyError::Read {
            path: path.to_owned(),
            source,
        })?,
    };
    // The paths of keys are from where the policy is.
    let folder = path.parent().unwrap_or(Path::new("/"));
    let parsed = Policy::parse(&text, |key| read(&folder.join(key)));
    parsed.map_err(|source| PolicyError::Invalid {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    File::open(path)?
        .take(POLICY_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > POLICY_MAX {
        return Err(io::Error::other("it is too long"));
    }
    Ok(text)
}
