// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an OCI index or manifest, of whatever tool, leads to.

use peerfs_format::Digest;
use serde_json::Value;

/// Values within each other that are looked at.
const DEPTH_MAX: usize = 16;

/// A blob that an OCI index or manifest names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// Its digest.
    pub digest: Digest,
    /// Whether it is an index or a manifest itself, and names others.
    pub leads_on: bool,
    /// How many bytes it has, if that is said.
    pub size: Option<u64>,
}

/// The blobs that an index or a manifest names, whatever else it says; none if it is no JSON.
pub fn links(text: &[u8]) -> Vec<Link> {
    let mut links = Vec::new();
    if let Ok(value) = serde_json::from_slice(text) {
        collect(&value, 0, &mut links);
    }
    links
}

fn collect(value: &Value, depth: usize, links: &mut Vec<Link>) {
    if depth == DEPTH_MAX {
        return;
    }
    match value {
        Value::Array(values) => values
            .iter()
            .for_each(|value| collect(value, depth + 1, links)),
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str);
            let digest = text("digest").and_then(|digest| digest.parse().ok());
            if let Some(digest) = digest {
                let media_type = text("mediaType").unwrap_or_default();
                let leads_on = ["index", "manifest", "manifest.list"]
                    .iter()
                    .any(|kind| media_type.contains(&format!(".{kind}.v")));
                let size = fields.get("size").and_then(Value::as_u64);
                links.push(Link {
                    digest,
                    leads_on,
                    size,
                });
            }
            fields
                .values()
                .for_each(|value| collect(value, depth + 1, links));
        }
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_found_wherever_they_are() {
        let digest = |digit: &str| -> Digest { digit.repeat(64).parse().unwrap() };
        let text = format!(
            r#"{{"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{}"}},
                {{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","digest":"sha256:{}"}}],
              "subject":{{"digest":"sha256:{}","size":7,"mediaType":"application/vnd.oci.image.layer.v1.tar"}},
              "config":{{"digest":"sha512:{}"}}}}"#,
            "a".repeat(64),
            "b".repeat(64),
            "c".repeat(64),
            "d".repeat(128)
        );
        let mut found = links(text.as_bytes());
        found.sort_by_key(|link| link.digest);
        let expected = [("a", true, None), ("b", true, None), ("c", false, Some(7))];
        let expected = expected.map(|(digit, leads_on, size)| Link {
            digest: digest(digit),
            leads_on,
            size,
        });
        assert_eq!(found, expected);
        assert!(links(b"not JSON").is_empty());
    }
}
