// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Files of identities, in the format of age: what decrypts grants.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use age::{x25519, IdentityFile};
use peerfs_sys::secret_file::{self, SecretError};
use peerfs_text::printable;
use zeroize::Zeroizing;

/// The most bytes of a file: an identity has about 200.
const LENGTH_MAX: u64 = 16 * 1024;
/// The most identities of one.
const COUNT_MAX: usize = 16;
/// What nobody but the owner may do with it, besides reading by its group.
const FORBIDDEN: u32 = 0o037;

/// The identities of a file.
pub struct Identities {
    pub(crate) identities: Vec<Box<dyn age::Identity + Send + Sync>>,
    recipients: Vec<String>,
}

/// A text that has no identities.
#[derive(Debug, thiserror::Error)]
pub enum InvalidIdentity {
    /// There is something else in it.
    #[error(
        "it has something else than identities of age (AGE-SECRET-KEY-1...); one that is encrypted goes through `age -d` \
         first, and keys of SSH are none"
    )]
    Other(#[source] io::Error),
    /// There is nothing in it.
    #[error("there is no identity in it")]
    Empty,
    /// There are too many.
    #[error("there are more than {COUNT_MAX} identities in it")]
    TooMany,
}

/// Why a file of identities can't be used or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is none.
    #[error("there is no identity {}; `peerfs key identity FILE` makes one", printable(.0))]
    Missing(PathBuf),
    /// Others may know it.
    #[error(
        "the identity {} may be read or written by others than its owner and group: `chmod 600` it, and make another one \
         if somebody may have read it",
        printable(.0)
    )]
    Exposed(PathBuf),
    /// It has another text.
    #[error("{} is no file of identities", printable(path))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidIdentity,
    },
    /// It is no file, or too long for one.
    #[error("{} is no file of identities", printable(.0))]
    NoFile(PathBuf),
    /// There is something in its place.
    #[error("{} exists, and an identity is never written over", printable(.0))]
    Exists(PathBuf),
    /// The system refused something.
    #[error("can't {action} the identity {}", printable(path))]
    Io {
        /// The action that failed, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Identities {
    /// The identities that the text of a file has.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidIdentity> {
        let file = IdentityFile::from_buffer(text.as_bytes()).map_err(InvalidIdentity::Other)?;
        let mut recipients = Vec::new();
        file.write_recipients_file(&mut recipients)
            .map_err(|_| InvalidIdentity::Empty)?;
        let recipients = String::from_utf8_lossy(&recipients);
        let recipients: Vec<String> = recipients.lines().map(str::to_owned).collect();
        if recipients.len() > COUNT_MAX {
            return Err(InvalidIdentity::TooMany);
        }
        // The library has no error for identities that no plugin is needed for.
        let identities = file.into_identities().map_err(|_| InvalidIdentity::Empty)?;
        Ok(Identities {
            identities,
            recipients,
        })
    }

    /// The recipients that belong to them, in their order.
    pub fn recipients(&self) -> &[String] {
        &self.recipients
    }
}

/// The identities in a file that its owner alone may write, and its group read.
///
/// # Errors
/// If it is missing, may be read by others, or has none.
pub fn read(path: &Path) -> Result<Identities, IdentityError> {
    let is_private = |metadata: &Metadata| metadata.mode() & FORBIDDEN == 0;
    let text = secret_file::read(path, LENGTH_MAX, is_private).map_err(|error| {
        let path = path.to_owned();
        match error {
            SecretError::Missing => IdentityError::Missing(path),
            SecretError::NoFile => IdentityError::NoFile(path),
            SecretError::Exposed => IdentityError::Exposed(path),
            SecretError::Io(source) => IdentityError::Io {
                action: "read",
                path,
                source,
            },
        }
    })?;
    parse(path, &text)
}

/// The identities in what somebody else has read or decrypted, and gives.
///
/// # Errors
/// If there are none.
pub fn read_stream(stream: impl Read) -> Result<Identities, IdentityError> {
    let path = Path::new("-");
    // With room for all of it, so that no part is left where it was smaller.
    let mut text = Zeroizing::new(String::with_capacity(LENGTH_MAX as usize));
    match stream.take(LENGTH_MAX).read_to_string(&mut text) {
        Ok(_) => parse(path, &text),
        Err(source) => Err(IdentityError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn parse(path: &Path, text: &str) -> Result<Identities, IdentityError> {
    Identities::parse(text).map_err(|source| IdentityError::Invalid {
        path: path.to_owned(),
        source,
    })
}

/// Makes a file with a new identity that its owner alone may read: whole or not at all, and never over another one. Returns the
/// recipient.
///
/// # Errors
/// If there is something in its place, or it can't be written.
pub fn create(path: &Path) -> Result<String, IdentityError> {
    let identity = x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let secret = identity.to_string();
    let text = Zeroizing::new(format!(
        "# public key: {recipient}\n{}\n",
        secret.expose_secret()
    ));
    let written = secret_file::create(path, text.as_bytes());
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => IdentityError::Exists(path.to_owned()),
        _ => IdentityError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        },
    })?;
    Ok(recipient)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_made_once_and_read_only_where_it_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own");
        assert!(matches!(read(&path), Err(IdentityError::Missing(_))));
        let recipient = create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(create(&path), Err(IdentityError::Exists(_))));
        let found = read(&path).unwrap();
        assert_eq!(found.recipients(), std::slice::from_ref(&recipient));
        let text = fs::read_to_string(&path).unwrap();
        let twice = [text.as_str(), "\n", &text].concat();
        let found = read_stream(twice.as_bytes()).unwrap();
        assert_eq!(found.recipients(), [recipient.clone(), recipient]);
        fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        assert!(matches!(read(&path), Err(IdentityError::Exposed(_))));
        assert!(matches!(read(folder.path()), Err(IdentityError::NoFile(_))));
        assert!(matches!(
            read_stream(io::repeat(b'\n')),
            Err(IdentityError::Invalid {
                source: InvalidIdentity::Empty,
                ..
            })
        ));
        // What is wrong is said, and not what it was.
        let wrong = text.replace("KEY-1", "KEY-2");
        let Err(error) = read_stream(wrong.as_bytes()) else {
            panic!("it is no identity");
        };
        let shown = peerfs_text::Causes(&error).to_string();
        assert!(
            shown.contains("line 2") && !shown.contains("KEY-2"),
            "{shown}"
        );
        assert!(matches!(
            Identities::parse(&text.repeat(17)),
            Err(InvalidIdentity::TooMany)
        ));
    }
}
