// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What tags stood for when their registries were last asked: if these are gone, that still holds.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use peerfs_format::Digest;
use peerfs_oci::{Reference, RegistryReference};

/// Tags that are remembered.
const TAGS_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");

/// A file with a line for each tag: its digest, and the reference. The one that was asked for last is last.
pub(crate) struct Tags {
    path: PathBuf,
    known: Mutex<LruCache<String, Digest>>,
}

impl Tags {
    /// Those of a file, which need not be there. What is no line of it is left out.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut known = LruCache::new(TAGS_MAX);
        for line in text.lines() {
            let entry = line.split_once(' ').and_then(|(digest, reference)| {
                let is_reference = matches!(reference.parse(), Ok(Reference::Registry(_)));
                Some((digest.parse().ok()?, is_reference.then_some(reference)?))
            });
            if let Some((digest, reference)) = entry {
                known.put(reference.to_owned(), digest);
            }
        }
        Ok(Tags {
            path: path.to_owned(),
            known: Mutex::new(known),
        })
    }

    /// What a tag stood for.
    pub(crate) fn find(&self, reference: &RegistryReference) -> Option<Digest> {
        self.lock().get(&reference.to_string()).copied()
    }

    /// Remembers what a tag stands for. Blocks on the disk.
    ///
    /// # Errors
    /// What the system says; it is known until the process ends, all the same.
    pub(crate) fn note(&self, reference: &RegistryReference, digest: Digest) -> io::Result<()> {
        // Held while it is written, so that the last one to write knows all.
        let mut known = self.lock();
        if known.put(reference.to_string(), digest) == Some(digest) {
            return Ok(());
        }
        let lines = known.iter().rev();
        let text: String = lines
            .map(|(reference, digest)| format!("{digest} {reference}\n"))
            .collect();
        let new = self.path.with_extension("tmp");
        fs::write(&new, text)?;
        fs::rename(new, &self.path)
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<String, Digest>> {
        // A cache is valid after every step.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tags");
        let reference = |text: &str| match text.parse().unwrap() {
            Reference::Registry(reference) => reference,
            other => panic!("{other:?}"),
        };
        let (a, b) = (reference("a.example/x:1"), reference("a.example/x:2"));
        let digest = |letter: &str| letter.repeat(64).parse::<Digest>().unwrap();
        let tags = Tags::load(&path).unwrap();
        tags.note(&a, digest("1")).unwrap();
        tags.note(&a, digest("2")).unwrap();
        tags.note(&b, digest("3")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let damaged = [text.as_bytes(), b"nonsense\xff\n12 a.example/x:3\n"].concat();
        fs::write(&path, damaged).unwrap();
        let tags = Tags::load(&path).unwrap();
        assert_eq!(tags.find(&a), Some(digest("2")));
        assert_eq!(tags.find(&b), Some(digest("3")));
        assert_eq!(tags.find(&reference("a.example/x:3")), None);
    }
}
