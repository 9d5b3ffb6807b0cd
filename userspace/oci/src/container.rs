// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of containers, as others make them: which layers they have, and how their programs are run. OCI's indexes,
//! manifests and configurations, those of Docker (schema 2), and the `manifest.json` of `docker save`.
//!
//! Sources: the [OCI image specification] 1.1, and Docker's "Image Manifest Version 2, Schema 2" and "Docker Image
//! Specification" 1.2.
//!
//! [OCI image specification]: https://github.com/opencontainers/image-spec/tree/v1.1.1

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use peerfs_format::Digest;
use serde::Deserialize;

use crate::document::BlobInfo;
use crate::runnable::MANIFEST_ANNOTATION;
use crate::{media_type, Architecture, Error, Platform, Result, RuntimeConfig};

/// The annotation by which an index of `docker save` says what an image is called.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation of what an index says of another image, such as how it came about.
const DOCKER_REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The most layers of an image: overlayfs, by which others run them, has room for fewer.
const LAYERS_MAX: usize = 4096;
/// The most names that a message lists.
const LISTED: usize = 10;

/// What a digest in an index leads to.
#[derive(Debug)]
pub enum ContainerDocument {
    /// Images, for platforms or of different names.
    Index(ContainerIndex),
    /// An image.
    Manifest(ContainerManifest),
}

impl ContainerDocument {
    /// Reads an index or a manifest, whichever it is.
    ///
    /// # Errors
    /// [`Error::Json`], and those of what it is read as.
    pub fn parse(text: &[u8]) -> Result<Self> {
        /// What tells them apart, since the media type may be left out.
        #[derive(Deserialize)]
        struct Kind {
            manifests: Option<serde::de::IgnoredAny>,
        }
        match serde_json::from_slice(text)? {
            Kind { manifests: Some(_) } => {
                Ok(ContainerDocument::Index(ContainerIndex::parse(text)?))
            }
            Kind { manifests: None } => {
                Ok(ContainerDocument::Manifest(ContainerManifest::parse(text)?))
            }
        }
    }
}

/// An index.
#[derive(Debug)]
pub struct ContainerIndex(Vec<IndexEntry>);

/// An entry of an index that may lead to an image.
#[derive(Debug)]
struct IndexEntry {
    blob: BlobInfo,
    platform: Option<Platform>,
    /// What it is called, if that is said.
    names: Vec<String>,
}

impl ContainerIndex {
    /// Reads an index. What can't lead to an image of a container is left out.
    ///
    /// # Errors
    /// [`Error::Json`].
    pub fn parse(text: &[u8]) -> Result<Self> {
        let index: ImageIndex = serde_json::from_slice(text)?;
        let entries = index.manifests().iter();
        Ok(ContainerIndex(entries.filter_map(index_entry).collect()))
    }

    /// The entry of the image that is called `name` (by its tag, its whole name or its digest) and is for this platform:
    /// a manifest or another index. Without a name there must be one image only.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::SeveralImages`], [`Error::WrongPlatform`].
    pub fn select(&self, name: Option<&str>, platform: &Platform) -> Result<&BlobInfo> {
        let is_called = |entry: &&IndexEntry| match name {
            None => true,
            Some(name) => {
                let digest = format!("sha256:{}", entry.blob.digest);
                digest == name
                    || digest == format!("sha256:{name}")
                    || entry.names.iter().any(|other| is_same_name(other, name))
            }
        };
        let called: Vec<&IndexEntry> = self.0.iter().filter(is_called).collect();
        if called.is_empty() {
            return Err(Error::NoSuchImage {
                name: name.map(str::to_owned),
                known: self.names(),
            });
        }
        // The first of those that are suited best.
        let rated = called.iter().filter_map(|entry| match &entry.platform {
            None => Some((0, *entry)),
            Some(offered) => Some((platform.suits(offered)?, *entry)),
        });
        let best = rated.fold(
            None,
            |best: Option<(u32, &IndexEntry)>, (rate, entry)| match best {
                Some((most, _)) if most >= rate => best,
                _ => Some((rate, entry)),
            },
        );
        let (rate, best) = best.ok_or_else(|| Error::WrongPlatform {
            wanted: platform.to_string(),
            offered: list(called.iter().filter_map(|entry| entry.platform.as_ref())),
        })?;
        // Of the same platform, or of one that nothing says, there must be no other.
        let is_other = |entry: &&&IndexEntry| {
            let suits = match &entry.platform {
                None => Some(0),
                Some(offered) => platform.suits(offered),
            };
            suits == Some(rate) && entry.blob.digest != best.blob.digest
        };
        match called.iter().find(is_other) {
            Some(_) if name.is_none() || best.platform.is_none() => {
                Err(Error::SeveralImages(self.names()))
            }
            _ => Ok(&best.blob),
        }
    }

    fn names(&self) -> String {
        let names = self.0.iter().map(|entry| match entry.names.first() {
            Some(name) => name.clone(),
            None => format!("sha256:{}", entry.blob.digest),
        });
        list(names)
    }
}

fn index_entry(entry: &Descriptor) -> Option<IndexEntry> {
    let annotation = |key: &str| Some(entry.annotations().as_ref()?.get(key)?.clone());
    if annotation(DOCKER_REFERENCE_TYPE).is_some() {
        return None;
    }
    let platform = entry.platform().as_ref().and_then(|platform| {
        Some(Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string().parse().ok()?,
            variant: platform
                .variant()
                .clone()
                .filter(|variant| !variant.is_empty()),
        })
    });
    let is_known = |platform: &Platform| platform.os != "unknown";
    if platform
        .as_ref()
        .is_some_and(|platform| !is_known(platform))
    {
        return None;
    }
    let keys = [crate::index::TAG_ANNOTATION, CONTAINERD_NAME];
    Some(IndexEntry {
        blob: BlobInfo::new(entry).ok()?,
        platform,
        names: keys.into_iter().filter_map(annotation).collect(),
    })
}

/// Whether two names mean the same, one of which may leave out what is usual: `busybox` for
/// `docker.io/library/busybox:latest`.
fn is_same_name(one: &str, other: &str) -> bool {
    fn whole(name: &str) -> String {
        let tail = name.rsplit('/').next().unwrap_or_default();
        let tag = if tail.contains(':') { "" } else { ":latest" };
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        format!("{name}{tag}")
    }
    one == other || whole(one) == whole(other)
}

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

/// Some of the names, for a message.
fn list(names: impl IntoIterator<Item = impl ToString>) -> String {
    let mut names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    let mut text = names.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if text.is_empty() {
        text.push_str("none");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u8, rest: &str) -> String {
        let digest = Digest([number; 32]);
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":{number},"digest":"sha256:{digest}"{rest}}}"#
        )
    }

    fn index(entries: &[String]) -> ContainerIndex {
        let entries = entries.join(",");
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
        match ContainerDocument::parse(text.as_bytes()).unwrap() {
            ContainerDocument::Index(index) => index,
            ContainerDocument::Manifest(_) => panic!("it is an index"),
        }
    }

    fn on(platform: &str) -> String {
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        let variant = parts.next().unwrap_or_default();
        format!(
            r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
        )
    }

    fn called(name: &str) -> String {
        format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#)
    }

    fn select(index: &ContainerIndex, name: Option<&str>, platform: &str) -> Result<u64> {
        let blob = index.select(name, &platform.parse().unwrap());
        blob.map(|blob| blob.length)
    }

    #[test]
    fn the_platform_chooses() {
        let statement = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
        let index = index(&[
            entry(1, &on("linux/arm/v6")),
            entry(2, &on("linux/arm/v7")),
            entry(3, &on("linux/amd64")),
            entry(4, &on("unknown/unknown")),
            entry(5, statement),
            entry(6, &on("windows/amd64")),
        ]);
        for (platform, expected) in [
            ("linux/arm", 2),
            ("linux/arm/v6", 1),
            ("linux/arm/v8", 2),
            ("linux/amd64", 3),
            ("windows/amd64", 6),
        ] {
            assert_eq!(
                select(&index, None, platform).unwrap(),
                expected,
                "{platform}"
            );
        }
        let refused = select(&index, None, "linux/s390x");
        assert!(
            matches!(refused, Err(Error::WrongPlatform { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn the_name_chooses() {
        let index = index(&[
            entry(1, &called("one")),
            entry(2, &called("docker.io/library/busybox:latest")),
            entry(3, ""),
        ]);
        let digest = format!("sha256:{}", Digest([3; 32]));
        for (name, expected) in [
            ("one", 1),
            ("busybox", 2),
            ("busybox:latest", 2),
            (&digest, 3),
        ] {
            assert_eq!(select(&index, Some(name), "linux/amd64").unwrap(), expected);
        }
        let refused = select(&index, Some("two"), "linux/amd64");
        assert!(
            matches!(refused, Err(Error::NoSuchImage { .. })),
            "{refused:?}"
        );
        let refused = select(&index, None, "linux/amd64");
        assert!(
            matches!(refused, Err(Error::SeveralImages(_))),
            "{refused:?}"
        );
    }

    #[test]
    fn what_is_no_container_is_refused() {
        let manifest = |layer: &str, rest: &str| {
            let digest = Digest([1; 32]);
            let text = format!(
                r#"{{"schemaVersion":2,
                "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","size":1,"digest":"sha256:{digest}"}},
                "layers":[{{"mediaType":"{layer}","size":1,"digest":"sha256:{digest}"{rest}}}]}}"#
            );
            ContainerDocument::parse(text.as_bytes())
        };
        for layer in [
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            assert!(
                matches!(manifest(layer, ""), Ok(ContainerDocument::Manifest(_))),
                "{layer}"
            );
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
                ContainerDocument::parse(wrong.as_bytes()).is_err(),
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
