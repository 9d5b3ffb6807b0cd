// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images that kernels ask for: `peerfs sign --certificate` and `--signature`, and `peerfs key trust`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use peerfs_names::{certificate, certified_signature, CertifiedKey, NotCertified, CERTIFIED_MAX};
use peerfs_store::{printable, Reference, Store};
use peerfs_sys::keyring::TrustedKeyring;

use crate::error::{Error, Result};
use crate::names::key;
use crate::output::Output;

/// The keyring of those who sign images.
const KEYRING: &str = ".peerfs";

/// What makes the signature of an image that a kernel asks for.
pub(crate) enum Signer {
    /// A key, by the path of its file, and its certificate.
    Key { key: PathBuf, certificate: PathBuf },
    /// Somebody else has made it, and it is in this file.
    Signature(PathBuf),
}

/// Signs an image of the store, for kernels.
pub(crate) fn sign(root_dir: &Path, image: &Reference, signer: &Signer) -> Result<()> {
    let store = Store::open(root_dir)?;
    let manifest = store.resolve(image)?;
    let signature = match signer {
        Signer::Key { key, certificate } => {
            let invalid = |path: &Path| {
                let path = path.to_owned();
                move |source| not_certified(&path, source)
            };
            let text = key::read(key)?;
            let pair = CertifiedKey::parse(&text, &read(certificate)?);
            let pair = pair.map_err(|source| match source {
                NotCertified::Key => invalid(key)(source),
                _ => invalid(certificate)(source),
            })?;
            pair.sign(&manifest).map_err(invalid(key))?
        }
        Signer::Signature(file) => {
            certified_signature(&read(file)?).map_err(|source| not_certified(file, source))?
        }
    };
    store.add_certified_signatures(&manifest, &[signature])?;
    let mut output = Output::new();
    output.line(&manifest.to_string())?;
    output.finish()
}

/// Have the kernel trust who signs images, until peerfs is unloaded.
///
/// Puts certificates into the keyring .peerfs, which mounts that require a signature ask (the mount option require_signature,
/// and the module's parameter of that name). Needs root.
#[derive(Args)]
pub(crate) struct TrustArguments {
    /// The files of the certificates: X.509, in PEM or DER, of P-256 or RSA.
    #[arg(value_name = "CERTIFICATE", required = true, value_hint = ValueHint::FilePath)]
    certificates: Vec<PathBuf>,
}

/// Has the kernel trust certificates.
pub(crate) fn trust(arguments: &TrustArguments) -> Result<()> {
    let read =
        |file: &PathBuf| certificate(&read(file)?).map_err(|source| not_certified(file, source));
    let certificates = arguments.certificates.iter().map(read);
    let certificates: Vec<Vec<u8>> = certificates.collect::<Result<_>>()?;
    let keyring = TrustedKeyring::find(KEYRING).map_err(Error::Keyring)?;
    let keyring = keyring.ok_or_else(|| {
        Error::Key(format!(
            "there is no keyring {KEYRING}: only root sees it, and only while the kernel's peerfs is loaded (modprobe peerfs)"
        ))
    })?;
    for certificate in certificates {
        keyring
            .add_certificate(&certificate)
            .map_err(Error::Keyring)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path);
    // Base64 takes more.
    let read = file.and_then(|file| file.take(2 * CERTIFIED_MAX).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn not_certified(path: &Path, source: NotCertified) -> Error {
    Error::Key(format!("{}: {source}", printable(path)))
}
