// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs publish-layers`.

use std::os::unix::fs::symlink;

use clap::Args;
use peerfs_build::{DirectorySource, Limits, Owner};
use peerfs_format::Digest;
use peerfs_oci::Platform;
use peerfs_store::{Store, Tag};

use super::publish::{Signer, SignerArguments, Terms};
use crate::arguments::{MakeArguments, Profile, StoreArguments};
use crate::build::{Maker, Origin};
use crate::error::{Error, Result};
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
    let tag: Tag = name.parse()?;
    let make = make_arguments(&arguments.signer, tag.clone());
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
    let catalogue = catalogue(&maker, &layers, &tag)?;
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

/// An image that lists layers: a symbolic link for each, called by its id, which leads to the manifest.
fn catalogue(maker: &Maker<'_>, layers: &[(Digest, Digest)], tag: &Tag) -> Result<Digest> {
    let folder = tempfile::tempdir().map_err(|source| Error::Write {
        path: std::env::temp_dir(),
        source,
    })?;
    for (id, manifest) in layers {
        let link = folder.path().join(id.to_string());
        symlink(manifest.to_string(), &link)
            .map_err(|source| Error::Write { path: link, source })?;
    }
    // The same list is the same image, whoever makes it and when.
    let source = DirectorySource::new(folder.path(), &maker.store)
        .owner(Some(Owner { uid: 0, gid: 0 }))
        .latest(Some(0));
    let made = maker.make_as(source, &Origin::default(), tag, |_| ())?;
    Ok(made.image.manifest)
}

fn make_arguments(signer: &SignerArguments, tag: Tag) -> MakeArguments {
    MakeArguments {
        store: StoreArguments {
            root_dir: signer.store.root_dir.clone(),
        },
        tag,
        base: Vec::new(),
        profile: Profile::Default,
        compression: None,
        architecture: None,
        whole: false,
        threads: None,
        json: false,
    }
}
