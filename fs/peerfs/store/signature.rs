// SPDX-License-Identifier: GPL-2.0

//! Signatures of images, where the kernel asks for them.
#![forbid(unsafe_code)]

use core::fmt;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use kernel::str::CString;
use peerfs_format::{signed_text, Digest, SignedFile, SIGNED_COUNT_MAX, SIGNED_MAX};

use super::Hex;
use crate::rust::fs::{Directory, ErrorName, Found};
use crate::rust::key::TrustedKeyring;

/// Why an image does not count as signed.
pub(crate) enum Unsigned {
    /// The store has no signature of it.
    Nothing,
    /// What is in the place of its signatures can't be read: why.
    Unusable(&'static str),
    /// That cannot be read.
    Read(Error),
    /// None of its signatures is good; what is wrong with the one that came nearest.
    Refused(Error),
}

impl From<Unsigned> for Error {
    fn from(unsigned: Unsigned) -> Self {
        match unsigned {
            Unsigned::Nothing | Unsigned::Unusable(_) => EKEYREJECTED,
            Unsigned::Read(error) => error,
            Unsigned::Refused(error @ (ENOKEY | EOPNOTSUPP | ENOMEM)) => error,
            Unsigned::Refused(_) => EKEYREJECTED,
        }
    }
}

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsigned::Nothing => f.write_str(
                "not signed, and a signature is required: `peerfs sign --certificate` makes one",
            ),
            Unsigned::Unusable(why) => write!(f, "what should be its signature {why}"),
            Unsigned::Read(error) => {
                write!(f, "its signature cannot be read: {}", ErrorName(*error))
            }
            Unsigned::Refused(ENOKEY) => f.write_str(
                "not signed by anybody whose certificate is in the keyring .peerfs: `peerfs key trust` puts one there",
            ),
            Unsigned::Refused(EKEYREJECTED) => f.write_str("its signature is one of something else"),
            Unsigned::Refused(EOPNOTSUPP) => {
                f.write_str("this kernel cannot verify signatures (CONFIG_SYSTEM_DATA_VERIFICATION)")
            }
            Unsigned::Refused(error) => {
                write!(f, "its signature cannot be verified: {}", ErrorName(*error))
            }
        }
    }
}

/// Fails unless the store has a signature of this image by one whom the keyring has. Opens a file with the current
/// credentials.
pub(crate) fn verify_signature(
    directory: &Directory,
    manifest: &Digest,
    trusted: &TrustedKeyring,
) -> core::result::Result<(), Unsigned> {
    let bytes = read(directory, manifest)?;
    let text = signed_text(manifest);
    let mut nearest = EBADMSG;
    for signature in SignedFile::new(&bytes).take(SIGNED_COUNT_MAX) {
        match trusted.verify(&text, signature) {
            Ok(()) => return Ok(()),
            Err(error) if rank(error) > rank(nearest) => nearest = error,
            Err(_) => {}
        }
    }
    Err(Unsigned::Refused(nearest))
}

/// How much an error says of what is to be done.
fn rank(error: Error) -> u8 {
    match error {
        ENOMEM | EOPNOTSUPP => 3,
        // A good signature by somebody whom nobody trusts.
        ENOKEY => 2,
        EKEYREJECTED => 1,
        _ => 0,
    }
}

fn read(directory: &Directory, manifest: &Digest) -> core::result::Result<KVVec<u8>, Unsigned> {
    let name = CString::try_from_fmt(fmt!("signed/{}", Hex(manifest))).map_err(Unsigned::Read)?;
    let file = match directory.open_file(&name).map_err(Unsigned::Read)? {
        Found::File(file) => file,
        Found::Nothing => return Err(Unsigned::Nothing),
        Found::Unusable(why) => return Err(Unsigned::Unusable(why)),
    };
    let size = file.size();
    if size > SIGNED_MAX {
        return Err(Unsigned::Unusable("is too long"));
    }
    file.read_new(size as usize, 0, GFP_KERNEL_ACCOUNT)
        .map_err(Unsigned::Read)
}
