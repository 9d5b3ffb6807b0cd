// SPDX-License-Identifier: GPL-2.0

//! The realm of an encrypted image: what its key does.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use kernel::str::CString;
use peerfs_format::encryption::{decrypt, label};
use peerfs_format::{Cipher, Iv, KeyId};

use crate::rust::crypto::{xchacha20, Secret};
use crate::rust::key::logon_key;

/// The realm of an image, whose key the mounter has. The key is gone when this is dropped.
pub(super) struct Realm {
    encryption: Secret,
    content: Secret,
}

impl Realm {
    /// The realm with this key, which must be in a keyring of the current task. ENOKEY if it is not, EKEYREJECTED if what is
    /// called so is another key.
    pub(super) fn find(id: &KeyId) -> Result<Self> {
        let id_text = CString::try_from_fmt(fmt!("peerfs:{}", Hex(id)))?;
        Self::new(&logon_key(&id_text)?, id)
    }

    fn new(key: &Secret, id: &KeyId) -> Result<Self> {
        // Whoever chooses what a key is called must not come to the pages of those who have the right one.
        if !derive(key, label::KEY_ID)?.bytes_mut().starts_with(&id.0) {
            return Err(EKEYREJECTED);
        }
        Ok(Realm {
            encryption: derive(key, label::ENCRYPTION)?,
            content: derive(key, label::CONTENT)?,
        })
    }

    /// Decrypts a shard, and takes the initialization vector away from it.
    pub(super) fn decrypt_shard(&self, bytes: &mut KVVec<u8>) -> peerfs_format::Result<()> {
        decrypt(bytes, self, "inode shard")?;
        bytes.copy_within(Iv::SIZE.., 0);
        bytes.truncate(bytes.len() - Iv::SIZE);
        Ok(())
    }

    /// The id of content that only those come to who have the key.
    pub(super) fn content_id(&self, list: &[u8]) -> [u8; 32] {
        self.content.hmac(list)
    }
}

impl Cipher for Realm {
    fn apply(&self, iv: &Iv, bytes: &mut [u8]) {
        xchacha20(&self.encryption, &iv.0, bytes);
    }
}

/// A key that is derived from another one: HKDF-Expand.
fn derive(key: &Secret, label: &[u8]) -> Result<Secret> {
    let mut data = KVec::with_capacity(label.len() + 1, GFP_KERNEL)?;
    data.extend_from_slice(label, GFP_KERNEL)?;
    data.push(1, GFP_KERNEL)?;
    key.derive(&data)
}

/// An id for the kernel's formatting.
pub(super) struct Hex<'a>(pub(super) &'a KeyId);

impl kernel::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        self.0
             .0
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(peerfs_realm)]
mod tests {
    use peerfs_format::encryption::known_answers::*;

    use super::*;

    fn known() -> Result<Secret> {
        let mut key = Secret::new()?;
        *key.bytes_mut() = KEY;
        Ok(key)
    }

    #[test]
    fn what_is_derived_and_decrypted_is_what_it_must_be() -> Result {
        let realm = Realm::new(&known()?, &KeyId(KEY_ID))?;
        let mut bytes = STORED;
        realm.apply(&Iv(IV), &mut bytes);
        assert_eq!(bytes, *PLAIN);
        Ok(())
    }

    #[test]
    fn a_key_that_is_called_as_another_one_is_refused() -> Result {
        let mut key = known()?;
        key.bytes_mut()[31] ^= 1;
        assert_eq!(Realm::new(&key, &KeyId(KEY_ID)).err(), Some(EKEYREJECTED));
        Ok(())
    }
}
