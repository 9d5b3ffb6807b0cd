// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image as an OCI artifact: an OCI image manifest whose layers are the blobs.

use oci_spec::image::{
    Config, Descriptor, ImageConfiguration, ImageIndex, ImageManifestBuilder, MediaType, Os,
    RootFs, Sha256Digest, SCHEMA_VERSION,
};
use peerfs_format::{Digest, PackRecord, ShardRecord, METADATA_MAX};

use crate::tags::TagIndex;
use crate::{sha256, Error, Result, Store};

/// The media types of an image's blobs.
pub mod media_type {
    /// The artifact as a whole.
    pub const IMAGE: &str = "application/vnd.peerfs.image.v1";
    /// The manifest.
    pub const MANIFEST: &str = "application/vnd.peerfs.manifest.v1";
    /// The blob table.
    pub const BLOB_TABLE: &str = "application/vnd.peerfs.blob-table.v1";
    /// An inode shard.
    pub const INODE_SHARD: &str = "application/vnd.peerfs.inode-shard.v1";
    /// A pack index.
    pub const PACK_INDEX: &str = "application/vnd.peerfs.pack-index.v1";
    /// A pack.
    pub const PACK: &str = "application/vnd.peerfs.pack.v1";
}

/// The blobs of an image, all of which are in the store.
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

/// Makes a complete image known in the store under `tag`: writes its OCI image manifest and runtime
/// configuration and changes the index. Returns the digest of the OCI image manifest, which is the
/// same for the same image.
///
/// # Errors
/// [`Error::TagIsDigest`]; [`Error::TooLarge`] if there are too many blobs or tags; [`Error::Layout`] if
/// `index.json` is not valid; [`Error::Io`] if the disk is full. The tag is as before then.
pub fn write_image(store: &Store, image: &ImageBlobs<'_>, tag: &str) -> Result<Digest> {
    // Whoever names a digest means what has it.
    if tag.parse::<Digest>().is_ok() {
        return Err(Error::TagIsDigest(tag.to_owned()));
    }
    let layers = layers(image);
    let config = json(store, &configuration(&layers))?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .artifact_type(media_type::IMAGE)
        .config(Descriptor::new(
            MediaType::ImageConfig,
            config.len() as u64,
            oci_digest(&sha256(&config)),
        ))
        .layers(layers)
        .build()
        .expect("all mandatory fields are set");
    let manifest = json(store, &manifest)?;
    check_length(
        "the OCI image manifest",
        &manifest,
        "divide the tree into several images",
    )?;
    store.add_blob(&config)?;
    let digest = store.add_blob(&manifest)?;
    let entry = Descriptor::new(
        MediaType::ImageManifest,
        manifest.len() as u64,
        oci_digest(&digest),
    );
    TagIndex::change(store.directory(), |index| index.tag(entry, tag))?;
    Ok(digest)
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
    let packs = image
        .packs
        .iter()
        .map(|pack| (media_type::PACK, pack.digest, pack.stored_length));
    let blobs = [manifest, blob_table]
        .into_iter()
        .chain(shards)
        .chain(indexes)
        .chain(packs);
    blobs
        .map(|(media_type, digest, length)| descriptor(media_type, &digest, length))
        .collect()
}

/// The least that OCI asks of a runtime configuration: nothing to run, for this architecture. Says
/// nothing of the time, so that the same tree is the same artifact.
fn configuration(layers: &[Descriptor]) -> ImageConfiguration {
    let mut root = RootFs::default();
    root.set_diff_ids(
        layers
            .iter()
            .map(|layer| layer.digest().to_string())
            .collect(),
    );
    let mut configuration = ImageConfiguration::default();
    configuration
        .set_os(Os::Linux)
        .set_config(Some(Config::default()))
        .set_rootfs(root);
    configuration
}

/// A descriptor of a blob.
pub(crate) fn descriptor(media_type: &str, digest: &Digest, length: u64) -> Descriptor {
    Descriptor::new(MediaType::from(media_type), length, oci_digest(digest))
}

/// An index without images.
pub(crate) fn new_index() -> ImageIndex {
    let mut index = ImageIndex::default();
    index
        .set_schema_version(SCHEMA_VERSION)
        .set_media_type(Some(MediaType::ImageIndex));
    index
}

fn oci_digest(digest: &Digest) -> oci_spec::image::Digest {
    let digits = digest.to_string();
    let digest: Sha256Digest = digits.parse().expect("64 lower-case hexadecimal digits");
    digest.into()
}

/// Refuses to write what would not be read.
pub(crate) fn check_length(what: &'static str, text: &[u8], advice: &'static str) -> Result<()> {
    let length = text.len() as u64;
    if length > METADATA_MAX {
        return Err(Error::TooLarge {
            what,
            length,
            limit: METADATA_MAX,
            advice,
        });
    }
    Ok(())
}

fn json(store: &Store, value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::io("write to", store.root_dir())(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path()).unwrap();
        let record = PackRecord {
            digest: Digest::default(),
            index_digest: Digest::default(),
            stored_length: 1,
            logical_length: 1,
            index_length: 1,
            chunk_count: 1,
        };
        let packs = vec![record; 60_000];
        let mut image = ImageBlobs {
            manifest: Digest::default(),
            manifest_length: 1,
            blob_table: Digest::default(),
            blob_table_length: 1,
            shards: &[],
            packs: &packs,
        };
        let outcome = write_image(&store, &image, "large");
        assert!(
            matches!(outcome, Err(Error::TooLarge { .. })),
            "{outcome:?}"
        );
        image.packs = &packs[..10];
        let digest = Digest::default().to_string();
        let outcome = write_image(&store, &image, &digest);
        assert!(matches!(outcome, Err(Error::TagIsDigest(tag)) if tag == digest));
        assert_eq!(store.images().unwrap(), []);
        write_image(&store, &image, "small").unwrap();
        assert_eq!(store.images().unwrap().len(), 1);
    }
}
