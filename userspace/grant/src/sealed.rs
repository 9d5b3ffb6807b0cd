// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Encrypting a key for recipients, and decrypting it. What is to be decrypted is anybody's: of it nothing is believed but that it
//! decrypts to a key with the right id.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::{DecryptError, Decryptor, EncryptError, Encryptor};
use age_core::format::{FileKey, Stanza};
use peerfs_format::KeyId;
use peerfs_realm::{Envelope, Grant, InvalidRealmKey, RealmKey, GRANT_MAX};
use zeroize::Zeroizing;

use crate::{Identities, Recipient, RECIPIENTS_MAX};

/// The most bytes of what is decrypted: a key has 84.
const PLAIN_MAX: u64 = 4096;
/// The end of the kinds of recipients that nobody is: age puts one into each file, so that readers get used to what they do not
/// know.
const GREASE: &str = "-grease";

/// What files of age begin with, armored and not.
const BEGINNINGS: [&[u8]; 2] = [
    b"-----BEGIN AGE ENCRYPTED FILE-----",
    b"age-encryption.org/",
];

/// Why a key can't be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// There are too many recipients.
    #[error("there are {0} recipients, and {RECIPIENTS_MAX} at most can be named at a time; grant it several times")]
    TooMany(usize),
    /// It makes no grant.
    #[error(
        "can't encrypt the key: the recipients take more than {GRANT_MAX} bytes; name some less"
    )]
    TooLong,
    /// age refused it.
    #[error("can't encrypt the key")]
    Encrypt(#[from] EncryptError),
    /// It can't be written.
    #[error("can't encrypt the key")]
    Write(#[from] io::Error),
}

/// Why no key is had from a grant.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is for somebody else.
    #[error(
        "it is encrypted for others than this identity; whoever has the key grants it to the recipient that `peerfs key \
         identity --show FILE` prints"
    )]
    OtherRecipients,
    /// It is encrypted with a passphrase.
    #[error("it is encrypted with a passphrase; `age -d FILE | peerfs key import -` takes it")]
    Passphrase,
    /// It is too long for one.
    #[error("it has more than {GRANT_MAX} bytes, and is no key that was granted")]
    TooLong,
    /// It is no file of age, or damaged.
    #[error("it is no file of age, or damaged; have it granted or sent again")]
    Damaged(#[source] DecryptError),
    /// It is not armored as it should be, or cut off.
    #[error("it is no file of age, or damaged; have it granted or sent again")]
    Unreadable(#[source] io::Error),
    /// It has something else.
    #[error("what it decrypts to is no realm key")]
    NoKey(#[source] InvalidRealmKey),
    /// It has the key of another realm.
    #[error("what it decrypts to is the key {found}, and not {wanted}; whoever granted it has mixed them up, or wants you to")]
    OtherKey {
        /// The key that it has.
        found: KeyId,
        /// The key that it should have.
        wanted: KeyId,
    },
    /// There is no grant at all.
    #[error(
        "the store knows of nobody to whom the key {0} was granted: `peerfs pull` brings what is beside the image in its \
         registry, `peerfs key grant` puts it there"
    )]
    NoGrant(KeyId),
}

/// A key, encrypted for recipients.
///
/// # Errors
/// [`SealError`].
pub fn seal(key: &RealmKey, recipients: &[Recipient]) -> Result<Grant, SealError> {
    if recipients.len() > RECIPIENTS_MAX {
        return Err(SealError::TooMany(recipients.len()));
    }
    let recipients = recipients.iter().map(|recipient| &recipient.0 as _);
    let encryptor = Encryptor::with_recipients(recipients)?;
    let armored = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
    let mut writer = encryptor.wrap_output(armored)?;
    writer.write_all(key.to_text().as_bytes())?;
    let bytes = writer.finish()?.finish()?;
    Grant::parse(&bytes).ok_or(SealError::TooLong)
}

/// The key in a file of age, armored or not, that one of the identities decrypts.
///
/// # Errors
/// [`OpenError`].
pub fn open(bytes: &[u8], identities: &Identities) -> Result<RealmKey, OpenError> {
    let decoded = decoded(bytes)?;
    let decryptor = decryptor(&decoded)?;
    if decryptor.is_scrypt() {
        return Err(OpenError::Passphrase);
    }
    let identities = identities.identities.iter();
    let plain = decryptor.decrypt(identities.map(|identity| identity.as_ref() as _));
    let plain = plain.map_err(|error| match error {
        DecryptError::NoMatchingKeys => OpenError::OtherRecipients,
        error => OpenError::Damaged(error),
    })?;
    // With room for all of it, so that no part is left where it was smaller.
    let mut text = Zeroizing::new(Vec::with_capacity(PLAIN_MAX as usize));
    plain
        .take(PLAIN_MAX)
        .read_to_end(&mut text)
        .map_err(OpenError::Unreadable)?;
    let text = std::str::from_utf8(&text).map_err(|_| OpenError::NoKey(InvalidRealmKey::Title))?;
    RealmKey::parse(text).map_err(OpenError::NoKey)
}

/// The key that is called so, from the newest grant that one of the identities decrypts to it.
///
/// # Errors
/// [`OpenError`]: of several grants that have no such key what is wrong with one that was for an identity, if there is one.
pub fn open_envelope(
    envelope: &Envelope,
    identities: &Identities,
    wanted: KeyId,
) -> Result<RealmKey, OpenError> {
    let mut problem = OpenError::NoGrant(wanted);
    for grant in envelope.grants() {
        let error = match open(grant.text().as_bytes(), identities) {
            Ok(key) if key.id() == wanted => return Ok(key),
            Ok(key) => OpenError::OtherKey {
                found: key.id(),
                wanted,
            },
            Err(error) => error,
        };
        let says_more = match (&problem, &error) {
            (OpenError::NoGrant(_), _) => true,
            (_, OpenError::OtherRecipients) => matches!(problem, OpenError::Damaged(_)),
            (OpenError::OtherRecipients, OpenError::OtherKey { .. } | OpenError::NoKey(_)) => true,
            _ => false,
        };
        if says_more {
            problem = error;
        }
    }
    Err(problem)
}

/// Whether a file that begins so is one of age.
pub fn is_sealed(beginning: &[u8]) -> bool {
    BEGINNINGS
        .iter()
        .any(|expected| beginning.trim_ascii_start().starts_with(expected))
}

/// How many recipients of each kind a file of age has. Who they are it does not say.
///
/// # Errors
/// [`OpenError::Damaged`], [`OpenError::Unreadable`], [`OpenError::TooLong`].
pub fn kinds(bytes: &[u8]) -> Result<BTreeMap<String, usize>, OpenError> {
    let kinds = Kinds::default();
    let decoded = decoded(bytes)?;
    match decryptor(&decoded)?
        .decrypt([&kinds as _].into_iter())
        .err()
    {
        None | Some(DecryptError::NoMatchingKeys) => Ok(kinds.0.into_inner()),
        Some(error) => Err(OpenError::Damaged(error)),
    }
}

/// What looks at recipients, and decrypts nothing.
#[derive(Default)]
struct Kinds(RefCell<BTreeMap<String, usize>>);

impl age::Identity for Kinds {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        if !stanza.tag.ends_with(GREASE) {
            *self.0.borrow_mut().entry(stanza.tag.clone()).or_default() += 1;
        }
        None
    }
}

/// The bytes of a file that may be armored.
fn decoded(bytes: &[u8]) -> Result<Vec<u8>, OpenError> {
    if bytes.len() > GRANT_MAX {
        return Err(OpenError::TooLong);
    }
    let mut decoded = Vec::new();
    ArmoredReader::new(bytes)
        .read_to_end(&mut decoded)
        .map_err(OpenError::Unreadable)?;
    Ok(decoded)
}

fn decryptor(bytes: &[u8]) -> Result<Decryptor<&[u8]>, OpenError> {
    Decryptor::new_buffered(bytes).map_err(OpenError::Damaged)
}

#[cfg(test)]
#[path = "sealed_tests.rs"]
mod tests;
