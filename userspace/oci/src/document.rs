// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a registry or a layout has under a tag: an index or a manifest, with the descriptors in it (OCI's image
//! specification, and the schema 2 of Docker that it comes from).

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use peerfs_format::Digest;

use crate::children::Children;
use crate::descriptor::digest_of;
use crate::{media_type, Error, Result};

/// The media types that are understood, those wanted most first.
pub const DOCUMENT_TYPES: [&str; 4] = [
    OCI_INDEX,
    OCI_MANIFEST,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What PuzzleFS calls the metadata of an image.
const PUZZLEFS_METADATA: &str = "application/vnd.puzzlefs.image.rootfs.v1";
/// The most layers of a manifest.
const LAYERS_MAX: usize = 100_000;

/// An index or a manifest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Document {
    /// Leads to manifests, or to other indexes.
    Index(Children),
    /// Leads to blobs.
    Manifest {
        /// The configuration.
        config: BlobInfo,
        /// The layers, the lowest first.
        layers: Vec<BlobInfo>,
    },
}

/// What is said of a blob.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub length: u64,
    /// Its media type.
    pub media_type: String,
}

impl Document {
    /// Reads an index or a manifest, which says itself what it is.
    ///
    /// # Errors
    /// [`Error::Json`]; [`Error::Descriptor`] if a blob is named by another digest than a SHA-256 or if there are too
    /// many.
    pub fn parse(text: &[u8]) -> Result<Self> {
        // Whatever is an index has no layers, whatever it calls itself.
        let is_index = |text: &[u8]| -> Result<bool> {
            let value: serde_json::Value = serde_json::from_slice(text)?;
            Ok(value.get("manifests").is_some() && value.get("layers").is_none())
        };
        if is_index(text)? {
            let index: ImageIndex = serde_json::from_slice(text)?;
            return Ok(Document::Index(Children::new(&index)));
        }
        let manifest: ImageManifest = serde_json::from_slice(text)?;
        if manifest.layers().len() > LAYERS_MAX {
            return Err(Error::Descriptor(format!(
                "it has more than {LAYERS_MAX} layers"
            )));
        }
        let layers = manifest.layers().iter();
        Ok(Document::Manifest {
            config: BlobInfo::new(manifest.config())?,
            layers: layers.map(BlobInfo::new).collect::<Result<_>>()?,
        })
    }

    /// The media type that a document with these bytes has if it does not say.
    pub fn default_media_type(&self) -> &'static str {
        match self {
            Document::Index(_) => OCI_INDEX,
            Document::Manifest { .. } => OCI_MANIFEST,
        }
    }

    /// The metadata of the image of PuzzleFS that it leads to; None if it is not the manifest of one.
    pub fn puzzlefs_metadata(&self) -> Option<&BlobInfo> {
        match self {
            Document::Index(_) => None,
            Document::Manifest { layers, .. } => {
                layers.first().filter(|layer| layer.is_puzzlefs_metadata())
            }
        }
    }

    /// The peerfs manifest that it leads to directly; None if it is not the manifest of an artifact.
    pub fn peerfs_manifest(&self) -> Option<&BlobInfo> {
        match self {
            Document::Index(_) => None,
            Document::Manifest { layers, .. } => layers
                .iter()
                .find(|layer| layer.media_type == media_type::MANIFEST),
        }
    }
}

/// The media type that a document says that it has.
pub fn media_type_of(text: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    Some(value.get("mediaType")?.as_str()?.to_owned())
}

impl BlobInfo {
    /// Whether it is a blob of a peerfs image.
    pub fn is_of_peerfs(&self) -> bool {
        self.media_type.starts_with(media_type::PREFIX)
    }

    /// Whether it is the metadata of an image of PuzzleFS.
    pub fn is_puzzlefs_metadata(&self) -> bool {
        self.media_type == PUZZLEFS_METADATA
    }

    /// What a descriptor says.
    ///
    /// # Errors
    /// [`Error::Descriptor`] if its digest is no SHA-256.
    pub(crate) fn new(entry: &Descriptor) -> Result<Self> {
        let digest = digest_of(entry).ok_or_else(|| {
            let digest: String = entry.digest().to_string().chars().take(80).collect();
            Error::Descriptor(format!("{digest:?} is no SHA-256"))
        })?;
        Ok(BlobInfo {
            digest,
            length: entry.size(),
            media_type: entry.media_type().to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:5555555555555555555555555555555555555555555555555555555555555555";

    #[test]
    fn what_leads_on_is_found_whoever_wrote_it() {
        let list = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[
                {{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"{DIGEST}","size":7,
                  "platform":{{"os":"linux","architecture":"arm","variant":"v7"}}}},
                {{"mediaType":"x","digest":"sha512:{}","size":1}}]}}"#,
            "a".repeat(128)
        );
        let Ok(Document::Index(children)) = Document::parse(list.as_bytes()) else {
            panic!("{list}");
        };
        let children: Vec<_> = children.iter().collect();
        assert_eq!(children.len(), 1);
        let platform = children[0].platform.as_ref().unwrap();
        assert_eq!(platform.to_string(), "linux/arm/v7");
        assert_eq!(children[0].blob.length, 7);
        let layer = |digest: &str, media_type: &str| {
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":9}}"#)
        };
        let manifest = |layers: &str| {
            let config = layer(DIGEST, "application/vnd.oci.empty.v1+json");
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#)
        };
        let artifact = manifest(&layer(DIGEST, media_type::MANIFEST));
        let artifact = Document::parse(artifact.as_bytes()).unwrap();
        assert_eq!(artifact.peerfs_manifest().unwrap().length, 9);
        let ordinary = manifest(&layer(DIGEST, "application/vnd.oci.image.layer.v1.tar"));
        let ordinary = Document::parse(ordinary.as_bytes()).unwrap();
        assert_eq!(ordinary.peerfs_manifest(), None);
        // A layer that can't be verified must not be left out.
        let other = layer(&format!("sha512:{}", "a".repeat(128)), "x");
        let refused = Document::parse(manifest(&other).as_bytes());
        assert!(matches!(refused, Err(Error::Descriptor(_))), "{refused:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_an_end(text in "\\PC{0,60}|[\\[{}\\]\":,a-z0-9]{0,80}") {
            let _ = Document::parse(text.as_bytes());
        }
    }
}
