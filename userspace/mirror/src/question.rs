// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a client asks a registry for: paths and ranges, as OCI's distribution specification has them.

use peerfs_format::Digest;

/// What a path stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Question {
    /// Whether this is a registry.
    Base,
    /// An index or a manifest.
    Manifest {
        /// The name of the repository.
        name: String,
        /// Which.
        which: Which,
    },
    /// A blob.
    Blob {
        /// The name of the repository.
        name: String,
        /// Its digest.
        digest: Digest,
    },
}

/// What an index or a manifest is called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Which {
    /// By its digest.
    Digest(Digest),
    /// By a tag.
    Tag(String),
}

impl Question {
    /// What a path asks for; None if it is nothing that can be pulled.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?;
        if matches!(rest, "" | "/") {
            return Some(Question::Base);
        }
        // Clients may write a colon otherwise, and need to write nothing else so.
        let rest = rest.strip_prefix('/')?.replace("%3A", ":");
        let (rest, last) = rest.rsplit_once('/')?;
        let (name, kind) = rest.rsplit_once('/')?;
        let name = name.to_owned();
        let digest = last.strip_prefix("sha256:").map(str::parse::<Digest>);
        match (kind, digest) {
            ("manifests", Some(digest)) => Some(Question::Manifest {
                name,
                which: Which::Digest(digest.ok()?),
            }),
            ("manifests", None) => Some(Question::Manifest {
                name,
                which: Which::Tag(last.to_owned()),
            }),
            ("blobs", Some(digest)) => Some(Question::Blob {
                name,
                digest: digest.ok()?,
            }),
            _ => None,
        }
    }
}

/// What containerd adds for the registry that a mirror stands for: `ns=registry.example`.
pub(crate) fn namespace(query: Option<&str>) -> Option<String> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == "ns")?;
    Some(value.replace("%3A", ":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_the_specification_says() {
        let digest: Digest = "a".repeat(64).parse().unwrap();
        let blob = Question::Blob {
            name: "team/base".to_owned(),
            digest,
        };
        for path in [
            format!("/v2/team/base/blobs/sha256:{digest}"),
            format!("/v2/team/base/blobs/sha256%3A{digest}"),
        ] {
            assert_eq!(Question::parse(&path), Some(blob.clone()), "{path}");
        }
        // A repository may be called as a part of the path is.
        let path = "/v2/manifests/blobs/manifests/12";
        let expected = Question::Manifest {
            name: "manifests/blobs".to_owned(),
            which: Which::Tag("12".to_owned()),
        };
        assert_eq!(Question::parse(path), Some(expected));
        assert_eq!(Question::parse("/v2/"), Some(Question::Base));
        for path in [
            "/",
            "/v2x",
            "/v2/a",
            "/v2/manifests/1",
            "/v2/a/blobs/12",
            "/v2/a/blobs/sha256:12",
            "/v2/a/manifests/sha256:12",
            "/v2/a/tags/list",
            "/v2/a/blobs/uploads/",
        ] {
            assert_eq!(Question::parse(path), None, "{path}");
        }
    }

    #[test]
    fn the_registry_is_in_the_query() {
        let namespace = |query| namespace(Some(query));
        assert_eq!(namespace("ns=a.example"), Some("a.example".to_owned()));
        assert_eq!(namespace("x=1&ns=a%3A5000"), Some("a:5000".to_owned()));
        assert_eq!(namespace("xns=a"), None);
    }
}
