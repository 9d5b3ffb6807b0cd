// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of trees, each built upon those before.

use std::collections::HashSet;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use peerfs_build::{
    ChunkSizes, Compression, DirectorySource, Layout, Options, PackSizes, Progress,
};
use peerfs_store::Store;

use crate::Result;

/// The options of the builds.
#[derive(Args)]
pub(crate) struct Settings {
    /// The store that the images go to.
    store: PathBuf,
    #[arg(required = true)]
    trees: Vec<PathBuf>,
    /// The shortest, average and longest chunk in KiB.
    #[arg(long, value_name = "MIN,AVERAGE,MAX", value_parser = parse_chunk_sizes)]
    chunks: Option<ChunkSizes>,
    /// The size in KiB from which on files are chunked by themselves.
    #[arg(long)]
    large_file: Option<u64>,
    /// The sizes of packs in MiB: from where on they may end, how much follows on average, and what they never exceed.
    #[arg(long, value_name = "MIN,MORE,MAX", value_parser = parse_pack_sizes)]
    pack: Option<PackSizes>,
    /// The length at which a shard is closed, in KiB.
    #[arg(long)]
    shard: Option<usize>,
    #[arg(long, default_value = "zstd")]
    compression: Compression,
}

impl Settings {
    fn layout(&self) -> Layout {
        let mut layout = Layout::default();
        if let Some(chunks) = self.chunks {
            layout.chunks = chunks;
        }
        if let Some(large_file) = self.large_file {
            layout.large_file = large_file * 1024;
        }
        if let Some(pack) = self.pack {
            layout.pack = pack;
        }
        if let Some(shard) = self.shard {
            layout.shard = shard * 1024;
        }
        layout
    }
}

fn parse_chunk_sizes(text: &str) -> Result<ChunkSizes, String> {
    let [min, average, max] = parse_three(text)?.map(|number| number * 1024);
    Ok(ChunkSizes { min, average, max })
}

pub(crate) fn parse_pack_sizes(text: &str) -> Result<PackSizes, String> {
    let [min, more, max] = parse_three(text)?.map(|number| u64::from(number) << 20);
    Ok(PackSizes { min, more, max })
}

fn parse_three(text: &str) -> Result<[u32; 3], String> {
    let numbers: Vec<u32> = text
        .split(',')
        .map_while(|word| word.parse().ok())
        .collect();
    let three = numbers.try_into();
    three.map_err(|_| "three numbers with commas between them are expected".to_owned())
}

/// Builds, and prints a line for each image.
pub(crate) fn build(settings: &Settings) -> Result<()> {
    let store = Arc::new(Store::create(&settings.store)?);
    let mut options = Options {
        threads: NonZeroUsize::MIN,
        compression: settings.compression,
        layout: settings.layout(),
        ..Options::default()
    };
    let mut known = HashSet::new();
    for tree in &settings.trees {
        let before = processor_seconds()?;
        let source = DirectorySource::new(tree, &store);
        let image = peerfs_build::build(source, &store, &options, &Progress::default())?;
        let seconds = processor_seconds()? - before;
        let leading = [
            (image.manifest, image.manifest_length),
            (image.blob_table, image.blob_table_length),
        ];
        let indexes = image
            .packs
            .iter()
            .map(|pack| (pack.index_digest, pack.index_length.into()));
        let contents = image
            .packs
            .iter()
            .map(|pack| (pack.contents_digest, pack.contents_length()));
        let shards = image
            .shards
            .iter()
            .map(|shard| (shard.digest, shard.length.into()));
        let metadata = indexes.chain(contents).chain(shards).chain(leading);
        let metadata: Vec<_> = metadata.collect();
        let packs: Vec<_> = image
            .packs
            .iter()
            .map(|pack| (pack.digest, pack.stored_length))
            .collect();
        let sum = |blobs: &[(_, u64)]| blobs.iter().map(|(_, length)| length).sum::<u64>();
        let chunks: u32 = image.packs.iter().map(|pack| pack.chunk_count).sum();
        let mut new = |blobs: &[(_, u64)]| -> u64 {
            let new = blobs.iter().filter(|(digest, _)| known.insert(*digest));
            new.map(|(_, length)| length).sum()
        };
        println!(
            "image={} inodes={} content={} chunks={chunks} packs={} metadata={} new_packs={} new_metadata={} seconds={seconds:.2}",
            image.manifest, image.inode_count, image.content_bytes, sum(&packs), sum(&metadata), new(&packs), new(&metadata),
        );
        options.base.push(image.manifest);
    }
    Ok(())
}

/// The seconds of processor time that this process has had so far, user and system (proc(5), `stat`).
fn processor_seconds() -> Result<f64> {
    let line = fs::read_to_string("/proc/self/stat")?;
    let after_name = line.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(ticks as f64 / 100.0)
}
