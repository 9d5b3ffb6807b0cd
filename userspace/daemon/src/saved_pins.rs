// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The pins of the command `pin`, in a file of the state directory: a store is there to be copied, and whoever copies
//! one does not want what somebody else has pinned.
//!
//! ```text
//! {"version":1,"pins":["<hex>",...]}
//! ```

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use peerfs_format::Digest;
use serde::{Deserialize, Serialize};

use crate::state_file;

/// The most images that are pinned.
const PINS_MAX: usize = 1024;
/// The most bytes of the file: as many pins, however they are written.
const LENGTH_MAX: u64 = 1024 * 1024;
/// The version of the file.
const VERSION: u32 = 1;

/// Why pins can't be read or saved.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// What is in the file is not understood.
    #[error(
        "the pins in {} are not known, for it is not valid: mend it, or remove it and pin the images again, and \
         start peerfsd anew",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        source: InvalidPins,
    },
    /// The system refused something.
    #[error("cannot use the pins in {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many.
    #[error("{PINS_MAX} images are pinned already; `peerfs unpin` one that need not be kept")]
    Full,
}

/// What is wrong with a file of pins.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPins {
    /// It is too long.
    #[error("it has more than {LENGTH_MAX} bytes")]
    TooLong,
    /// It is no JSON, or not of this form.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is of another version.
    #[error("its version is {0}, not {VERSION}")]
    Version(u32),
    /// What should be a digest is none.
    #[error("{0:?} is no digest")]
    Digest(String),
    /// There are too many.
    #[error("it has more than {PINS_MAX} pins")]
    TooMany,
}

/// The form of the file.
#[derive(Deserialize, Serialize)]
struct Content {
    version: u32,
    pins: Vec<String>,
}

/// The pins, and the file in which they are.
pub struct SavedPins {
    path: PathBuf,
    pins: BTreeSet<Digest>,
}

impl SavedPins {
    /// The pins in this file, which need not exist yet.
    ///
    /// # Errors
    /// If there is one that can't be read or is not valid.
    pub fn load(path: &Path) -> Result<Self, PinsError> {
        let path = path.to_owned();
        let pins = match state_file::read(&path, LENGTH_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(source) => return Err(PinsError::Io { path, source }),
            Ok(text) => parse(&text),
        };
        match pins {
            Ok(pins) => Ok(SavedPins { path, pins }),
            Err(source) => Err(PinsError::Invalid { path, source }),
        }
    }

    /// The manifests of the images.
    pub fn pins(&self) -> &BTreeSet<Digest> {
        &self.pins
    }

    /// Adds a pin, and saves them.
    ///
    /// # Errors
    /// If there are too many, or if they can't be saved. They are as before then.
    pub fn add(&mut self, manifest: Digest) -> Result<(), PinsError> {
        let mut pins = self.pins.clone();
        if !pins.insert(manifest) {
            return Ok(());
        }
        if pins.len() > PINS_MAX {
            return Err(PinsError::Full);
        }
        self.save(pins)
    }

    /// Removes a pin, saves them, and says whether it was there.
    ///
    /// # Errors
    /// If they can't be saved. They are as before then.
    pub fn remove(&mut self, manifest: &Digest) -> Result<bool, PinsError> {
        let mut pins = self.pins.clone();
        if !pins.remove(manifest) {
            return Ok(false);
        }
        self.save(pins)?;
        Ok(true)
    }

    fn save(&mut self, pins: BTreeSet<Digest>) -> Result<(), PinsError> {
        state_file::replace(&self.path, &to_text(&pins)).map_err(|source| PinsError::Io {
            path: self.path.clone(),
            source,
        })?;
        self.pins = pins;
        Ok(())
    }
}

fn parse(text: &[u8]) -> Result<BTreeSet<Digest>, InvalidPins> {
    if text.len() as u64 > LENGTH_MAX {
        return Err(InvalidPins::TooLong);
    }
    let content: Content = serde_json::from_slice(text)?;
    if content.version != VERSION {
        return Err(InvalidPins::Version(content.version));
    }
    if content.pins.len() > PINS_MAX {
        return Err(InvalidPins::TooMany);
    }
    let parse = |text: String| text.parse().map_err(|_| InvalidPins::Digest(text));
    content.pins.into_iter().map(parse).collect()
}

fn to_text(pins: &BTreeSet<Digest>) -> Vec<u8> {
    let content = Content {
        version: VERSION,
        pins: pins.iter().map(Digest::to_string).collect(),
    };
    let mut text =
        serde_json::to_vec(&content).expect("strings and a number can be written as JSON");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn pins_are_there_again_and_a_failure_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pins.json");
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        let mut saved = SavedPins::load(&path).unwrap();
        saved.add(one).unwrap();
        saved.add(two).unwrap();
        assert!(saved.remove(&one).unwrap());
        assert!(!saved.remove(&one).unwrap());
        assert_eq!(SavedPins::load(&path).unwrap().pins(), &[two].into());
        // Nothing can be put into the place of a directory with something in it.
        fs::create_dir_all(path.with_extension("new").join("x")).unwrap();
        assert!(saved.add(one).is_err() && saved.remove(&two).is_err());
        assert_eq!(saved.pins(), &[two].into());
        assert_eq!(SavedPins::load(&path).unwrap().pins(), &[two].into());
    }

    #[test]
    fn what_is_not_valid_is_refused_with_the_reason() {
        let hex = "ab".repeat(32);
        let many = vec![format!("\"{hex}\""); PINS_MAX + 1].join(",");
        for (text, named) in [
            ("", "EOF"),
            ("{\"version\":1,\"pins\":", "EOF"),
            ("{\"version\":2,\"pins\":[]}", "its version is 2"),
            (
                "{\"version\":1,\"pins\":[\"latest\"]}",
                "\"latest\" is no digest",
            ),
            ("{\"version\":1,\"pins\":[7]}", "invalid type"),
            ("[]", "invalid"),
            (
                &format!("{{\"version\":1,\"pins\":[{many}]}}"),
                "more than 1024 pins",
            ),
            (&"[".repeat(100_000), "invalid type"),
            (
                &" ".repeat(LENGTH_MAX as usize + 1),
                "more than 1048576 bytes",
            ),
        ] {
            let reason = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(reason.contains(named), "{named}: {reason}");
        }
        let pins: BTreeSet<_> = [Digest([7; 32])].into();
        assert_eq!(parse(&to_text(&pins)).unwrap(), pins);
    }

    #[test]
    fn something_else_in_the_place_of_the_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [&fifo, &link, &folder.path().to_owned()] {
            assert!(matches!(SavedPins::load(path), Err(PinsError::Io { .. })));
        }
        let device = SavedPins::load(Path::new("/dev/zero"));
        assert!(matches!(device, Err(PinsError::Io { .. })));
    }
}
