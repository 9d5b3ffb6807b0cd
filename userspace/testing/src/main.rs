// SPDX-License-Identifier: GPL-2.0 OR MIT

//! All that the kernel tests need and no ordinary program offers: trees of edge cases, comparisons of a
//! mount with its source, damage to a store, and daemons that misbehave.
//!
//! | module | noun |
//! |---|---|
//! | [`edge_cases`] | a tree with everything that a tree can hold |
//! | [`entry`] | a path's line in a manifest of a tree |
//! | [`mounting`] | mounting and unmounting |
//! | [`stress`] | everything that can happen to a mount, at once |
//! | [`survey`] | reading all of a damaged mount |
//! | [`compare`] | the same reads of a tree and of its mount |
//! | [`read_only`] | attempts to change a mount |
//! | [`differ`] | the same system calls on two trees, which must answer the same |
//! | [`publisher`] | damaged images whose digests fit |
//! | [`damage`] | damaged stores and images |
//! | [`places`] | packs whose chunks lie elsewhere, as tables of places say, rightly or wrongly |
//! | [`measure`] | how long a filesystem takes |
//! | [`source`] | a complete store, read without verifying |
//! | [`fake_daemon`] | a daemon on `/dev/peerfs` that does as it is told |
//! | [`fake_peer`] | a peer that does as it is told |
//! | [`reader`] | a daemon whose kernel reads chunk after chunk |

#![forbid(unsafe_code)]

mod compare;
mod damage;
mod differ;
mod edge_cases;
mod entry;
mod error;
mod fake_daemon;
mod fake_peer;
mod measure;
mod mounting;
mod places;
mod publisher;
mod read_only;
mod reader;
mod source;
mod stress;
mod survey;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use peerfs_format::Digest;

use error::{ensure, Error, Result};

/// Tools for the tests of peerfs.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a tree with everything that a tree can hold.
    MakeTree {
        directory: PathBuf,
        /// A tree of a few megabytes that is read quickly, with a bit of everything.
        #[arg(long)]
        small: bool,
    },
    /// Makes a directory with many entries.
    MakeCrowd { directory: PathBuf, entries: u32 },
    /// Prints a line for each path of a tree; two trees are the same if these are.
    Manifest { directory: PathBuf },
    /// Reads all that a manifest names, right or with an error, and prints how many were which.
    Survey {
        manifest: PathBuf,
        mount: PathBuf,
        /// Have the kernel fail this process's allocations as debugfs's fault injection says.
        #[arg(long)]
        failing_allocations: bool,
    },
    /// Reads two trees at random places and in all the ways there are.
    Compare {
        source: PathBuf,
        mount: PathBuf,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Reads at random places.
        #[arg(long, default_value_t = 1000)]
        count: u32,
    },
    /// Does the same random system calls on two read-only trees: each must answer the same.
    Differ(differ::Settings),
    /// Attempts to change a mount in every way: each must fail with EROFS.
    ReadOnly { mount: PathBuf },
    /// Damages something that an image of the store consists of, and prints what.
    Damage {
        store: PathBuf,
        manifest: Digest,
        kind: damage::Kind,
        #[arg(long)]
        seed: u64,
    },
    /// Puts a manifest into the store that no reader can use, and prints its digest.
    Forge {
        store: PathBuf,
        manifest: Digest,
        kind: damage::Forgery,
    },
    /// Lays out the chunks of an image's whole packs elsewhere, with a table of places that is right or wrong.
    Places {
        store: PathBuf,
        manifest: Digest,
        layout: places::Layout,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Mounts damaged images whose digests fit, one after the other, and looks at them.
    Publish(publisher::Settings),
    /// Puts an image into a store of which a table is as large as can be, and prints its digest.
    Bloat {
        store: PathBuf,
        table: publisher::Table,
    },
    /// Puts an image into a store that breaks a rule of the format, and prints its digest.
    BreakRule {
        store: PathBuf,
        rule: publisher::Rule,
    },
    /// Reads mounts while everything that can happen to them happens.
    Stress(stress::Settings),
    /// Measures a mounted filesystem, or the kernel's own hashing and decoding.
    Measure {
        #[command(subcommand)]
        what: measure::What,
    },
    /// Serves a store from another, complete one.
    Daemon(fake_daemon::Settings),
    /// Takes part in the network with a complete store, honestly or not.
    Peer(fake_peer::Settings),
    /// Runs a daemon, has it fetch chunks that somebody waits for, and tells how long each took.
    Reader(reader::Settings),
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::MakeTree { directory, small } => edge_cases::make_tree(&directory, small),
        Command::MakeCrowd { directory, entries } => edge_cases::make_crowd(&directory, entries),
        Command::Manifest { directory } => entry::print_manifest(&directory),
        Command::Survey {
            manifest,
            mount,
            failing_allocations,
        } => {
            let lines = fs::read_to_string(&manifest).map_err(Error::io("read", &manifest))?;
            if failing_allocations {
                let switch = "/proc/self/make-it-fail";
                fs::write(switch, "1").map_err(Error::io("write", switch.as_ref()))?;
            }
            let found = survey::survey(&lines, &mount)?;
            println!("{} {}", found.right, found.errors);
            Ok(())
        }
        Command::Compare {
            source,
            mount,
            seed,
            count,
        } => compare::compare(&source, &mount, seed, count),
        Command::Differ(settings) => differ::run(&settings),
        Command::ReadOnly { mount } => read_only::check(&mount),
        Command::Damage {
            store,
            manifest,
            kind,
            seed,
        } => damage::damage(&store, &manifest, kind, seed),
        Command::Forge {
            store,
            manifest,
            kind,
        } => damage::forge(&store, &manifest, kind),
        Command::Places {
            store,
            manifest,
            layout,
            seed,
        } => places::lay_out(&store, &manifest, layout, seed),
        Command::Publish(settings) => publisher::run(&settings),
        Command::Bloat { store, table } => publisher::bloat(&store, table),
        Command::BreakRule { store, rule } => publisher::break_rule(&store, rule),
        Command::Stress(settings) => stress::run(&settings),
        Command::Measure { what } => measure::measure(what),
        Command::Daemon(settings) => fake_daemon::run(settings),
        Command::Peer(settings) => fake_peer::run(settings),
        Command::Reader(settings) => reader::run(&settings),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peerfs-testing: {error}");
            ExitCode::FAILURE
        }
    }
}
