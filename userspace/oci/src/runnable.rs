// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image as container runtimes take it: an OCI image of one layer, by which a snapshotter finds the peerfs image.

use std::collections::HashMap;

use oci_spec::image::{
    Arch, ImageConfiguration, ImageManifestBuilder, MediaType, Os, RootFs, SCHEMA_VERSION,
};

use crate::descriptor::{describe, sha256};
use crate::stub::Stub;
use crate::{Architecture, Result, RuntimeConfig};

/// The layer's annotation with the digest of the peerfs manifest. containerd hands those of this prefix to the
/// snapshotter, which then need not even have the layer.
pub const MANIFEST_ANNOTATION: &str = "containerd.io/snapshot/peerfs.manifest";

/// An OCI image, its blobs.
pub(crate) struct Runnable {
    /// The one layer.
    pub(crate) layer: Vec<u8>,
    /// The configuration.
    pub(crate) config: Vec<u8>,
    /// The OCI image manifest.
    pub(crate) manifest: Vec<u8>,
}

impl Runnable {
    /// The OCI image of a peerfs image with this manifest. Says nothing of the time, nor of the machine that makes it,
    /// so that the same image is the same here.
    pub(crate) fn new(
        peerfs_manifest: &[u8],
        architecture: &Architecture,
        config: &RuntimeConfig,
    ) -> Result<Self> {
        let stub = Stub::new(peerfs_manifest);
        let mut root = RootFs::default();
        root.set_diff_ids(vec![format!("sha256:{}", stub.tar)]);
        let mut configuration = ImageConfiguration::default();
        configuration
            .set_architecture(Arch::from(architecture.as_str()))
            .set_os(Os::Linux)
            .set_config(Some(config.clone()))
            .set_rootfs(root);
        // By way of a value, whose keys are sorted: maps are not.
        let config = serde_json::to_vec(&serde_json::to_value(&configuration)?)?;
        let mut layer = describe(MediaType::ImageLayerGzip, &stub.blob);
        let digest = format!("sha256:{}", sha256(peerfs_manifest));
        layer.set_annotations(Some(HashMap::from([(
            MANIFEST_ANNOTATION.to_owned(),
            digest,
        )])));
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(describe(MediaType::ImageConfig, &config))
            .layers(vec![layer])
            .build()
            .expect("all mandatory fields are set");
        Ok(Runnable {
            layer: stub.blob,
            config,
            manifest: serde_json::to_vec(&manifest)?,
        })
    }
}
