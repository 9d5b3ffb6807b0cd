// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an index leads to: images of several names, or one for several platforms; and which of them is meant.

use oci_spec::image::{Descriptor, ImageIndex};

use crate::document::BlobInfo;
use crate::{Architecture, Error, Platform, Result};

/// The annotation by which an index of `docker save` says what an image is called.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation of what an index says of another image, such as how it came about.
const DOCKER_REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The operating system of what is no image to be run.
const UNKNOWN: &str = "unknown";
/// The most entries of an index that are looked at.
const ENTRIES_MAX: usize = 100_000;
/// The most names that a message lists.
const LISTED: usize = 10;

/// What an index leads to, in its order. What is named by another digest than a SHA-256 is left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Children(Vec<Child>);

/// A manifest that an index leads to, or another index.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Child {
    /// What it is.
    pub blob: BlobInfo,
    /// What it is for, if the index says that.
    pub platform: Option<Platform>,
    /// What it is called, if the index says that.
    names: Vec<String>,
    /// Whether it tells of another image.
    is_reference: bool,
}

impl Children {
    pub(crate) fn new(index: &ImageIndex) -> Self {
        let entries = index.manifests().iter().take(ENTRIES_MAX);
        Children(entries.filter_map(Child::new).collect())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Child> {
        self.0.iter()
    }

    /// The image for this platform: of those that are suited best the first one, as OCI's specification has it. One that
    /// says nothing of platforms comes last.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::WrongPlatform`].
    pub fn for_platform(&self, platform: &Platform) -> Result<&BlobInfo> {
        let images: Vec<&Child> = self.images().collect();
        Ok(&self.best(&images, None, platform)?.1.blob)
    }

    /// The image that is called `name` (by its tag, its whole name or its digest) and is for this platform. Without a name
    /// there must be one image only.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::SeveralImages`], [`Error::WrongPlatform`].
    pub fn called(&self, name: Option<&str>, platform: &Platform) -> Result<&BlobInfo> {
        let images = self.images();
        let called = images.filter(|child| name.is_none_or(|name| child.is_called(name)));
        let called: Vec<&Child> = called.collect();
        let (rate, best) = self.best(&called, name, platform)?;
        // Of the same platform, or of one that nothing says, there must be no other.
        let is_other = |child: &&&Child| {
            child.suits(platform) == Some(rate) && child.blob.digest != best.blob.digest
        };
        match called.iter().find(is_other) {
            Some(_) if name.is_none() || best.platform.is_none() => {
                Err(Error::SeveralImages(self.names()))
            }
            _ => Ok(&best.blob),
        }
    }

    /// Those that may be run.
    fn images(&self) -> impl Iterator<Item = &Child> {
        self.iter().filter(|child| child.may_be_run())
    }

    /// The first one of some that are suited best, and how well.
    fn best<'a>(
        &self,
        some: &[&'a Child],
        name: Option<&str>,
        platform: &Platform,
    ) -> Result<(u32, &'a Child)> {
        if some.is_empty() {
            return Err(Error::NoSuchImage {
                name: name.map(str::to_owned),
                known: self.names(),
            });
        }
        let rated = some.iter().rev();
        let rated = rated.filter_map(|child| Some((child.suits(platform)?, *child)));
        let best = rated.max_by_key(|(rate, _)| *rate);
        best.ok_or_else(|| Error::WrongPlatform {
            wanted: platform.to_string(),
            offered: list(some.iter().filter_map(|child| child.platform.as_ref())),
        })
    }

    fn names(&self) -> String {
        list(self.images().map(|child| match child.names.first() {
            Some(name) => name.clone(),
            None => format!("sha256:{}", child.blob.digest),
        }))
    }
}

impl Child {
    fn new(entry: &Descriptor) -> Option<Self> {
        let annotation = |key: &str| Some(entry.annotations().as_ref()?.get(key)?.clone());
        let platform = entry.platform().as_ref().map(|platform| Platform {
            os: platform.os().to_string(),
            architecture: platform
                .architecture()
                .to_string()
                .parse()
                .unwrap_or_else(|_| Architecture::unknown()),
            variant: platform
                .variant()
                .clone()
                .filter(|variant| !variant.is_empty()),
        });
        let keys = [crate::index::TAG_ANNOTATION, CONTAINERD_NAME];
        Some(Child {
            blob: BlobInfo::new(entry).ok()?,
            platform,
            names: keys.into_iter().filter_map(annotation).collect(),
            is_reference: annotation(DOCKER_REFERENCE_TYPE).is_some(),
        })
    }

    /// Whether the index says that it is no image to be run: the artifact with all blobs of one of peerfs, and what tells of
    /// others.
    pub fn may_be_run(&self) -> bool {
        let os = self.platform.as_ref().map(|platform| platform.os.as_str());
        os != Some(UNKNOWN) && !self.is_reference
    }

    fn is_called(&self, name: &str) -> bool {
        let digest = format!("sha256:{}", self.blob.digest);
        digest == name
            || digest == format!("sha256:{name}")
            || self.names.iter().any(|other| is_same_name(other, name))
    }

    /// How well it is suited to a platform; None if it is not.
    fn suits(&self, platform: &Platform) -> Option<u32> {
        match &self.platform {
            None => Some(0),
            Some(offered) => platform.suits(offered),
        }
    }
}

/// Whether two names mean the same, one of which may leave out what is usual: `busybox` for
/// `docker.io/library/busybox:latest`.
pub(crate) fn is_same_name(one: &str, other: &str) -> bool {
    fn whole(name: &str) -> String {
        let tail = name.rsplit('/').next().unwrap_or_default();
        let tag = if tail.contains(':') { "" } else { ":latest" };
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        format!("{name}{tag}")
    }
    one == other || whole(one) == whole(other)
}

/// Some of the names, for a message.
pub(crate) fn list(names: impl IntoIterator<Item = impl ToString>) -> String {
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
    use peerfs_format::Digest;

    use super::*;
    use crate::Document;

    fn entry(number: u8, rest: &str) -> String {
        let digest = Digest([number; 32]);
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":{number},"digest":"sha256:{digest}"{rest}}}"#
        )
    }

    fn index(entries: &[String]) -> Children {
        let entries = entries.join(",");
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
        match Document::parse(text.as_bytes()).unwrap() {
            Document::Index(index) => index,
            Document::Manifest { .. } => panic!("it is an index"),
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

    fn select(index: &Children, name: Option<&str>, platform: &str) -> Result<u64> {
        let blob = index.called(name, &platform.parse().unwrap());
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
}
