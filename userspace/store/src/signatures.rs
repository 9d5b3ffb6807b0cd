// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures that images of registries came with, for who mounts them where there is a policy. They are not verified here,
//! and whoever can write to the store can remove them. A line for each: the digest of the OCI index or manifest, what was
//! signed and the signature, both in Base64.

use data_encoding::BASE64;
use peerfs_format::{Digest, METADATA_MAX};

use crate::{index_file, layout, whole_file, Result, Store};

/// The most that are kept; the oldest ones go.
const SIGNATURES_MAX: usize = 1024;
/// The most bytes of a line: of larger ones nothing is noted. What is signed may have 64 KiB, which are 86 in Base64.
const LINE_MAX: usize = 96 * 1024;
/// The most bytes of all; the oldest ones go.
const TEXT_MAX: usize = METADATA_MAX as usize;

/// A signature that was noted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotedSignature {
    /// The OCI index or manifest that it is said to be of.
    pub image: Digest,
    /// What was signed.
    pub payload: Vec<u8>,
    /// The signature of that.
    pub signature: Vec<u8>,
}

impl Store {
    /// Notes signatures of images that have come. Those of images that are not here any more are given up.
    ///
    /// # Errors
    /// [`Error::NotAStore`](crate::Error::NotAStore), [`Error::Io`](crate::Error::Io).
    pub fn note_signatures(&self, noted: &[NotedSignature]) -> Result<()> {
        // Or of two who pull at once one's would be lost.
        let _guard = index_file::lock(self.directory())?;
        let mut all = self.signatures()?;
        all.retain(|old| self.has_blob(&old.image) && !noted.contains(old));
        all.extend_from_slice(noted);
        let lines = all.iter().map(NotedSignature::to_line);
        let lines: Vec<String> = lines.filter(|line| line.len() <= LINE_MAX).collect();
        let mut room = TEXT_MAX;
        let fits = |line: &&String| {
            let left = room.checked_sub(line.len());
            room = left.unwrap_or_default();
            left.is_some()
        };
        let last = lines.iter().rev().take(SIGNATURES_MAX).take_while(fits);
        let first = lines.len() - last.count();
        let text = lines.get(first..).unwrap_or_default().concat();
        whole_file::replace(self.directory(), layout::SIGNATURES, text.as_bytes())
    }

    /// The signatures that were noted, as far as that is understood.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn signatures(&self) -> Result<Vec<NotedSignature>> {
        let text = whole_file::read(self.directory(), layout::SIGNATURES, METADATA_MAX)?;
        let text = text.unwrap_or_default();
        let lines = text.split(|&byte| byte == b'\n');
        Ok(lines.filter_map(NotedSignature::parse).collect())
    }
}

impl NotedSignature {
    fn to_line(&self) -> String {
        let [payload, signature] =
            [&self.payload, &self.signature].map(|bytes| BASE64.encode(bytes));
        format!("{} {payload} {signature}\n", self.image)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let image = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let mut bytes = || BASE64.decode(fields.next()?).ok();
        Some(NotedSignature {
            image,
            payload: bytes()?,
            signature: bytes()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_are_noted_at_once_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let image = Store::create(folder.path())
            .unwrap()
            .add_blob(b"an index")
            .unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let store = Store::open(folder.path()).unwrap();
                scope.spawn(move || {
                    for round in 0..8 {
                        let noted = NotedSignature {
                            image,
                            payload: vec![number, round],
                            signature: vec![0; 70],
                        };
                        store.note_signatures(&[noted]).unwrap();
                    }
                });
            }
        });
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.signatures().unwrap().len(), 64);
    }

    #[test]
    fn as_many_are_kept_as_there_is_room_for_and_those_of_images_that_are_here() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path()).unwrap();
        assert_eq!(store.signatures().unwrap(), []);
        let here = store.add_blob(b"an index").unwrap();
        let noted = |image, number: usize| NotedSignature {
            image,
            payload: number.to_le_bytes().to_vec(),
            signature: vec![0; 70],
        };
        store
            .note_signatures(&[noted(Digest([1; 32]), 0), noted(here, 1)])
            .unwrap();
        assert_eq!(store.signatures().unwrap().len(), 2);
        store.note_signatures(&[noted(here, 1)]).unwrap();
        assert_eq!(store.signatures().unwrap(), [noted(here, 1)]);
        let many: Vec<_> = (0..SIGNATURES_MAX + 5)
            .map(|number| noted(here, number))
            .collect();
        store.note_signatures(&many).unwrap();
        assert_eq!(store.signatures().unwrap(), many[5..]);
        let large = |length, number| NotedSignature {
            payload: vec![0; length],
            ..noted(here, number)
        };
        store.note_signatures(&[large(LINE_MAX, 0)]).unwrap();
        assert_eq!(store.signatures().unwrap().len(), SIGNATURES_MAX);
        // The longest that is valid, and as many as a file may have bytes.
        let longest = |number: usize| {
            let mut longest = large(64 * 1024, 0);
            longest.payload[..8].copy_from_slice(&number.to_le_bytes());
            longest
        };
        store.note_signatures(&[longest(0)]).unwrap();
        assert!(store.signatures().unwrap().contains(&longest(0)));
        let many: Vec<_> = (1..=200).map(longest).collect();
        store.note_signatures(&many).unwrap();
        let kept = store.signatures().unwrap();
        assert!(kept.len() > 180 && kept == many[200 - kept.len()..]);
        // Whatever somebody else has written there.
        let file = folder.path().join(layout::SIGNATURES);
        for text in ["\n\n", "x y z\n", "\u{0} \n", &"a ".repeat(1 << 20)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(store.signatures().unwrap(), []);
        }
    }
}
