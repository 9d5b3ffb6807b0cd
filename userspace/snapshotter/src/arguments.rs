// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The command line of `peerfs-snapshotter`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use clap_mangen::Man;
use peerfs_oci::Reference;

use crate::images::ImageConfig;

/// Gives containerd snapshots of images that come when they are read: images in peerfs form are mounted without being unpacked,
/// and all others are kept as overlayfs layers.
#[derive(Clone, Debug, Parser)]
#[command(name = "peerfs-snapshotter", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// Where to listen for containerd
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/peerfs-snapshotter/snapshotter.sock"
    )]
    pub address: PathBuf,

    /// Where the snapshots lie, made if it does not exist
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/peerfs-snapshotter"
    )]
    pub root: PathBuf,

    /// The store of the images
    #[arg(long, value_name = "DIR", default_value = peerfs_store::DEFAULT_ROOT_DIR)]
    pub root_dir: PathBuf,

    /// The control socket of the peerfsd that fills the store
    #[arg(long, value_name = "PATH", default_value = peerfs_control::DEFAULT_SOCKET)]
    pub socket: PathBuf,

    /// Mount options for images, such as `fuse` or `timeout=60`
    #[arg(long, value_name = "OPTIONS")]
    pub mount_options: Option<String>,

    /// Seconds that a container waits for an image of which nothing comes
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub timeout: u32,

    /// A publisher's list of what layers of ordinary images unpack to, as `peerfs publish-layers` prints it: images whose
    /// layers are on it are not unpacked, and are what the publisher says. May be repeated
    #[arg(long, env = "PEERFS_LAYERS", value_name = "KEY/NAME", value_delimiter = ',', value_parser = parse_name)]
    pub layers: Vec<String>,

    /// The program that mounts
    #[arg(long, value_name = "PATH", hide = true)]
    pub peerfs: Option<PathBuf>,

    /// The file of the policy, in the place of the usual one
    #[arg(long, env = "PEERFS_POLICY", value_name = "FILE", hide = true)]
    pub policy: Option<PathBuf>,

    /// Print the man page, and end
    #[arg(long, hide = true)]
    pub man: bool,
}

const AFTER_HELP: &str = "\
Exit status: 0 if it was told to end (SIGTERM, SIGINT), 1 if it could not start or go on, 2 if the command line is wrong.
What it has mounted stays mounted, and containers go on without it.

In containerd's configuration:

    [proxy_plugins.peerfs]
      type = \"snapshot\"
      address = \"/run/peerfs-snapshotter/snapshotter.sock\"";

impl Arguments {
    /// Where images come from, and how they are mounted.
    pub fn images(&self) -> ImageConfig {
        ImageConfig {
            root_dir: self.root_dir.clone(),
            socket: self.socket.clone(),
            program: self.peerfs.clone().unwrap_or_else(beside),
            mount_options: self.mount_options.clone(),
            policy: self.policy.clone(),
            timeout: Duration::from_secs(self.timeout.into()),
            catalogues: self.layers.clone(),
        }
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(Reference::Published { .. }) => Ok(text.to_owned()),
        _ => Err("KEY/NAME is expected, as `peerfs publish-layers` prints it".to_owned()),
    }
}

/// `peerfs` beside this program, or that of PATH.
fn beside() -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join("peerfs")));
    beside
        .filter(|program| program.exists())
        .unwrap_or_else(|| PathBuf::from("peerfs"))
}

/// The man page of section 8, for troff.
///
/// # Errors
/// None that memory does not give.
pub fn man_page() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(Arguments::command())
        .section("8")
        .render(&mut page)?;
    Ok(page)
}
