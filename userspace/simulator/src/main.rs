// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Simulates nodes, and prints what came of it. What differs from run to run goes to the standard error.

#![forbid(unsafe_code)]

use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use peerfs_simulator::replicas::{self, replicas};
use peerfs_simulator::scenario::{self, Burden, Options};

/// Simulate thousands of peerfs nodes
#[derive(Parser)]
#[command(name = "peerfs-simulator", version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// One node has an image, and all others want it at once
    Swarm(Network),
    /// A server has an image, and all nodes want it at once
    Origin(Network),
    /// All nodes have an image, and one more reads chunks of it
    Demand {
        #[command(flatten)]
        network: Network,
        /// The reader gets all of the image as well
        #[arg(long)]
        pull: bool,
        /// Nodes that have stopped
        #[arg(long, default_value_t = 0, value_name = "N")]
        stopped: u32,
    },
    /// Willing nodes keep images, and half of them go
    Replicas(Keeping),
}

#[derive(Args)]
struct Keeping {
    /// Nodes
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1024))]
    nodes: u32,
    /// Images, of 128 MiB to 2 GiB
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    images: u32,
    /// Copies of each
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    copies: u8,
    /// Hours in which half of the nodes go
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=240))]
    hours: u64,
    /// Megabits a second of each line
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1_000_000))]
    rate: u64,
    /// The first seed; with the same seed the output is the same
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// So many runs, each with the next seed
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
}

impl Keeping {
    fn run(&self) {
        let mut lost = 0;
        for seed in self.seed..self.seed.saturating_add(self.seeds) {
            let losses = replicas(&replicas::Options {
                nodes: self.nodes,
                images: self.images,
                copies: self.copies,
                hours: self.hours,
                rate: self.rate * 1_000_000,
                seed,
            });
            lost += losses.lost;
            println!("seed          {seed}\n{losses}\n");
        }
        let images = self.seeds * u64::from(self.images);
        println!("lost          {lost} of {images} images");
    }
}

#[derive(Args)]
struct Network {
    /// Nodes
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(2..1_000_000))]
    nodes: u32,
    /// Chunks of the image, each of 64 KiB
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    chunks: u32,
    /// Megabits a second of each line, in each direction
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1_000_000))]
    rate: u64,
    /// Milliseconds to the node that is farthest away
    #[arg(long, default_value_t = 40, value_name = "MS", value_parser = clap::value_parser!(u64).range(..10_000))]
    latency: u64,
    /// Percentage of nodes that leave before they have all
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=100))]
    leaving: u32,
    /// Percentage of nodes that claim to have all and send wrong bytes
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=100))]
    liars: u32,
    /// With the same seed the output is the same
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

impl Network {
    fn options(&self) -> Options {
        Options {
            nodes: self.nodes,
            chunks: self.chunks,
            rate: self.rate * 1_000_000,
            latency: self.latency,
            leaving: self.leaving,
            liars: self.liars,
            seed: self.seed,
            ..Options::default()
        }
    }
}

fn main() {
    let begun = Instant::now();
    match Arguments::parse().scenario {
        Scenario::Swarm(network) => println!("{}", scenario::swarm(&network.options())),
        Scenario::Origin(network) => println!("{}", scenario::origin(&network.options())),
        Scenario::Demand {
            network,
            pull,
            stopped,
        } => {
            let burden = Burden {
                pulls: pull,
                stopped,
            };
            println!("{}", scenario::demand(&network.options(), burden));
        }
        Scenario::Replicas(keeping) => keeping.run(),
    }
    eprintln!("seconds     {:.1}", begun.elapsed().as_secs_f64());
    if let Some(peak) = peak_memory() {
        eprintln!("memory      {peak}");
    }
}

/// The most memory that this process had, as the kernel says it.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().to_owned())
}
