// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs sign` and `peerfs verify-signature`.

use clap::Args;
use peerfs_names::{ImageSignature, VerifyingKey};
use peerfs_registry::Remote;
use peerfs_store::{Reference, RegistryReference};

use crate::arguments::RegistryArguments;
use crate::error::{Error, Result};
use crate::names::key::{KeyFolder, DEFAULT_KEY};
use crate::output::Output;
use crate::push::{block_on, options};

/// Sign an image of a registry.
///
/// In the form of cosign's signatures by a key, beside the image: `cosign verify --key` verifies them, too
/// (with `peerfs key export --pem`). What is signed is what the reference stands for now. Prints its digest.
#[derive(Args)]
pub(crate) struct SignArguments {
    #[command(flatten)]
    registry: RegistryArguments,
    #[command(flatten)]
    folder: KeyFolder,
    /// The key that signs: what it is called, or the path of its file. Ed25519, as `peerfs key new` makes it, or ECDSA with
    /// P-256; PKCS #8 in PEM.
    #[arg(long, value_name = "KEY", default_value = DEFAULT_KEY)]
    key: String,
    /// The image: REGISTRY/NAME:TAG, with or without a digest.
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

/// Signs an image.
pub(crate) fn sign(arguments: &SignArguments) -> Result<()> {
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
