// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs du`.

use clap::Args;
use peerfs_store::{printable, ImageShare, Reference, Shares, Store};
use serde::Serialize;

use crate::arguments::{DaemonArguments, StoreArguments};
use crate::collect::collect;
use crate::error::Result;
use crate::failure::PEERFS;
use crate::output::{size, Align, Output};

/// Show the room that images take in a store.
///
/// A line for each image: how many bytes its files hold, how many it takes on the disk, how many of these no other image
/// needs (what `peerfs rm` and then `peerfs gc` give back), and how many it shares. Then what the store takes as a whole, and what
/// `peerfs gc` would give back now. Reads the metadata of all images.
#[derive(Args)]
pub(crate) struct UsageArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Print it as JSON: a line for each image, and one for the store.
    #[arg(long)]
    json: bool,
    /// The images to show: tags of the store, or digests; by default all.
    #[arg(value_name = "IMAGE")]
    images: Vec<Reference>,
}

/// A line of `--json`.
#[derive(Serialize)]
struct ImageInfo<'a> {
    manifest: String,
    tags: &'a [String],
    content_bytes: u64,
    bytes: u64,
    unique_bytes: u64,
    shared_bytes: u64,
}

/// The last line of `--json`.
#[derive(Serialize)]
struct StoreInfo {
    /// On the disk.
    store_bytes: u64,
    /// What images need of it.
    needed_bytes: u64,
    /// What a collection would give up, unless it can't be asked.
    reclaimable_bytes: Option<u64>,
}

/// Shows the room that images take.
pub(crate) fn run(arguments: &UsageArguments) -> Result<()> {
    let store = Store::open(&arguments.store.root_dir)?;
    let chosen = arguments.images.iter().map(|image| store.resolve(image));
    let chosen = chosen.collect::<std::result::Result<Vec<_>, _>>()?;
    let Shares {
        mut images,
        unreadable,
        needed_bytes,
    } = store.shares()?;
    images.retain(|share| chosen.is_empty() || chosen.contains(&share.image.manifest));
    images.sort_by_key(|share| std::cmp::Reverse(share.unique_bytes));
    for (image, error) in &unreadable {
        let name = image.tags.first().cloned();
        let name = name.unwrap_or_else(|| image.manifest.to_string());
        tracing::warn!("what {} takes is not known: {error}", printable(&name));
    }
    let usage = store.usage()?;
    let total = StoreInfo {
        store_bytes: usage.blob_bytes + usage.partial_bytes + usage.loose_bytes + usage.table_bytes,
        needed_bytes,
        reclaimable_bytes: collect(&store, &arguments.daemon, true)
            .map(|collected| collected.bytes)
            .inspect_err(|error| PEERFS.tell(error))
            .ok(),
    };
    let mut output = Output::new();
    match arguments.json {
        true => {
            for share in &images {
                output.json(&ImageInfo::from(share))?;
            }
            output.json(&total)?;
        }
        false => table(&images, &total, &mut output)?,
    }
    output.finish()
}

impl<'a> From<&'a ImageShare> for ImageInfo<'a> {
    fn from(share: &'a ImageShare) -> Self {
        ImageInfo {
            manifest: share.image.manifest.to_string(),
            tags: &share.image.tags,
            content_bytes: share.content_bytes,
            bytes: share.bytes,
            unique_bytes: share.unique_bytes,
            shared_bytes: share.bytes - share.unique_bytes,
        }
    }
}

fn table(images: &[ImageShare], total: &StoreInfo, output: &mut Output) -> Result<()> {
    let mut rows = vec![["CONTENT", "ON DISK", "UNIQUE", "SHARED", "IMAGE"].map(str::to_owned)];
    for share in images {
        let tags = share
            .image
            .tags
            .iter()
            .map(|tag| printable(tag).to_string());
        let tags = tags.collect::<Vec<_>>().join(", ");
        let [content, bytes, unique, shared] = [
            share.content_bytes,
            share.bytes,
            share.unique_bytes,
            share.bytes - share.unique_bytes,
        ]
        .map(size);
        let name = if tags.is_empty() {
            share.image.manifest.to_string()
        } else {
            tags
        };
        rows.push([content, bytes, unique, shared, name]);
    }
    let right = Align::Right;
    output.table([right, right, right, right, Align::Left], &rows)?;
    let reclaimable = total.reclaimable_bytes.map_or("unknown".to_owned(), size);
    output.line(&format!(
        "store: {} on the disk, {} of it needed; `peerfs gc` would give back {reclaimable}",
        size(total.store_bytes),
        size(total.needed_bytes),
    ))
}
