// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs inspect`.

use peerfs_format::Digest;
use peerfs_store::{printable, BlobKind, BlobPresence, Inventory, Store, TaggedImage};
use serde::Serialize;

use crate::arguments::InspectArguments;
use crate::error::Result;
use crate::images::{here, ImageSize};
use crate::output::{size, Output};

/// The output of `--json`.
#[derive(Serialize)]
struct Inspection<'a> {
    manifest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    oci_index: Option<String>,
    tags: &'a [String],
    /// What the key is called, if the image is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(flatten)]
    size: ImageSize,
    blobs: Vec<BlobInfo>,
}

#[derive(Serialize)]
struct BlobInfo {
    kind: String,
    digest: String,
    bytes: u64,
    present_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    present_chunks: Option<u32>,
}

/// Shows what an image consists of, and what of it is in the store.
pub(crate) fn run(arguments: &InspectArguments) -> Result<()> {
    let store = Store::open(&arguments.store.root_dir)?;
    let manifest = store.resolve(&arguments.image)?;
    let inventory = store.inventory(&manifest)?;
    // An image that is named by its digest need not be listed.
    let listed = store.images().unwrap_or_default();
    let image = listed.into_iter().find(|image| image.manifest == manifest);
    let image = image.unwrap_or(TaggedImage {
        manifest,
        oci_index: None,
        tags: Vec::new(),
        is_own: false,
    });
    let mut output = Output::new();
    if arguments.json {
        output.json(&Inspection {
            manifest: manifest.to_string(),
            oci_index: image.oci_index.as_ref().map(Digest::to_string),
            tags: &image.tags,
            key: inventory.manifest.key_id().map(|key| key.to_string()),
            size: ImageSize::from(&inventory),
            blobs: inventory.blobs.iter().map(BlobInfo::from).collect(),
        })?;
    } else {
        print(&image, &inventory, &mut output)?;
    }
    output.finish()
}

impl From<&BlobPresence> for BlobInfo {
    fn from(blob: &BlobPresence) -> Self {
        let is_pack = blob.kind == BlobKind::Pack;
        BlobInfo {
            kind: name(blob.kind).replace(' ', "_"),
            digest: blob.digest.to_string(),
            bytes: blob.bytes,
            present_bytes: blob.present_bytes,
            chunks: is_pack.then_some(blob.chunks),
            present_chunks: is_pack.then_some(blob.present_chunks),
        }
    }
}

fn print(image: &TaggedImage, inventory: &Inventory, output: &mut Output) -> Result<()> {
    let manifest = &inventory.manifest;
    let tags = image.tags.iter().map(|tag| printable(tag).to_string());
    let tags = tags.collect::<Vec<_>>().join(", ");
    let oci_index = image.oci_index.as_ref().map(Digest::to_string);
    let key = manifest.key_id();
    let key = key.map_or("none".to_owned(), |key| key.to_string());
    for (label, value) in [
        ("manifest", image.manifest.to_string()),
        ("OCI index", oci_index.unwrap_or("none".to_owned())),
        (
            "tags",
            if tags.is_empty() {
                "none".to_owned()
            } else {
                tags
            },
        ),
        ("realm key", key),
        ("inodes", manifest.inode_count.to_string()),
        ("content", size(manifest.content_bytes)),
        ("stored", size(inventory.bytes())),
        (
            "here",
            format!("{}, {}", here(inventory), size(inventory.present_bytes())),
        ),
    ] {
        output.line(&format!("{:14}{value}", format!("{label}:")))?;
    }
    output.line("blobs:")?;
    for kind in [
        BlobKind::Manifest,
        BlobKind::BlobTable,
        BlobKind::InodeShard,
        BlobKind::PackIndex,
        BlobKind::Pack,
        BlobKind::PackContents,
    ] {
        let blobs = inventory.blobs.iter().filter(|blob| blob.kind == kind);
        let (count, complete, present) =
            blobs.fold((0, 0, 0_u64), |(count, complete, bytes), blob| {
                let is_complete = u64::from(blob.is_complete());
                let bytes = bytes.saturating_add(blob.present_bytes);
                (count + 1, complete + is_complete, bytes)
            });
        let label = format!("{}:", name(kind));
        output.line(&format!(
            "  {label:15}{complete} of {count} here, {}",
            size(present)
        ))?;
    }
    let blobs = inventory.blobs.iter();
    let partial = blobs.filter(|blob| blob.kind == BlobKind::Pack && !blob.is_complete());
    for (number, pack) in partial.enumerate() {
        if number == 0 {
            output.line("packs that are not all here:")?;
        }
        output.line(&format!(
            "  {} {} of {}, {} of {} chunks",
            pack.digest,
            size(pack.present_bytes),
            size(pack.bytes),
            pack.present_chunks,
            pack.chunks
        ))?;
    }
    Ok(())
}

fn name(kind: BlobKind) -> &'static str {
    match kind {
        BlobKind::Manifest => "manifest",
        BlobKind::BlobTable => "blob table",
        BlobKind::InodeShard => "inode shard",
        BlobKind::PackIndex => "pack index",
        BlobKind::Pack => "pack",
        BlobKind::PackContents => "pack contents",
    }
}
