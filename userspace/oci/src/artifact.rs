// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image as an OCI artifact: an OCI image manifest whose layers are the blobs.

use oci_spec::image::{
    Arch, Config, Descriptor, ImageConfiguration, ImageManifest, ImageManifestBuilder, MediaType,
    Os, RootFs, Sha256Digest, SCHEMA_VERSION,
};
use peerfs_format::{Digest, PackRecord, ShardRecord};
use sha2::{Digest as _, Sha256};

use crate::error::check_length;
use crate::{media_type, Architecture, Result};

/// The blobs of an image.
pub struct ImageBlobs<'a> {
    /// The manifest's digest.
    pub manifest: Digest,
    /// The manifest's bytes.
    pub manifest_length: u64,
    /// The blob table's digest.
    pub blob_table: Digest,
    /// The blob table's bytes.
    pub blob_table_length: u64,
    /// The inode shards.
    pub shards: &'a [ShardRecord],
    /// The packs, each with its index.
    pub packs: &'a [PackRecord],
}

/// An OCI image manifest and the runtime configuration that it names: the same bytes for the same image and
/// architecture, whatever machine makes them.
#[derive(Debug)]
pub struct Artifact {
    /// The runtime configuration.
    pub config: Vec<u8>,
    /// The OCI image manifest.
    pub manifest: Vec<u8>,
}

impl Artifact {
    /// The artifact of an image, whose programs are for this architecture.
    ///
    /// # Errors
    /// [`crate::Error::TooLarge`] if there are too many blobs.
    pub fn new(image: &ImageBlobs<'_>, architecture: &Architecture) -> Result<Self> {
        let layers = layers(image);
        let config = serde_json::to_vec(&configuration(&layers, architecture))?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .artifact_type(media_type::IMAGE)
            .config(Descriptor::new(
                MediaType::ImageConfig,
                config.len() as u64,
                oci_digest(&Digest(Sha256::digest(&config).into())),
            ))
            .layers(layers)
            .build()
            .expect("all mandatory fields are set");
        let manifest = check_length(
            "the OCI image manifest",
            "blobs",
            serde_json::to_vec(&manifest)?,
        )?;
        Ok(Artifact { config, manifest })
    }
}

/// The blobs that an OCI image manifest leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ParsedArtifact {
    /// The peerfs manifest; None if it is another kind of image.
    pub manifest: Option<Digest>,
    /// The runtime configuration.
    pub config: Option<Digest>,
}

impl ParsedArtifact {
    /// Reads an OCI image manifest.
    ///
    /// # Errors
    /// [`crate::Error::Json`].
    pub fn parse(text: &[u8]) -> Result<Self> {
        let manifest: ImageManifest = serde_json::from_slice(text)?;
        let layers = manifest.layers().iter();
        let mut manifests =
            layers.filter(|layer| layer.media_type().as_ref() == media_type::MANIFEST);
        Ok(ParsedArtifact {
            manifest: manifests.find_map(digest_of),
            config: digest_of(manifest.config()),
        })
    }
}

/// The manifest first, then the rest of the metadata, then the data; each blob once.
fn layers(image: &ImageBlobs<'_>) -> Vec<Descriptor> {
    let manifest = (media_type::MANIFEST, image.manifest, image.manifest_length);
    let blob_table = (
        media_type::BLOB_TABLE,
        image.blob_table,
        image.blob_table_length,
    );
    let shards = image.shards.iter().map(|shard| {
        (
            media_type::INODE_SHARD,
            shard.digest,
            u64::from(shard.length),
        )
    });
    let indexes = image.packs.iter().map(|pack| {
        (
            media_type::PACK_INDEX,
            pack.index_digest,
            u64::from(pack.index_length),
        )
    });
    let contents = image.packs.iter().map(|pack| {
        (
            media_type::PACK_CONTENTS,
            pack.contents_digest,
            pack.contents_length(),
        )
    });
    let packs = image
        .packs
        .iter()
        .map(|pack| (media_type::PACK, pack.digest, pack.stored_length));
    let blobs = [manifest, blob_table]
        .into_iter()
        .chain(shards)
        .chain(indexes)
        .chain(contents)
        .chain(packs);
    blobs
        .map(|(media_type, digest, length)| {
            descriptor(MediaType::from(media_type), &digest, length)
        })
        .collect()
}

/// The least that OCI asks of a runtime configuration: nothing to run, for this architecture. Says
/// nothing of the time, nor of the machine that makes it, so that the same tree is the same artifact.
fn configuration(layers: &[Descriptor], architecture: &Architecture) -> ImageConfiguration {
    let mut root = RootFs::default();
    root.set_diff_ids(
        layers
            .iter()
            .map(|layer| layer.digest().to_string())
            .collect(),
    );
    let mut configuration = ImageConfiguration::default();
    configuration
        .set_architecture(Arch::from(architecture.as_str()))
        .set_os(Os::Linux)
        .set_config(Some(Config::default()))
        .set_rootfs(root);
    configuration
}

/// A descriptor of a blob.
pub(crate) fn descriptor(media_type: MediaType, digest: &Digest, length: u64) -> Descriptor {
    Descriptor::new(media_type, length, oci_digest(digest))
}

/// The digest that a descriptor names, if it is a SHA-256.
pub(crate) fn digest_of(entry: &Descriptor) -> Option<Digest> {
    entry.as_digest_sha256()?.parse().ok()
}

fn oci_digest(digest: &Digest) -> oci_spec::image::Digest {
    let digits = digest.to_string();
    let digest: Sha256Digest = digits.parse().expect("64 lower-case hexadecimal digits");
    digest.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn image(packs: &[PackRecord]) -> ImageBlobs<'_> {
        ImageBlobs {
            manifest: Digest([7; 32]),
            manifest_length: 1,
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
    fn an_artifact_leads_to_its_manifest_and_configuration() {
        let arm: Architecture = "arm64".parse().unwrap();
        let artifact = Artifact::new(&image(&[PACK]), &arm).unwrap();
        let config = Digest(Sha256::digest(&artifact.config).into());
        let parsed = ParsedArtifact::parse(&artifact.manifest).unwrap();
        assert_eq!(parsed.manifest, Some(Digest([7; 32])));
        assert_eq!(parsed.config, Some(config));
        let config = String::from_utf8(artifact.config).unwrap();
        assert!(config.contains(r#""architecture":"arm64""#), "{config}");
    }

    /// The bytes are a promise: this test must pass on machines of all architectures.
    #[test]
    fn an_artifact_is_the_same_wherever_it_is_made() {
        let artifact = Artifact::new(&image(&[PACK]), &Architecture::unknown()).unwrap();
        let digest = Digest(Sha256::digest(&artifact.manifest).into());
        assert_eq!(
            digest.to_string(),
            "4222ec11c1232da347782ebb1ee5d06fe6013deb040b02f237c82386a51ae616"
        );
    }

    #[test]
    fn what_could_not_be_read_is_not_written() {
        let packs = vec![PACK; 60_000];
        let refused = Artifact::new(&image(&packs), &Architecture::unknown());
        assert!(
            matches!(refused, Err(Error::TooLarge { .. })),
            "{refused:?}"
        );
        assert!(ParsedArtifact::parse(b"{}").is_err());
    }
}
