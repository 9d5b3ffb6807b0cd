// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image as everybody has them: an OCI image with the files in a layer.

use oci_spec::image::{
    Arch, ImageConfiguration, ImageManifestBuilder, MediaType, Os, RootFs, SCHEMA_VERSION,
};
use peerfs_format::Digest;

use crate::descriptor::{describe, descriptor};
use crate::{Architecture, Result};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LayerFormat {
    /// Not.
    Tar,
    /// By gzip.
    Gzip,
    /// By Zstandard.
    Zstd,
}

/// A layer of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layer {
    /// How it is compressed.
    pub format: LayerFormat,
    /// The digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub length: u64,
    /// The digest of the tar in it.
    pub tar: Digest,
}

/// An OCI image of one layer, without that.
#[derive(Debug)]
pub struct PlainImage {
    /// The configuration.
    pub config: Vec<u8>,
    /// The OCI image manifest, which leads to it and the layer.
    pub manifest: Vec<u8>,
}

impl PlainImage {
    /// The image of a layer that is run as `config` says, the configuration of another image: all of it is kept but what is
    /// said of its layers. Without one the image is for programs of this architecture.
    ///
    /// # Errors
    /// [`crate::Error::Json`] if the configuration is none.
    pub fn new(layer: &Layer, config: Option<&[u8]>, architecture: &Architecture) -> Result<Self> {
        let mut configuration: ImageConfiguration = match config {
            Some(config) => serde_json::from_slice(config)?,
            None => {
                let mut none = ImageConfiguration::default();
                none.set_architecture(Arch::from(architecture.as_str()))
                    .set_os(Os::Linux);
                none
            }
        };
        let mut root = RootFs::default();
        root.set_diff_ids(vec![format!("sha256:{}", layer.tar)]);
        configuration.set_rootfs(root).set_history(None);
        // By way of a value, whose keys are sorted: maps are not.
        let config = serde_json::to_vec(&serde_json::to_value(&configuration)?)?;
        let media_type = match layer.format {
            LayerFormat::Tar => MediaType::ImageLayer,
            LayerFormat::Gzip => MediaType::ImageLayerGzip,
            LayerFormat::Zstd => MediaType::ImageLayerZstd,
        };
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(describe(MediaType::ImageConfig, &config))
            .layers(vec![descriptor(media_type, &layer.digest, layer.length)])
            .build()
            .expect("all mandatory fields are set");
        Ok(PlainImage {
            config,
            manifest: serde_json::to_vec(&manifest)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: Layer = Layer {
        format: LayerFormat::Zstd,
        digest: Digest([1; 32]),
        length: 5,
        tar: Digest([2; 32]),
    };

    #[test]
    fn what_is_said_of_running_it_is_kept() {
        let config = r#"{"architecture":"arm64","os":"linux","created":"2020-01-01T00:00:00Z",
            "config":{"Env":["A=b"],"Entrypoint":["/x"]},"rootfs":{"type":"layers","diff_ids":["sha256:00","sha256:11"]},
            "history":[{"created_by":"somebody"},{"empty_layer":true}]}"#;
        let unknown = Architecture::unknown();
        let image = PlainImage::new(&LAYER, Some(config.as_bytes()), &unknown).unwrap();
        let text = String::from_utf8(image.config).unwrap();
        for kept in [
            "arm64",
            "2020-01-01",
            r#""Env":["A=b"]"#,
            "/x",
            &"02".repeat(32),
        ] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        assert!(
            !text.contains("somebody") && !text.contains("sha256:11"),
            "{text}"
        );
        let text = String::from_utf8(image.manifest).unwrap();
        assert!(
            text.contains("layer.v1.tar+zstd") && text.contains(&"01".repeat(32)),
            "{text}"
        );
        assert!(PlainImage::new(&LAYER, Some(b"[]"), &unknown).is_err());
    }

    /// The bytes are a promise.
    #[test]
    fn an_image_is_the_same_wherever_it_is_made() {
        let image = PlainImage::new(&LAYER, None, &"amd64".parse().unwrap()).unwrap();
        assert_eq!(
            String::from_utf8(image.config).unwrap(),
            format!(
                r#"{{"architecture":"amd64","os":"linux","rootfs":{{"diff_ids":["sha256:{}"],"type":"layers"}}}}"#,
                "02".repeat(32)
            )
        );
    }
}
