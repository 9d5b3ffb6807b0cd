// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs publish-layers`.

use clap::Args;
use peerfs_build::Limits;
use peerfs_format::Digest;
use peerfs_oci::Platform;
use peerfs_store::Store;

use super::list::{make_arguments, make_list};
use super::publish::{Signer, SignerArguments, Terms};
use crate::build::Maker;
use crate::error::Result;
use crate::import::layers::Sources;
use crate::import::source::parse_size;
use crate::output::tell;

/// Sign what the layers of ordinary images for containers unpack to, and tell everybody.
///
/// Nodes whose peerfs-snapshotter trusts your key (its --layers) start such an image without fetching and unpacking its layers, although it is
/// as its publisher has made it. Each layer that is not in the store yet, with those below it, becomes an image of peerfs there, which is
/// called NAME/ID by the id that runtimes give it (the chain id). An image that lists all that are called so is published as KEY/NAME: without a
/// SOURCE again what is there. Prints the whole name.
#[derive(Args)]
pub(crate) struct PublishLayersArguments {
    #[command(flatten)]
    signer: SignerArguments,
    /// The name: what follows the slash behind your key.
    #[arg(long, value_name = "NAME", default_value = "layers")]
    name: String,
    /// What machines the image is to be for, if there are several; by default for such as this one.
    #[arg(long, value_name = "OS/ARCHITECTURE[/VARIANT]")]
    platform: Option<Platform>,
    /// How many bytes layers may take when they are decompressed, with k, M, G or T for powers of 1024.
    #[arg(long, value_name = "SIZE", default_value = "256G", value_parser = parse_size)]
    max_size: u64,
    /// Images of registries, REGISTRY/NAME[:TAG|@DIGEST], or directories with OCI image layouts, oci:DIRECTORY[:NAME].
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
}

/// Makes images of layers, and publishes which there are.
pub(crate) fn run(arguments: &PublishLayersArguments) -> Result<()> {
    let signer = Signer::new(&arguments.signer, &arguments.name)?;
    let name = &arguments.name;
    let make = make_arguments(&arguments.signer.store, name.parse()?);
    let maker = Maker::new(&make)?;
    let sources = Sources {
        platform: arguments.platform.as_ref(),
        registry: &arguments.signer.access,
        limits: Limits {
            unpacked: arguments.max_size,
            ..Limits::default()
        },
    };
    for source in &arguments.sources {
        sources.make_layers(&maker, source, name)?;
    }
    let layers = layers(&maker.store, name)?;
    let links = layers
        .iter()
        .map(|(id, manifest)| (id.to_string(), manifest.to_string()));
    let catalogue = make_list(&maker, links, &make.tag)?;
    tell(&format!("{} layers are listed", layers.len()));
    signer.publish(catalogue, Terms::default())
}

/// The layers of the store by their ids.
fn layers(store: &Store, name: &str) -> Result<Vec<(Digest, Digest)>> {
    let mut layers = Vec::new();
    for image in store.images()? {
        for tag in &image.tags {
            let id = tag
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('/'));
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                layers.push((id, image.manifest));
            }
        }
    }
    Ok(layers)
}
