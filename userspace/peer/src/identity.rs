// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who a node is: its key.

use std::fs;
use std::io;
use std::path::Path;

use libp2p::identity::Keypair;
use libp2p::PeerId;
use peerfs_replica::willing::{InvalidWilling, NodeKey, SignedWilling, Willing, SIGNATURE_SIZE};
use peerfs_sys::secret_file;

use crate::Error;

/// A node's ed25519 key. Its peer id is the hash of the public part.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
}

impl Identity {
    /// A new identity that is kept nowhere.
    pub fn generate() -> Self {
        Identity {
            keypair: Keypair::generate_ed25519(),
        }
    }

    /// The identity in this file.
    ///
    /// # Errors
    /// If it can't be read, or holds something else.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(|source| Error::KeyFile {
            path: path.to_owned(),
            source,
        })?;
        Self::decode(path, &bytes)
    }

    /// The identity in this file, which is created with a new one if it does not exist: with mode
    /// 0600, whole or not at all, and never over another file.
    pub fn load_or_generate(path: &Path) -> Result<Self, Error> {
        let file_error = |source| Error::KeyFile {
            path: path.to_owned(),
            source,
        };
        match fs::read(path) {
            Ok(bytes) => return Self::decode(path, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(error)),
        }
        let identity = Self::generate();
        match identity.save(path) {
            Ok(()) => Ok(identity),
            // Another process was first: its key is the node's.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::decode(path, &fs::read(path).map_err(file_error)?)
            }
            Err(error) => Err(file_error(error)),
        }
    }

    /// The id that peers know the node by.
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// Its public key; none if it is of another kind than those that are made here.
    pub fn node_key(&self) -> Option<NodeKey> {
        let key = self.keypair.public().try_into_ed25519().ok()?;
        Some(NodeKey(key.to_bytes()))
    }

    /// Signs what the node says of itself.
    ///
    /// # Errors
    /// [`InvalidWilling`] if nobody would accept it.
    pub fn sign_willing(&self, willing: Willing) -> Result<SignedWilling, InvalidWilling> {
        let signed = |message: &[u8]| {
            let signature = self.keypair.sign(message).ok()?;
            signature.try_into().ok()
        };
        // With a key of another kind there is none that holds.
        willing.sign(|message| signed(message).unwrap_or([0; SIGNATURE_SIZE]))
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    fn decode(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let keypair =
            Keypair::from_protobuf_encoding(bytes).map_err(|source| Error::KeyEncoding {
                path: path.to_owned(),
                source,
            })?;
        Ok(Identity { keypair })
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let bytes = self
            .keypair
            .to_protobuf_encoding()
            .map_err(io::Error::other)?;
        secret_file::create(path, &bytes)
    }
}

impl std::fmt::Debug for Identity {
    // The private key must not get into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.peer_id()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_generated_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let first = Identity::load_or_generate(&path).unwrap();
        let again = Identity::load_or_generate(&path).unwrap();
        assert_eq!(first.peer_id(), again.peer_id());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, b"not a key").unwrap();
        let error = Identity::load_or_generate(&path).unwrap_err();
        assert!(matches!(error, Error::KeyEncoding { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }

    #[test]
    fn a_key_does_not_replace_a_file_that_appeared_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, b"first").unwrap();
        let error = Identity::generate().save(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }
}
