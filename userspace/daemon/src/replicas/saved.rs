// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is remembered of replicas over a restart: the images that are kept for others, in a file; of each publisher the account
//! that was accepted last, and the proof if it has signed two.
//!
//! ```text
//! kept.json        {"version":1,"images":{"<hex>":BYTES,...}}
//! KEY.account      an account
//! KEY.fraud        {"version":1,"records":["<base64>","<base64>"]}
//! ```

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use peerfs_format::Digest;
use peerfs_names::{PublisherKey, SignedRecord};
use peerfs_replica::account::{Account, ACCOUNT_MAX};
use serde::{Deserialize, Serialize};

use crate::state_file;

/// The version of the files.
const VERSION: u32 = 1;
/// The most bytes of one.
const LENGTH_MAX: u64 = 1024 * 1024;
const KEPT: &str = "kept.json";

/// Why what is remembered can't be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}; mend it, or remove it and start peerfsd anew", path.display())]
pub struct SavedError {
    path: PathBuf,
    source: io::Error,
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

#[derive(Deserialize, Serialize)]
struct Kept {
    version: u32,
    images: BTreeMap<String, u64>,
}

#[derive(Deserialize, Serialize)]
struct Fraud {
    version: u32,
    records: [String; 2],
}

impl Folder {
    /// Opens the folder, which is made if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Self, SavedError> {
        let make = DirBuilder::new().recursive(true).mode(0o700).create(path);
        make.map_err(|source| SavedError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Folder(path.to_owned()))
    }

    /// The images that are kept for others, with the bytes of each.
    pub(super) fn kept(&self) -> Result<BTreeMap<Digest, u64>, SavedError> {
        let path = self.0.join(KEPT);
        let parse = |text: Vec<u8>| {
            let kept: Kept = serde_json::from_slice(&text)?;
            let image = |(digest, bytes): (String, u64)| {
                let digest = digest
                    .parse()
                    .map_err(|_| invalid("an image is no digest"))?;
                Ok((digest, bytes))
            };
            match kept.version {
                VERSION => kept.images.into_iter().map(image).collect(),
                _ => Err(invalid("it is of another version")),
            }
        };
        let read = match state_file::read(&path, LENGTH_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            read => read.and_then(parse),
        };
        read.map_err(|source| SavedError { path, source })
    }

    /// Remembers the images that are kept for others. Blocks on the disk.
    pub(super) fn save_kept(&self, images: &BTreeMap<Digest, u64>) -> Result<(), SavedError> {
        let kept = Kept {
            version: VERSION,
            images: images
                .iter()
                .map(|(image, bytes)| (image.to_string(), *bytes))
                .collect(),
        };
        let text = serde_json::to_vec(&kept).expect("strings and numbers can be written as JSON");
        self.save(KEPT.to_owned(), &text)
    }

    /// The account of a publisher that was accepted last, if there is one.
    pub(super) fn account(&self, publisher: PublisherKey) -> Option<(Vec<u8>, Account)> {
        let path = self.0.join(format!("{publisher}.account"));
        let bytes = state_file::read(&path, ACCOUNT_MAX as u64).ok()?;
        let account = Account::parse(&bytes).ok()?;
        Some((bytes, account))
    }

    /// Remembers an account that is accepted. Blocks on the disk.
    pub(super) fn save_account(
        &self,
        publisher: PublisherKey,
        bytes: &[u8],
    ) -> Result<(), SavedError> {
        self.save(format!("{publisher}.account"), bytes)
    }

    /// Whether a publisher has signed two accounts for one place.
    pub(super) fn is_fraud(&self, publisher: PublisherKey) -> bool {
        self.fraud_path(publisher).exists()
    }

    /// Where the proof of that is.
    pub(super) fn fraud_path(&self, publisher: PublisherKey) -> PathBuf {
        self.0.join(format!("{publisher}.fraud"))
    }

    /// Remembers that a publisher has signed two accounts for one place, with the proof. Blocks on the disk.
    pub(super) fn save_fraud(
        &self,
        publisher: PublisherKey,
        records: &[SignedRecord; 2],
    ) -> Result<(), SavedError> {
        let fraud = Fraud {
            version: VERSION,
            records: records
                .each_ref()
                .map(|record| BASE64.encode(record.bytes())),
        };
        let text = serde_json::to_vec(&fraud).expect("strings can be written as JSON");
        self.save(format!("{publisher}.fraud"), &text)
    }

    fn save(&self, name: String, bytes: &[u8]) -> Result<(), SavedError> {
        let path = self.0.join(name);
        state_file::replace(&path, bytes).map_err(|source| SavedError { path, source })
    }
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_known_again_and_what_is_damaged_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let saved = Folder::open(&folder.path().join("replicas")).unwrap();
        assert_eq!(saved.kept().unwrap(), BTreeMap::new());
        let images = BTreeMap::from([(Digest([1; 32]), 7), (Digest([2; 32]), u64::MAX)]);
        saved.save_kept(&images).unwrap();
        assert_eq!(saved.kept().unwrap(), images);
        for text in [
            "{}",
            "{\"version\":2,\"images\":{}}",
            "{\"version\":1,\"images\":{\"x\":1}}",
        ] {
            std::fs::write(folder.path().join("replicas").join(KEPT), text).unwrap();
            let problem = saved.kept().unwrap_err().to_string();
            assert!(problem.contains("mend it"), "{problem}");
        }
        let (one, other) = (PublisherKey([1; 32]), PublisherKey([2; 32]));
        saved
            .save_account(one, &Account::default().to_bytes())
            .unwrap();
        assert!(saved.account(one).is_some() && saved.account(other).is_none());
        std::fs::write(folder.path().join(format!("replicas/{one}.account")), "x").unwrap();
        assert!(saved.account(one).is_none() && !saved.is_fraud(one));
    }
}
