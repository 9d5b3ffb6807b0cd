// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs sign` and `peerfs verify-signature`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use peerfs_names::{ImageSignature, VerifyingKey};
use peerfs_registry::Remote;
use peerfs_store::{Reference, RegistryReference};

use crate::arguments::{RegistryArguments, StoreArguments};
use crate::certified::{self, Signer};
use crate::error::{Error, Result};
use crate::names::key::{KeyFolder, DEFAULT_KEY};
use crate::output::Output;
use crate::push::{block_on, options};

/// Sign an image of a registry, or one of the store for kernels that ask for it.
///
/// Of a registry: in the form of cosign's signatures by a key, beside the image: `cosign verify --key` verifies them, too
/// (with `peerfs key export --pem`). What is signed is what the reference stands for now. Prints its digest.
///
/// With a certificate, of the store: as PKCS #7, which the kernel verifies when the image is mounted with require_signature.
/// `peerfs push` puts it beside the image, and who pulls the image gets it. Prints the digest of the image's manifest.
#[derive(Args)]
pub(crate) struct SignArguments {
    #[command(flatten)]
    registry: RegistryArguments,
    #[command(flatten)]
    folder: KeyFolder,
    #[command(flatten)]
    store: StoreArguments,
    /// The key that signs: what it is called, or the path of its file. Ed25519, as `peerfs key new` makes it, or ECDSA with
    /// P-256; with a certificate ECDSA with P-256, or RSA. PKCS #8 in PEM.
    #[arg(long, value_name = "KEY", default_value = DEFAULT_KEY)]
    key: String,
    /// The file of the key's certificate (X.509, in PEM or DER): sign an image of the store, for kernels.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    certificate: Option<PathBuf>,
    /// The file of a signature of an image of the store, for kernels, that somebody else has made, in PKCS #7. What is signed
    /// is the text "peerfs-image-1 sha256:", with the digest of the image's manifest behind it.
    #[arg(long, value_name = "FILE", conflicts_with = "certificate", value_hint = ValueHint::FilePath)]
    signature: Option<PathBuf>,
    /// The image: REGISTRY/NAME:TAG, with or without a digest; for kernels, a digest or a tag of the store.
    #[arg(value_name = "IMAGE")]
    image: Reference,
}

/// Verify who has signed an image of a registry.
///
/// Succeeds if one of the keys has signed what the reference stands for now, by peerfs or cosign, and prints its digest.
#[derive(Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    registry: RegistryArguments,
    /// A public key: the path of its file in PEM, as cosign and OpenSSL make it, or a publisher's KEY. May be repeated.
    #[arg(long, value_name = "KEY", required = true)]
    key: Vec<String>,
    /// The image: REGISTRY/NAME:TAG, with or without a digest.
    #[arg(value_name = "IMAGE")]
    image: Reference,
}

impl SignArguments {
    /// What makes a signature for kernels, if that is wanted.
    fn signer(&self) -> Result<Option<Signer>> {
        Ok(match (&self.certificate, &self.signature) {
            (Some(certificate), _) => Some(Signer::Key {
                key: self.folder.path(&self.key)?,
                certificate: certificate.clone(),
            }),
            (None, Some(file)) => Some(Signer::Signature(file.clone())),
            (None, None) => None,
        })
    }
}

/// Signs an image.
pub(crate) fn sign(arguments: &SignArguments) -> Result<()> {
    if let Some(signer) = arguments.signer()? {
        return certified::sign(&arguments.store.root_dir, &arguments.image, &signer);
    }
    let reference = of_registry(&arguments.image)?;
    let key = arguments.folder.load_signing(&arguments.key)?;
    let remote = Remote::repository(reference, &options(&arguments.registry))?;
    let digest = block_on(async {
        let image = remote.resolve(reference).await?.digest;
        let signature = ImageSignature::new(reference, &image, &key);
        let signature = signature.map_err(|error| Error::Key(error.to_string()))?;
        remote.add_signature(&image, &signature).await?;
        Ok::<_, Error>(image)
    })?;
    print(&digest.to_string())
}

/// Verifies the signatures of an image.
pub(crate) fn verify(arguments: &VerifyArguments) -> Result<()> {
    let reference = of_registry(&arguments.image)?;
    let keys = arguments.key.iter().map(|key| public(key));
    let keys: Vec<VerifyingKey> = keys.collect::<Result<_>>()?;
    let remote = Remote::repository(reference, &options(&arguments.registry))?;
    let (image, signatures) = block_on(async {
        let image = remote.resolve(reference).await?.digest;
        let signatures = remote.signatures(&image).await?;
        Ok::<_, Error>((image, signatures))
    })?;
    let is_signed = |signature: &ImageSignature| matches!(signature.image(&keys), Ok(Some(signed)) if signed == image);
    if signatures.iter().any(is_signed) {
        return print(&image.to_string());
    }
    Err(Error::Key(match signatures.len() {
        0 => format!("sha256:{image}, which {reference} is, is not signed"),
        count => format!(
            "of {count} signatures of sha256:{image}, which {reference} is, none is by these keys"
        ),
    }))
}

fn print(digest: &str) -> Result<()> {
    let mut output = Output::new();
    output.line(digest)?;
    output.finish()
}

fn of_registry(image: &Reference) -> Result<&RegistryReference> {
    match image {
        Reference::Registry(reference) => Ok(reference),
        other => Err(Error::Destination(format!(
            "{other} is no image of a registry, such as registry.example/team/name:tag"
        ))),
    }
}

/// The public key in a file, or that a text is.
fn public(key: &str) -> Result<VerifyingKey> {
    if let Ok(key) = VerifyingKey::parse(key) {
        return Ok(key);
    }
    let text = std::fs::read_to_string(key).map_err(|source| Error::Read {
        path: key.into(),
        source,
    })?;
    VerifyingKey::parse(&text).map_err(|_| {
        Error::Key(format!(
            "{key} is no public key: P-256 or Ed25519, in PEM, is expected"
        ))
    })
}
