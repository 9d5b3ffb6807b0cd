// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Conversions beside the images that they were made of: OCI indexes of images in peerfs form whose `subject` is the OCI
//! image manifest of the ordinary image (image specification 1.1), and lists of them.

use oci_spec::image::{Descriptor, ImageIndex, ImageIndexBuilder, MediaType, SCHEMA_VERSION};
use peerfs_format::Digest;

use crate::descriptor::{describe, descriptor, digest_of};
use crate::{media_type, BlobInfo, Result};

/// The conversions of an image that are looked at.
const CONVERSIONS_MAX: usize = 16;

/// The OCI index of an image in peerfs form, as one that says what it was made of: the same bytes for the same two.
///
/// # Errors
/// [`crate::Error::Json`].
pub fn conversion_of(index: &[u8], original: &BlobInfo) -> Result<Vec<u8>> {
    let mut index: ImageIndex = serde_json::from_slice(index)?;
    let kind = MediaType::from(original.media_type.as_str());
    index
        .set_artifact_type(Some(MediaType::from(media_type::IMAGE)))
        .set_subject(Some(descriptor(kind, &original.digest, original.length)));
    Ok(serde_json::to_vec(&index)?)
}

/// What an index says that it was made of.
pub fn original_of(index: &[u8]) -> Option<Digest> {
    let index: ImageIndex = serde_json::from_slice(index).ok()?;
    digest_of(index.subject().as_ref()?)
}

/// The conversions in a list of what refers to an image, the last one first.
///
/// # Errors
/// [`crate::Error::Json`].
pub fn conversions(list: &[u8]) -> Result<Vec<Digest>> {
    let list: ImageIndex = serde_json::from_slice(list)?;
    let is_conversion = |entry: &&Descriptor| {
        let kind = entry.artifact_type().as_ref().map(MediaType::as_ref);
        kind == Some(media_type::IMAGE) && *entry.media_type() == MediaType::ImageIndex
    };
    let entries = list.manifests().iter().rev().filter(is_conversion);
    Ok(entries
        .filter_map(digest_of)
        .take(CONVERSIONS_MAX)
        .collect())
}

/// A list of what refers to an image, with a conversion more; None if it is in the list.
///
/// # Errors
/// [`crate::Error::Json`].
pub fn with_conversion(list: Option<&[u8]>, conversion: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut entry = describe(MediaType::ImageIndex, conversion);
    entry.set_artifact_type(Some(MediaType::from(media_type::IMAGE)));
    let mut list: ImageIndex = match list {
        Some(list) => serde_json::from_slice(list)?,
        None => ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(Vec::new())
            .build()
            .expect("all mandatory fields are set"),
    };
    let mut entries = list.manifests().clone();
    if entries.iter().any(|other| other.digest() == entry.digest()) {
        return Ok(None);
    }
    entries.push(entry);
    list.set_manifests(entries);
    Ok(Some(serde_json::to_vec(&list)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::sha256;

    const INDEX: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

    fn original(digest: u8) -> BlobInfo {
        BlobInfo {
            digest: Digest([digest; 32]),
            length: 7,
            media_type: "application/vnd.docker.distribution.manifest.v2+json".to_owned(),
        }
    }

    #[test]
    fn a_list_has_each_conversion_once() {
        let [one, two] = [1, 2].map(|digest| conversion_of(INDEX, &original(digest)).unwrap());
        assert_eq!(original_of(&one), Some(Digest([1; 32])));
        assert_eq!(original_of(INDEX), None);
        let list = with_conversion(None, &one).unwrap().unwrap();
        assert_eq!(with_conversion(Some(&list), &one).unwrap(), None);
        let list = with_conversion(Some(&list), &two).unwrap().unwrap();
        assert_eq!(conversions(&list).unwrap(), [sha256(&two), sha256(&one)]);
    }

    #[test]
    fn what_else_refers_to_an_image_is_kept_and_is_no_conversion() {
        let other = format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{}","size":1,
                "artifactType":"application/vnd.example.signature","annotations":{{"a":"b"}}}}"#,
            "a".repeat(64)
        );
        let list = format!(r#"{{"schemaVersion":2,"manifests":[{other}]}}"#);
        let conversion = conversion_of(INDEX, &original(1)).unwrap();
        let list = with_conversion(Some(list.as_bytes()), &conversion)
            .unwrap()
            .unwrap();
        assert_eq!(conversions(&list).unwrap(), [sha256(&conversion)]);
        let list = String::from_utf8(list).unwrap();
        assert!(
            list.contains("vnd.example.signature") && list.contains(r#""a":"b""#),
            "{list}"
        );
        for wrong in ["", "null", "[]", r#"{"manifests":1}"#] {
            assert!(conversions(wrong.as_bytes()).is_err());
            assert!(with_conversion(Some(wrong.as_bytes()), &conversion).is_err());
            assert_eq!(original_of(wrong.as_bytes()), None);
        }
    }
}
