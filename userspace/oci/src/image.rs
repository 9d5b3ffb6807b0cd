// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image as registries and OCI's tools have it: an OCI image index that leads to two OCI image manifests, the one
//! for container runtimes and the one with all blobs.

use oci_spec::image::{
    Arch, Descriptor, ImageIndex, ImageIndexBuilder, ImageManifest, MediaType, Os, Platform,
    PlatformBuilder, SCHEMA_VERSION,
};
use peerfs_format::Digest;

use crate::artifact::{artifact, NO_CONFIG};
use crate::descriptor::{describe, digest_of};
use crate::runnable::Runnable;
use crate::{media_type, Architecture, ImageBlobs, Result, RuntimeConfig};

/// The most bytes of an image's OCI index that are read. One that leads to images for twenty architectures has 10 KiB.
pub const OCI_INDEX_MAX: u64 = 1024 * 1024;
/// The most OCI image manifests of an index that are looked at.
const CHILDREN_MAX: usize = 64;

/// What OCI's tools need of an image besides its own blobs: the same bytes for the same image, architecture and
/// configuration, whatever machine makes them.
#[derive(Debug)]
pub struct OciImage {
    /// The blobs that the index leads to, whose digests are their names.
    pub blobs: Vec<Vec<u8>>,
    /// The OCI image index.
    pub index: Vec<u8>,
}

impl OciImage {
    /// The OCI form of an image, whose programs are for this architecture and are run with this configuration.
    ///
    /// # Errors
    /// [`crate::Error::TooLarge`] if there are too many blobs.
    pub fn new(
        image: &ImageBlobs<'_>,
        architecture: &Architecture,
        config: &RuntimeConfig,
    ) -> Result<Self> {
        let runnable = Runnable::new(image.manifest, architecture, config)?;
        let artifact = artifact(image)?;
        // No field that old tools do not know (artifactType of a descriptor): they would leave it out of their copy,
        // which then had another digest.
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(vec![
                child(&runnable.manifest, architecture.as_str(), Os::Linux),
                child(&artifact, "unknown", Os::Other("unknown".to_owned())),
            ])
            .build()
            .expect("all mandatory fields are set");
        Ok(OciImage {
            blobs: vec![
                runnable.layer,
                runnable.config,
                runnable.manifest,
                NO_CONFIG.to_vec(),
                artifact,
            ],
            index: serde_json::to_vec(&index)?,
        })
    }
}

/// The entry of an OCI image manifest. Nobody takes one for an unknown platform for an image that can be run.
fn child(manifest: &[u8], architecture: &str, os: Os) -> Descriptor {
    let platform: Platform = PlatformBuilder::default()
        .architecture(Arch::from(architecture))
        .os(os)
        .build()
        .expect("all mandatory fields are set");
    let mut child = describe(MediaType::ImageManifest, manifest);
    child.set_platform(Some(platform));
    child
}

/// The OCI image manifests that an image's OCI index leads to, in its order, as far as they are looked at. Indexes in
/// it are none: so there are no cycles, and no depths.
///
/// # Errors
/// [`crate::Error::Json`].
pub fn oci_manifests(index: &[u8]) -> Result<Vec<Digest>> {
    let index: ImageIndex = serde_json::from_slice(index)?;
    let manifests = index.manifests().iter();
    Ok(manifests
        .filter(|entry| *entry.media_type() == MediaType::ImageManifest)
        .filter_map(digest_of)
        .take(CHILDREN_MAX)
        .collect())
}

/// The blobs that an OCI image manifest leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OciManifest {
    /// The peerfs manifest; None if it is none of the artifact's.
    pub manifest: Option<Digest>,
    /// The configuration.
    pub config: Option<Digest>,
    /// The first layer that is no blob of a peerfs image.
    pub other_layer: Option<Digest>,
}

impl OciManifest {
    /// Reads an OCI image manifest.
    ///
    /// # Errors
    /// [`crate::Error::Json`].
    pub fn parse(text: &[u8]) -> Result<Self> {
        let manifest: ImageManifest = serde_json::from_slice(text)?;
        let first = |is_wanted: &dyn Fn(&str) -> bool| {
            let layers = manifest.layers().iter();
            layers
                .filter(|layer| is_wanted(layer.media_type().as_ref()))
                .find_map(digest_of)
        };
        Ok(OciManifest {
            manifest: first(&|media_type| media_type == media_type::MANIFEST),
            config: digest_of(manifest.config()),
            other_layer: first(&|media_type| !media_type.starts_with(media_type::PREFIX)),
        })
    }
}

#[cfg(test)]
mod tests {
    use peerfs_format::PackRecord;

    use super::*;
    use crate::descriptor::sha256;
    use crate::Error;

    fn image(packs: &[PackRecord]) -> ImageBlobs<'_> {
        ImageBlobs {
            manifest: &[7; 200],
            blob_table: Digest::default(),
            blob_table_length: 1,
            shards: &[],
            packs,
        }
    }

    const PACK: PackRecord = PackRecord {
        digest: Digest([8; 32]),
        index_digest: Digest([9; 32]),
        contents_digest: Digest([10; 32]),
        stored_length: 1,
        logical_length: 1,
        index_length: 1,
        chunk_count: 1,
    };

    #[test]
    fn an_index_leads_to_all() {
        let arm: Architecture = "arm64".parse().unwrap();
        let config = RuntimeConfig::default();
        let oci = OciImage::new(&image(&[PACK]), &arm, &config).unwrap();
        let children = oci_manifests(&oci.index).unwrap();
        let blob = |digest: &Digest| {
            oci.blobs
                .iter()
                .find(|blob| sha256(blob) == *digest)
                .unwrap()
        };
        let [runnable, artifact] = [0, 1].map(|child: usize| blob(&children[child]));
        let parsed = OciManifest::parse(artifact).unwrap();
        assert_eq!(parsed.manifest, Some(sha256(&[7; 200])));
        assert_eq!(blob(&parsed.config.unwrap()), b"{}");
        assert_eq!(parsed.other_layer, None);
        let text = String::from_utf8(artifact.clone()).unwrap();
        for blob in [PACK.digest, PACK.index_digest, PACK.contents_digest] {
            assert!(text.contains(&blob.to_string()), "{text}");
        }
        let parsed = OciManifest::parse(runnable).unwrap();
        assert_eq!(parsed.manifest, None);
        assert!(blob(&parsed.other_layer.unwrap()).starts_with(&[0x1f, 0x8b]));
        let config = String::from_utf8(blob(&parsed.config.unwrap()).clone()).unwrap();
        assert!(config.contains(r#""architecture":"arm64""#), "{config}");
    }

    /// The bytes are a promise: this test must pass on machines of all architectures.
    #[test]
    fn an_image_is_the_same_wherever_it_is_made() {
        let make = |config: &RuntimeConfig| {
            OciImage::new(&image(&[PACK]), &Architecture::unknown(), config).unwrap()
        };
        let index = make(&RuntimeConfig::default()).index;
        assert_eq!(
            sha256(&index).to_string(),
            "a5c577b3781ccc782c09b40d4326203ff71fc3d1977f257e88399dbdfb65944f"
        );
        let mut config = RuntimeConfig::default();
        let labels = |from: u32| (from..from + 50).map(|label| (label.to_string(), String::new()));
        config.set_labels(Some(labels(0).chain(labels(50)).collect()));
        let index = make(&config).index;
        config.set_labels(Some(labels(50).chain(labels(0)).collect()));
        assert!(index == make(&config).index);
    }

    #[test]
    fn what_could_not_be_read_is_not_written() {
        let packs = vec![PACK; 60_000];
        let config = RuntimeConfig::default();
        let refused = OciImage::new(&image(&packs), &Architecture::unknown(), &config);
        assert!(
            matches!(refused, Err(Error::TooLarge { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn of_an_index_only_some_manifests_are_taken() {
        let entry = |kind: &str, digest: &str| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.{kind}.v1+json","digest":"{digest}","size":1}}"#
            )
        };
        let index = |entries: &[String]| {
            format!(
                r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
                entries.join(",")
            )
        };
        let digest = format!("sha256:{}", Digest([1; 32]));
        let other = format!("sha512:{}", "1".repeat(128));
        let some = [
            entry("index", &digest),
            entry("manifest", &other),
            entry("manifest", &digest),
        ];
        let found = oci_manifests(index(&some).as_bytes()).unwrap();
        assert_eq!(found, [Digest([1; 32])]);
        let many = vec![entry("manifest", &digest); 5000];
        let found = oci_manifests(index(&many).as_bytes()).unwrap();
        assert_eq!(found.len(), CHILDREN_MAX);
        for wrong in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"manifests":{}}"#,
            &"[".repeat(100_000),
        ] {
            assert!(oci_manifests(wrong.as_bytes()).is_err(), "{wrong:.20}");
            assert!(OciManifest::parse(wrong.as_bytes()).is_err(), "{wrong:.20}");
        }
    }
}
