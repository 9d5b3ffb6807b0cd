// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a client asks a registry for: paths and ranges, as OCI's distribution specification has them.

use std::ops::Range;

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

/// The part of a blob that a `Range` header asks for. None is all of it, as for what is not understood and for several at
/// once, to which a server may answer so.
///
/// # Errors
/// If nothing of it is there.
pub(crate) fn range(header: Option<&str>, length: u64) -> Result<Option<Range<u64>>, OutOfRange> {
    let Some(range) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = range.split_once('-') else {
        return Ok(None);
    };
    let (first, last) = (first.trim(), last.trim());
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.is_empty() => first..length,
        (Err(_), Ok(count)) if first.is_empty() => length.saturating_sub(count)..length,
        _ => return Ok(None),
    };
    match range.is_empty() {
        true => Err(OutOfRange),
        false => Ok(Some(range)),
    }
}

/// A range of which nothing is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct OutOfRange;

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

    #[test]
    fn ranges_end_with_the_blob() {
        for (header, expected) in [
            ("bytes=0-0", Ok(Some(0..1))),
            ("bytes=5-", Ok(Some(5..10))),
            ("bytes=5-99", Ok(Some(5..10))),
            ("bytes=-3", Ok(Some(7..10))),
            ("bytes=-99", Ok(Some(0..10))),
            ("bytes=10-", Err(OutOfRange)),
            ("bytes=-0", Err(OutOfRange)),
            ("bytes=0-1,4-5", Ok(None)),
            ("bytes=5-4", Ok(None)),
            ("bytes=x", Ok(None)),
            ("items=0-1", Ok(None)),
        ] {
            assert_eq!(range(Some(header), 10), expected, "{header}");
        }
        assert_eq!(range(None, 10), Ok(None));
    }
}
