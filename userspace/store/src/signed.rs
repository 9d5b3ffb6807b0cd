// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images that kernels ask for: a file in `signed` for each image. They are not verified here.

use peerfs_format::{Digest, SignedFile, SIGNED_COUNT_MAX, SIGNED_MAX};

use crate::{index_file, layout, whole_file, Result, Store};

impl Store {
    /// The signatures of an image that kernels ask for, in DER, the newest first.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`](crate::Error::NotARegularFile), [`Error::Io`](crate::Error::Io).
    pub fn certified_signatures(&self, image: &Digest) -> Result<Vec<Vec<u8>>> {
        let bytes = whole_file::read(self.directory(), &layout::signed(image), SIGNED_MAX)?;
        let bytes = bytes.unwrap_or_default();
        let signatures = SignedFile::new(&bytes).take(SIGNED_COUNT_MAX);
        Ok(signatures.map(<[u8]>::to_vec).collect())
    }

    /// Puts signatures of an image, in DER, before those that are there. What is too many, or too much, is left out.
    ///
    /// # Errors
    /// [`Error::NotAStore`](crate::Error::NotAStore), [`Error::Io`](crate::Error::Io).
    pub fn add_certified_signatures(&self, image: &Digest, new: &[Vec<u8>]) -> Result<()> {
        let directory = self.directory();
        directory
            .make_directory(layout::SIGNED)
            .map_err(directory.failed("create", layout::SIGNED))?;
        // Or of two who add at once one's would be lost.
        let _guard = index_file::lock(directory)?;
        let known = self.certified_signatures(image).unwrap_or_default();
        let older = known.iter().filter(|old| !new.contains(old));
        let mut bytes = Vec::new();
        for signature in new.iter().chain(older).take(SIGNED_COUNT_MAX) {
            if (bytes.len() + signature.len()) as u64 <= SIGNED_MAX {
                bytes.extend_from_slice(signature);
            }
        }
        whole_file::replace(directory, &layout::signed(image), &bytes)
    }

    /// The images of which there are such signatures, in no order.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub(crate) fn signed_images(&self) -> Result<Vec<Digest>> {
        let names = self.directory().names(layout::SIGNED)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(content: u8) -> Vec<u8> {
        vec![0x30, 1, content]
    }

    #[test]
    fn the_newest_is_the_first_and_none_is_there_twice() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path()).unwrap();
        let [one, other] = [Digest([1; 32]), Digest([2; 32])];
        let add = |number| {
            store
                .add_certified_signatures(&one, &[signature(number)])
                .unwrap()
        };
        let found = |image| store.certified_signatures(image).unwrap();
        assert_eq!(found(&one), [] as [Vec<u8>; 0]);
        [1, 2, 1].into_iter().for_each(add);
        assert_eq!(found(&one), [signature(1), signature(2)]);
        assert_eq!(found(&other), [] as [Vec<u8>; 0]);
        (0..40).for_each(add);
        assert_eq!(found(&one).len(), SIGNED_COUNT_MAX);
        assert_eq!(found(&one)[0], signature(39));
        // What is damaged there hides nothing that comes.
        std::fs::write(folder.path().join(layout::signed(&one)), "garbage").unwrap();
        add(3);
        assert_eq!(found(&one), [signature(3)]);
        assert_eq!(store.signed_images().unwrap(), [one]);
    }
}
