// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of containers in a registry: their layers are read as they come.

use std::path::PathBuf;

use peerfs_build::GiveUp;
use peerfs_fetch::source::layers;
use peerfs_oci::{ContainerManifest, Platform, RegistryReference};
use peerfs_registry::{Remote, RemoteImage};
use peerfs_sys::interrupt;
use tokio::runtime::Runtime;

use super::container::{parse_config, refused_at, Container};
use crate::arguments::RegistryArguments;
use crate::error::{Error, Result};
use crate::push::{options, until_interrupted};

/// The image that a reference stands for, and what gets its layers: as long as that is there, they come.
pub(super) fn container(
    reference: &RegistryReference,
    registry: &RegistryArguments,
    platform: Option<&Platform>,
) -> Result<(Container, Runtime)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let path = PathBuf::from(reference.to_string());
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    let remote = Remote::repository(reference, &options(registry))?;
    let found = runtime.block_on(until_interrupted(async {
        let image = match remote.image(reference, &wanted).await? {
            RemoteImage::Ordinary(image) => image,
            RemoteImage::Peerfs(_) => return Ok(None),
        };
        let config = remote.config(&image).await?;
        Ok::<_, peerfs_registry::Error>(Some((image, config)))
    }))?;
    let Some((image, config)) = found else {
        return Err(Error::Import {
            path,
            problem: "it is an image of peerfs: `peerfs pull` brings it as it is",
        });
    };
    let manifest = ContainerManifest::parse(&image.manifest.bytes).map_err(refused_at(&path))?;
    let config = parse_config(&path, &config, platform, manifest.layers.len())?;
    let give_up = GiveUp::when(interrupt::is_requested);
    let layers = {
        let _entered = runtime.enter();
        layers(&path, &manifest, &config, &remote, &give_up)
    };
    Ok((Container { layers, config }, runtime))
}
