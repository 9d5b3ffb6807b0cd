// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A publisher's list of the images that are to be kept. It is a blob like those of images: a record of the name
//! [`ACCOUNT_NAME`], signed by the publisher, says which one counts (Documentation/replicas.md).

use std::collections::BTreeSet;

use peerfs_format::Digest;
use peerfs_names::{Name, PublisherKey, REPLICAS_MAX};

/// What the name of an account is called behind the publisher's key.
pub const ACCOUNT_NAME: &str = "peerfs-account";
/// The images of an account.
pub const IMAGES_MAX: usize = 1024;
/// Copies of an image, unless somebody says otherwise.
pub const COPIES: u8 = 3;
/// What an account begins with: its kind and the version of its form.
const MAGIC: [u8; 4] = *b"PFA\x01";
/// Bytes of an entry.
const ENTRY_SIZE: usize = 32 + 8 + 1;
/// The most bytes of an account.
pub const ACCOUNT_MAX: usize = MAGIC.len() + IMAGES_MAX * ENTRY_SIZE;

/// Why bytes are no account.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidAccount {
    /// It has too many images, or a part of one.
    #[error("the account has another length than one of at most {IMAGES_MAX} images")]
    Length,
    /// It is something else, or of another version.
    #[error("this is no account, or one of a newer version of peerfs")]
    Kind,
    /// An image is there twice.
    #[error("the account has image {0} twice")]
    Twice(Digest),
    /// The copies of an image are too many or none.
    #[error("the account wants {copies} copies of image {image}; 1 to {REPLICAS_MAX} can be kept")]
    Copies {
        /// The image.
        image: Digest,
        /// How many.
        copies: u8,
    },
}

/// An image that is to be kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its manifest.
    pub image: Digest,
    /// Bytes of its packs, as stored. One that has more is not kept.
    pub bytes: u64,
    /// How many willing nodes are to keep it.
    pub copies: u8,
}

/// The images that a publisher wants to be kept, in the order in which they were added.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Account {
    entries: Vec<Entry>,
}

impl Account {
    /// An account of these images.
    ///
    /// # Errors
    /// [`InvalidAccount`].
    pub fn new(entries: Vec<Entry>) -> Result<Self, InvalidAccount> {
        if entries.len() > IMAGES_MAX {
            return Err(InvalidAccount::Length);
        }
        let mut seen = BTreeSet::new();
        for Entry { image, copies, .. } in &entries {
            if !seen.insert(image.0) {
                return Err(InvalidAccount::Twice(*image));
            }
            if !(1..=REPLICAS_MAX).contains(copies) {
                let (image, copies) = (*image, *copies);
                return Err(InvalidAccount::Copies { image, copies });
            }
        }
        Ok(Account { entries })
    }

    /// The account in these bytes, of which there are no more.
    ///
    /// # Errors
    /// [`InvalidAccount`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidAccount> {
        if bytes.len() > ACCOUNT_MAX {
            return Err(InvalidAccount::Length);
        }
        let entries = bytes.strip_prefix(&MAGIC).ok_or(InvalidAccount::Kind)?;
        let read = |bytes: &[u8]| {
            let (image, bytes) = bytes.split_first_chunk()?;
            let (length, copies) = bytes.split_first_chunk()?;
            Some(Entry {
                image: Digest(*image),
                bytes: u64::from_le_bytes(*length),
                copies: *copies.first()?,
            })
        };
        let chunks = entries.chunks_exact(ENTRY_SIZE);
        if !chunks.remainder().is_empty() {
            return Err(InvalidAccount::Length);
        }
        let entries: Option<Vec<Entry>> = chunks.map(read).collect();
        Account::new(entries.ok_or(InvalidAccount::Length)?)
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.image.0);
            bytes.extend_from_slice(&entry.bytes.to_le_bytes());
            bytes.push(entry.copies);
        }
        bytes
    }

    /// Its images.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many of its images, from the first one on, have so many bytes together at most. What was added last is what a
    /// publisher is refused who wants too much, and nobody gives up what was kept before.
    pub fn within(&self, grant: u64) -> usize {
        let mut left = grant;
        let fits = |entry: &&Entry| match left.checked_sub(entry.bytes) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        self.entries.iter().take_while(fits).count()
    }
}

/// The name whose records say which account of a publisher counts.
pub fn account_name(publisher: PublisherKey) -> Name {
    Name::new(publisher, ACCOUNT_NAME).expect("the name is allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(image: u8, bytes: u64, copies: u8) -> Entry {
        let image = Digest([image; 32]);
        Entry {
            image,
            bytes,
            copies,
        }
    }

    #[test]
    fn an_account_has_one_form() {
        let account = Account::new(vec![entry(2, 5, 3), entry(1, u64::MAX, 8)]).unwrap();
        let bytes = account.to_bytes();
        assert_eq!(Account::parse(&bytes), Ok(account));
        for length in 0..bytes.len() {
            let is_whole = length == MAGIC.len() || length == MAGIC.len() + ENTRY_SIZE;
            assert_eq!(Account::parse(&bytes[..length]).is_ok(), is_whole);
        }
        let many = (0..=IMAGES_MAX).flat_map(|_| [0; ENTRY_SIZE]);
        let many: Vec<u8> = MAGIC.into_iter().chain(many).collect();
        assert_eq!(Account::parse(&many), Err(InvalidAccount::Length));
        for (entries, named) in [
            (vec![entry(1, 1, 1), entry(1, 2, 1)], "twice"),
            (vec![entry(1, 1, 0)], "0 copies"),
            (vec![entry(1, 1, 9)], "9 copies"),
        ] {
            let problem = Account::new(entries).unwrap_err().to_string();
            assert!(problem.contains(named), "{problem}");
        }
    }

    #[test]
    fn what_is_over_the_grant_is_what_was_added_last() {
        let sizes = [10, 20, u64::MAX, 1];
        let entries = (1..)
            .zip(sizes)
            .map(|(image, bytes)| entry(image, bytes, 3));
        let account = Account::new(entries.collect()).unwrap();
        for (grant, fit) in [(0, 0), (9, 0), (10, 1), (29, 1), (30, 2), (1000, 2)] {
            assert_eq!(account.within(grant), fit, "{grant}");
        }
        assert_eq!(account_name(PublisherKey([1; 32])).text(), ACCOUNT_NAME);
    }
}
