// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a client asks for.

use peerfs_format::Digest;

/// The blob that a path names; None if it is nothing that is given out.
pub(crate) fn blob(path: &str) -> Option<Digest> {
    let digest = path.strip_prefix("/blobs/sha256/")?;
    // As a file is called, and in no other way.
    let is_name = digest
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    digest.parse().ok().filter(|_| is_name)
}

/// Whether one of the entity tags of a header is this one, or it has `*`.
pub(crate) fn has_tag(header: Option<&str>, tag: &str) -> bool {
    let mut tags = header.unwrap_or_default().split(',').map(str::trim);
    tags.any(|other| other == "*" || other.trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_blob_has_a_path() {
        let digest = "0123456789abcdef".repeat(4);
        let path = format!("/blobs/sha256/{digest}");
        assert_eq!(blob(&path), Some(digest.parse().unwrap()));
        for path in [
            "/",
            "",
            "*",
            "/index.json",
            "/oci-layout",
            "/signatures",
            "/blobs/sha256/",
            "/blobs/sha256/..",
            "/blobs/sha256/../../index.json",
            "/blobs/sha256/%2e%2e/%2e%2e/index.json",
            &path[1..],
            &format!("/{path}"),
            &format!("{path}/"),
            &format!("{path}0"),
            &format!("/./{path}"),
            &path.to_uppercase(),
            &path.replace("/sha256/", "/sha256/sha256:"),
            &path.replace('a', "A"),
            &path.replace('a', "%61"),
            &path.replace("blobs", "tmp"),
        ] {
            assert_eq!(blob(path), None, "{path}");
        }
    }

    #[test]
    fn tags_are_compared_weakly() {
        for (header, expected) in [
            (None, false),
            (Some("*"), true),
            (Some("\"a\""), true),
            (Some("\"b\", W/\"a\""), true),
            (Some("a"), false),
            (Some("\"ab\""), false),
        ] {
            assert_eq!(has_tag(header, "\"a\""), expected, "{header:?}");
        }
    }
}
