// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The keys of realms, encrypted for those who may have them: a file in `envelopes` for each realm, for all of its images. What
//! is in it is believed by nobody.

use peerfs_format::{Digest, KeyId, Manifest, METADATA_MAX};
use peerfs_realm::{Envelope, Grant, ENVELOPE_MAX};

use crate::{index_file, layout, whole_file, Error, Result, Store};

impl Store {
    /// The key that an image is encrypted with; None of a plain one.
    ///
    /// # Errors
    /// [`Error::BlobMissing`], [`Error::Format`], [`Error::Io`].
    pub fn key_of(&self, image: &Digest) -> Result<Option<KeyId>> {
        let manifest = self.read_metadata(image, METADATA_MAX)?;
        let manifest = Manifest::parse(&manifest).map_err(Error::format(*image))?;
        Ok(manifest.key_id())
    }

    /// The envelope of a realm, an empty one if there is none.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`], [`Error::Io`].
    pub fn envelope(&self, key: &KeyId) -> Result<Envelope> {
        let name = layout::envelope(key);
        let bytes = whole_file::read(self.directory(), &name, ENVELOPE_MAX as u64)?;
        Ok(bytes.map_or_else(Envelope::default, |bytes| Envelope::parse(&bytes)))
    }

    /// Puts grants of a realm's key before those that are there, of which the oldest make room.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Io`].
    pub fn add_grants(&self, key: &KeyId, new: &[Grant]) -> Result<()> {
        self.change_envelope(key, |known| known.with(new))
    }

    /// Puts grants of a realm's key in the place of all that are there.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Io`].
    pub fn replace_grants(&self, key: &KeyId, new: &[Grant]) -> Result<()> {
        self.change_envelope(key, |_| Envelope::of(new.iter().cloned()))
    }

    fn change_envelope(
        &self,
        key: &KeyId,
        change: impl FnOnce(Envelope) -> Envelope,
    ) -> Result<()> {
        let directory = self.directory();
        directory
            .make_directory(layout::ENVELOPES)
            .map_err(directory.failed("create", layout::ENVELOPES))?;
        // Or of two who add at once one's would be lost.
        let _guard = index_file::lock(directory)?;
        // What can't be read there hides nothing that comes.
        let changed = change(self.envelope(key).unwrap_or_default());
        let text = changed.to_text();
        whole_file::replace(directory, &layout::envelope(key), text.as_bytes())
    }

    /// The keys of realms of which there are envelopes, in no order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn enveloped_keys(&self) -> Result<Vec<KeyId>> {
        let names = self.directory().names(layout::ENVELOPES)?;
        let keys = names.iter().filter_map(|name| layout::parse_envelope(name));
        Ok(keys.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Collect, Keep};

    fn grant(content: &str) -> Grant {
        let text = format!(
            "-----BEGIN AGE ENCRYPTED FILE-----\n{content}\n-----END AGE ENCRYPTED FILE-----\n"
        );
        Grant::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn each_realm_has_an_envelope_of_its_own_which_goes_with_its_images() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path()).unwrap();
        let [one, other] = [KeyId([1; 16]), KeyId([2; 16])];
        assert_eq!(store.envelope(&one).unwrap(), Envelope::default());
        for content in ["AA", "BB", "AA"] {
            store.add_grants(&one, &[grant(content)]).unwrap();
        }
        let found = store.envelope(&one).unwrap();
        assert_eq!(found.grants(), [grant("AA"), grant("BB")]);
        assert_eq!(store.envelope(&other).unwrap(), Envelope::default());
        store.replace_grants(&one, &[grant("CC")]).unwrap();
        assert_eq!(store.envelope(&one).unwrap().grants(), [grant("CC")]);
        // What is damaged there hides nothing that comes.
        let file = folder.path().join(layout::envelope(&one));
        for damage in [vec![0xff; 100], vec![b'A'; 10 << 20]] {
            std::fs::write(&file, damage).unwrap();
            store.add_grants(&one, &[grant("DD")]).unwrap();
            assert_eq!(store.envelope(&one).unwrap().grants(), [grant("DD")]);
        }
        let stranger = folder.path().join(layout::ENVELOPES).join("stranger");
        std::fs::write(&stranger, "").unwrap();
        assert_eq!(store.enveloped_keys().unwrap(), [one]);
        store.collect(&Keep::default(), Collect::Really).unwrap();
        assert!(!file.exists() && stranger.exists());
    }
}
