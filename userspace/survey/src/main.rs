// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The costs and gains of the format's free choices (Documentation/format-choices.md). Each prints lines
//! of `name=value`, sizes in bytes, for scripts/format-survey.
//!
//! | module | noun |
//! |---|---|
//! | [`image`] | images of trees, each built upon those before |
//! | [`packs`] | what a change of one chunk costs with several ways to divide chunks into packs |
//! | [`fetched`] | what is fetched of an image for some ranges of its files |
//! | [`dictionary`] | a zstd dictionary for each pack |
//! | [`records`] | an array of records: a table in a Data field, or a list of Cap'n Proto's |

#![forbid(unsafe_code)]

mod dictionary;
mod error;
mod fetched;
mod image;
mod packs;
mod records;

#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod lists_capnp {
    include!(concat!(env!("OUT_DIR"), "/src/lists_capnp.rs"));
}

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use peerfs_build::PackSizes;
use peerfs_format::Digest;

use error::{Error, Result};

/// Measures what the free choices of the image format cost and give.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Builds images, each upon those before, and prints their sizes and what was new.
    Build(image::Settings),
    /// Divides an image's chunks into packs in several ways, and prints what a change of one chunk makes new.
    Packs {
        store: PathBuf,
        manifest: Digest,
        /// Sizes in MiB: from where on a pack may end, how much follows on average, and what none exceeds.
        #[arg(required = true, value_name = "MIN,MORE,MAX", value_parser = image::parse_pack_sizes)]
        sizes: Vec<PackSizes>,
        /// Places at which something is changed, one after another.
        #[arg(long, default_value_t = 1000)]
        places: usize,
    },
    /// Prints what is fetched for ranges of files: standard input has lines "OFFSET LENGTH PATH".
    Fetched { store: PathBuf, manifest: Digest },
    /// Compresses an image's chunks with a dictionary for each pack, and without.
    Dictionary {
        store: PathBuf,
        manifest: Digest,
        #[arg(long, default_value_t = 3)]
        level: i32,
        /// The dictionary's size in KiB.
        #[arg(long, default_value_t = 112)]
        size: usize,
    },
    /// Searches an array of records; to be run where instructions are counted.
    Records {
        array: records::Array,
        /// Records in the array.
        #[arg(long, default_value_t = 1024)]
        count: u32,
        /// Searches.
        #[arg(long)]
        searches: u32,
    },
}

fn measure(what: What) -> Result<()> {
    match what {
        What::Build(settings) => image::build(&settings),
        What::Packs {
            store,
            manifest,
            sizes,
            places,
        } => packs::print(&store, &manifest, &sizes, places),
        What::Fetched { store, manifest } => fetched::print(&store, &manifest),
        What::Dictionary {
            store,
            manifest,
            level,
            size,
        } => dictionary::print(&store, &manifest, level, size * 1024),
        What::Records {
            array,
            count,
            searches,
        } => records::search(array, count, searches),
    }
}

fn main() -> ExitCode {
    match measure(Arguments::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peerfs-survey: {error}");
            ExitCode::FAILURE
        }
    }
}
