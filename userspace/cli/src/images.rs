// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs images`, `peerfs tag`, `peerfs untag` and `peerfs rm`.

use peerfs_format::Digest;
use peerfs_store::{printable, Error as StoreError, Inventory, Store, TaggedImage};
use serde::Serialize;

use crate::arguments::{ImagesArguments, RemoveArguments, TagArguments, UntagArguments};
use crate::error::Result;
use crate::output::{size, Align, Output};

/// The output of `--json` for an image.
#[derive(Serialize)]
struct ImageInfo<'a> {
    manifest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    oci_index: Option<String>,
    tags: &'a [String],
    #[serde(flatten)]
    size: Option<ImageSize>,
    /// The reason that the size is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The size of an image, and of the part of it that is here.
#[derive(Serialize)]
pub(crate) struct ImageSize {
    inodes: u64,
    content_bytes: u64,
    bytes: u64,
    present_bytes: u64,
    complete: bool,
}

impl From<&Inventory> for ImageSize {
    fn from(inventory: &Inventory) -> Self {
        ImageSize {
            inodes: inventory.manifest.inode_count,
            content_bytes: inventory.manifest.content_bytes,
            bytes: inventory.bytes(),
            present_bytes: inventory.present_bytes(),
            complete: inventory.is_complete(),
        }
    }
}

/// Lists the images of a store.
pub(crate) fn list(arguments: &ImagesArguments) -> Result<()> {
    let store = Store::open(&arguments.store.root_dir)?;
    let mut images = store.images()?;
    // By their first tags, those without any last.
    images.sort_by(|a, b| {
        let key = |image: &TaggedImage| (image.tags.is_empty(), image.tags.first().cloned());
        key(a).cmp(&key(b)).then(a.manifest.cmp(&b.manifest))
    });
    let mut output = Output::new();
    if arguments.quiet {
        for image in &images {
            output.line(&image.manifest.to_string())?;
        }
    } else if arguments.json {
        for image in &images {
            let inventory = store.inventory(&image.manifest);
            output.json(&ImageInfo {
                manifest: image.manifest.to_string(),
                oci_index: image.oci_index.as_ref().map(Digest::to_string),
                tags: &image.tags,
                size: inventory.as_ref().ok().map(ImageSize::from),
                problem: inventory.err().map(|error| error.to_string()),
            })?;
        }
    } else {
        table(&store, &images, &mut output)?;
    }
    output.finish()
}

/// A line for each tag, and for each image that has none. Digests as a whole, since no part of one names an image.
fn table(store: &Store, images: &[TaggedImage], output: &mut Output) -> Result<()> {
    let mut rows = vec![["TAG", "CONTENT", "HERE", "MANIFEST"].map(str::to_owned)];
    for image in images {
        let (content, here) = match store.inventory(&image.manifest) {
            Ok(inventory) => (size(inventory.manifest.content_bytes), here(&inventory)),
            Err(StoreError::BlobMissing(_)) => ("-".to_owned(), "nothing".to_owned()),
            Err(_) => ("-".to_owned(), "damaged".to_owned()),
        };
        let row = |tag| {
            let manifest = image.manifest.to_string();
            [tag, content.clone(), here.clone(), manifest]
        };
        rows.extend(image.tags.iter().map(|tag| row(printable(tag).to_string())));
        if image.tags.is_empty() {
            rows.push(row("<none>".to_owned()));
        }
    }
    let columns = [Align::Left, Align::Right, Align::Right, Align::Left];
    output.table(columns, &rows)
}

/// The part of an image that is here, for people.
pub(crate) fn here(inventory: &Inventory) -> String {
    if inventory.is_complete() {
        return "all".to_owned();
    }
    let (present, all) = (inventory.present_bytes(), inventory.bytes().max(1));
    // Never 100 % of what is not complete.
    let percent = (u128::from(present) * 100 / u128::from(all)).min(99);
    format!("{percent} %")
}

/// Gives an image a tag.
pub(crate) fn tag(arguments: &TagArguments) -> Result<()> {
    let store = Store::open(&arguments.store.root_dir)?;
    if arguments.whole {
        store.make_whole(&store.resolve(&arguments.image)?)?;
    }
    Ok(store.tag_reference(&arguments.image, &arguments.name)?)
}

/// Removes images, and prints the digests of their manifests.
pub(crate) fn remove(arguments: &RemoveArguments) -> Result<()> {
    let store = Store::open(&arguments.store.root_dir)?;
    let mut output = Output::new();
    for image in &arguments.images {
        output.line(&store.remove_image(image)?.to_string())?;
    }
    output.finish()
}

/// Takes a tag away.
pub(crate) fn untag(arguments: &UntagArguments) -> Result<()> {
    let store = Store::open(&arguments.store.root_dir)?;
    Ok(store.untag(&arguments.name)?)
}
