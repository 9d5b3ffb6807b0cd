// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of containers, as others make them: which layers they have, and how their programs are run. OCI's manifests and
//! configurations, those of Docker (schema 2), and the `manifest.json` of `docker save`.
//!
//! Sources: the [OCI image specification] 1.1, and Docker's "Image Manifest Version 2, Schema 2" and "Docker Image
//! Specification" 1.2.
//!
//! [OCI image specification]: https://github.com/opencontainers/image-spec/tree/v1.1.1

use oci_spec::image::{ImageConfiguration, ImageManifest};
use peerfs_format::Digest;
use serde::Deserialize;

use crate::children::{is_same_name, list};
use crate::descriptor::sha256;
use crate::document::BlobInfo;
use crate::runnable::MANIFEST_ANNOTATION;
use crate::{media_type, Architecture, Error, Platform, Result, RuntimeConfig};

/// The most layers of an image: overlayfs, by which others run them, has room for fewer.
const LAYERS_MAX: usize = 4096;

/// An image's layers and configuration.
#[derive(Clone, Debug)]
pub struct ContainerManifest {
    /// The configuration.
    pub config: BlobInfo,
    /// The layers, the lowest one first.
    pub layers: Vec<BlobInfo>,
}

impl ContainerManifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Error::Json`]; [`Error::NotAContainer`] if it is one of something else, such as a peerfs image; and
    /// [`Error::Unsupported`].
    pub fn parse(text: &[u8]) -> Result<Self> {
        let manifest: ImageManifest = serde_json::from_slice(text)?;
        let layers = manifest.layers();
        if layers.len() > LAYERS_MAX {
            return Err(Error::Unsupported("it has too many layers"));
        }
        for layer in layers {
            let kind = layer.media_type().as_ref();
            let annotations = layer.annotations().as_ref();
            let is_stub = annotations.is_some_and(|all| all.contains_key(MANIFEST_ANNOTATION));
            if kind.starts_with(media_type::PREFIX) || is_stub {
                return Err(Error::NotAContainer("it is a peerfs image already"));
            }
            if kind.ends_with("+encrypted") {
                return Err(Error::Unsupported("its layers are encrypted"));
            }
            // The compression is told by the bytes.
            let is_layer = kind.starts_with("application/vnd.oci.image.layer.")
                || kind.starts_with("application/vnd.docker.image.rootfs.");
            if !is_layer {
                return Err(Error::NotAContainer(
                    "its layers are no layers of a container image",
                ));
            }
        }
        let layers = layers.iter().map(BlobInfo::new);
        Ok(ContainerManifest {
            config: BlobInfo::new(manifest.config())?,
            layers: layers.collect::<Result<_>>()?,
        })
    }
}

/// The configuration of an image.
#[derive(Clone, Debug)]
pub struct ContainerConfig {
    /// What it is for.
    pub platform: Platform,
    /// How its programs are run.
    pub runtime: RuntimeConfig,
    /// The digests of its layers, once they are decompressed: the lowest one first.
    pub diff_ids: Vec<Digest>,
}

impl ContainerConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Error::Json`]; [`Error::Unsupported`].
    pub fn parse(text: &[u8]) -> Result<Self> {
        let config: ImageConfiguration = serde_json::from_slice(text)?;
        let os = config.os().to_string();
        if os != "linux" {
            return Err(Error::Unsupported("it is not for Linux"));
        }
        let diff_ids = config.rootfs().diff_ids().iter().map(|text| {
            let digits = text
                .strip_prefix("sha256:")
                .and_then(|digits| digits.parse().ok());
            digits.ok_or(Error::Unsupported(
                "it names a layer by another digest than a SHA-256",
            ))
        });
        let architecture = config.architecture().to_string().parse();
        Ok(ContainerConfig {
            platform: Platform {
                os,
                architecture: architecture.unwrap_or_else(|_| Architecture::unknown()),
                variant: config.variant().clone(),
            },
            runtime: config.config().clone().unwrap_or_default(),
            diff_ids: diff_ids.collect::<Result<_>>()?,
        })
    }
}

/// What runtimes call the contents of an image's layers laid over one another: for each the digest that stands for it and all below
/// it (`ChainID` of the OCI image specification, config.md), the lowest first.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let over = |below: &mut Option<Digest>, diff_id: &Digest| {
        let id = match *below {
            None => *diff_id,
            Some(below) => sha256(format!("sha256:{below} sha256:{diff_id}").as_bytes()),
        };
        *below = Some(id);
        Some(id)
    };
    diff_ids.iter().scan(None, over).collect()
}

/// An image in an archive of `docker save`, by the names of files in that.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    /// The configuration.
    pub config: String,
    /// What it is called.
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    /// The layers, the lowest one first.
    #[serde(default)]
    pub layers: Vec<String>,
}

impl DockerImage {
    /// The image of a `manifest.json` that is called `name`; without a name there must be one only.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::NoSuchImage`], [`Error::SeveralImages`], [`Error::Unsupported`].
    pub fn select(text: &[u8], name: Option<&str>) -> Result<Self> {
        let images: Vec<DockerImage> = serde_json::from_slice(text)?;
        let tags = |image: &DockerImage| image.repo_tags.clone().unwrap_or_default();
        let known = list(images.iter().flat_map(tags));
        let mut found = images.into_iter().filter(|image| {
            name.is_none_or(|name| tags(image).iter().any(|tag| is_same_name(tag, name)))
        });
        let image = match (found.next(), found.next()) {
            (Some(image), None) => image,
            (None, _) => {
                let name = name.map(str::to_owned);
                return Err(Error::NoSuchImage { name, known });
            }
            (Some(_), Some(_)) => return Err(Error::SeveralImages(known)),
        };
        if image.layers.len() > LAYERS_MAX {
            return Err(Error::Unsupported("it has too many layers"));
        }
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_container_is_refused() {
        let manifest = |layer: &str, rest: &str| {
            let digest = Digest([1; 32]);
            let text = format!(
                r#"{{"schemaVersion":2,
                "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","size":1,"digest":"sha256:{digest}"}},
                "layers":[{{"mediaType":"{layer}","size":1,"digest":"sha256:{digest}"{rest}}}]}}"#
            );
            ContainerManifest::parse(text.as_bytes())
        };
        for layer in [
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            assert!(manifest(layer, "").is_ok(), "{layer}");
        }
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let stub = r#","annotations":{"containerd.io/snapshot/peerfs.manifest":"x"}"#;
        for refused in [
            manifest("application/vnd.peerfs.manifest.v1", ""),
            manifest(layer, stub),
            manifest("application/vnd.cncf.helm.chart.content.v1.tar+gzip", ""),
        ] {
            assert!(
                matches!(refused, Err(Error::NotAContainer(_))),
                "{refused:?}"
            );
        }
        for wrong in [
            "",
            "{}",
            "[]",
            "null",
            "{\"manifests\":1}",
            &"[".repeat(100_000),
        ] {
            assert!(
                ContainerManifest::parse(wrong.as_bytes()).is_err(),
                "{wrong:.20}"
            );
            assert!(
                ContainerConfig::parse(wrong.as_bytes()).is_err(),
                "{wrong:.20}"
            );
            assert!(
                DockerImage::select(wrong.as_bytes(), None).is_err(),
                "{wrong:.20}"
            );
        }
    }

    #[test]
    fn what_lies_over_one_another_is_called_as_other_runtimes_do() {
        let digests = |texts: &[&str]| -> Vec<Digest> {
            texts
                .iter()
                .map(|text| text.repeat(32).parse().unwrap())
                .collect()
        };
        let diff_ids = digests(&["01", "02", "03"]);
        let ids = chain_ids(&diff_ids);
        assert_eq!(ids[0], diff_ids[0]);
        // printf 'sha256:%s sha256:%s' BELOW DIFF_ID | sha256sum
        assert_eq!(
            ids[1].to_string(),
            "ad00036de6f26a309d173ace61d4a45573a1658ab0ff36e3858c3dbee3c5ded8"
        );
        assert_eq!(
            ids[2].to_string(),
            "2690b9516a9b1e0307ef06e281ea649d944ea2c6e5444d6364fa0f1372bb7d07"
        );
        assert_eq!(chain_ids(&[]), []);
    }

    #[test]
    fn a_configuration_is_kept() {
        let text = r#"{"architecture":"arm","variant":"v7","os":"linux",
            "config":{"Env":["A=b"],"Cmd":null,"Healthcheck":{"Test":["NONE"]}},
            "rootfs":{"type":"layers","diff_ids":["sha256:DIGEST"]}}"#;
        let text = text.replace("DIGEST", &Digest([7; 32]).to_string());
        let config = ContainerConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.platform.to_string(), "linux/arm/v7");
        assert_eq!(config.runtime.env(), &Some(vec!["A=b".to_owned()]));
        assert_eq!(config.diff_ids, [Digest([7; 32])]);
        let other = text.replace("linux", "windows");
        assert!(matches!(
            ContainerConfig::parse(other.as_bytes()),
            Err(Error::Unsupported(_))
        ));
    }
}
