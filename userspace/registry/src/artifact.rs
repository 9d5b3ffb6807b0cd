// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is put into a repository besides images: small blobs, and OCI artifacts that lead to them (image specification 1.1,
//! "Guidelines for Artifact Usage").

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use peerfs_format::Digest;
use serde::Deserialize;
use serde_json::{json, Value};

use crate::documents::sha256;
use crate::error::{Error, Result};
use crate::remote::Remote;
use crate::revision::Revising;
use crate::upload::Content;

/// The media type of an artifact's manifest.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's configuration of an artifact that needs none.
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// What is put beside images, all of one kind: an artifact for each image, under a tag of its own, with a layer for each thing.
pub(crate) struct Beside {
    /// The beginning of the tag; the digest of the image's manifest follows.
    pub(crate) tag: &'static str,
    /// The type of the artifact.
    pub(crate) artifact_type: &'static str,
    /// The media type of its layers.
    pub(crate) layer_type: &'static str,
    /// The layers that are kept there, and taken from there.
    pub(crate) count_max: usize,
    /// The most bytes of one.
    pub(crate) bytes_max: u64,
}

impl Beside {
    fn tag(&self, image: &Digest) -> String {
        format!("{}{image}", self.tag)
    }
}

/// What a manifest says of a blob.
pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "size": bytes.len(),
        "digest": format!("sha256:{}", sha256(bytes)),
    })
}

/// The manifest of an artifact of one type with these layers.
pub(crate) fn manifest(artifact_type: &str, layers: &[Value]) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": artifact_type,
        "config": descriptor(EMPTY_TYPE, EMPTY),
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// A layer of an artifact, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Layer {
    media_type: String,
    digest: String,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Layer {
    /// One that a manifest has, if it is of this type.
    pub(crate) fn of(layer: &Value, media_type: &str) -> Option<Self> {
        let layer: Layer = serde_json::from_value(layer.clone()).ok()?;
        (layer.media_type == media_type).then_some(layer)
    }
}

/// The layers of an artifact; none of what is none.
fn layers(manifest: &[u8]) -> Vec<Value> {
    #[derive(Default, Deserialize)]
    struct Layers {
        #[serde(default)]
        layers: Vec<Value>,
    }
    let Layers { layers } = serde_json::from_slice(manifest).unwrap_or_default();
    layers
}

/// A blob in memory.
struct Small(Arc<[u8]>);

impl Content for Small {
    fn digest(&self) -> Digest {
        sha256(&self.0)
    }

    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn open(&self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(Arc::clone(&self.0))))
    }
}

impl Remote {
    /// The layers of the artifact under a tag; none if there is none.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn artifact_layers(&self, tag: &str) -> Result<Vec<Value>> {
        let found = self.revision(tag, MANIFEST_TYPE).await?;
        Ok(found.map(|found| layers(&found.bytes)).unwrap_or_default())
    }

    /// The bytes of a layer, of which there are as many as it says; None if it is damaged, or longer than `max`.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn layer_bytes(&self, layer: &Layer, max: u64) -> Result<Option<Vec<u8>>> {
        let digest = layer.digest.strip_prefix("sha256:");
        let Some(digest) = digest.and_then(|digest| digest.parse().ok()) else {
            return Ok(None);
        };
        match self.small_blob(&digest, layer.size.min(max)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Missing { .. } | Error::Wrong { .. } | Error::TooLong { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What of a kind is beside an image, the newest first; none if there is none. What is damaged or too long is left out.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn beside(&self, kind: &Beside, image: &Digest) -> Result<Vec<Vec<u8>>> {
        let layers = self.artifact_layers(&kind.tag(image)).await?;
        let layers = layers
            .iter()
            .filter_map(|layer| Layer::of(layer, kind.layer_type));
        let mut found = Vec::new();
        for layer in layers.take(kind.count_max) {
            found.extend(self.layer_bytes(&layer, kind.bytes_max).await?);
        }
        Ok(found)
    }

    /// Puts something beside an image, before what others of its kind are there. Of those that others put there at once none is
    /// lost.
    ///
    /// # Errors
    /// Those of the server; [`Error::Contended`].
    pub(crate) async fn put_beside(
        &self,
        kind: &Beside,
        image: &Digest,
        bytes: &[u8],
    ) -> Result<()> {
        let layer = descriptor(kind.layer_type, bytes);
        self.put_artifact_blob(bytes).await?;
        let (tag, of_type) = (kind.tag(image), kind.artifact_type);
        self.put_layer(&tag, of_type, &layer, kind.count_max, |_| false)
            .await
    }

    /// Puts a layer before all others of the artifact under a tag, of which those go that it takes the place of, and those
    /// behind the first `max`. Of what others put there at once nothing is lost.
    ///
    /// # Errors
    /// Those of the server; [`Error::Contended`].
    pub(crate) async fn put_layer(
        &self,
        tag: &str,
        artifact_type: &str,
        layer: &Value,
        max: usize,
        replaces: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let mut revising = Revising::default();
        loop {
            let before = self.revision(tag, MANIFEST_TYPE).await?;
            let known = before.as_ref().map(|known| layers(&known.bytes));
            let mut layers = known.unwrap_or_default();
            if layers.contains(layer) {
                return Ok(());
            }
            layers.retain(|other| !replaces(other));
            layers.insert(0, layer.clone());
            layers.truncate(max);
            let manifest = manifest(artifact_type, &layers);
            self.revise(tag, MANIFEST_TYPE, &manifest, before.as_ref())
                .await?;
            revising.settle(self.host()).await?;
        }
    }

    /// Puts a blob that an artifact leads to, and the configuration of artifacts.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn put_artifact_blob(&self, bytes: &[u8]) -> Result<()> {
        self.put_small_blob(EMPTY).await?;
        self.put_small_blob(bytes).await
    }

    /// Puts a blob.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn put_small_blob(&self, bytes: &[u8]) -> Result<()> {
        let blob: Arc<dyn Content> = Arc::new(Small(bytes.into()));
        let sent = Arc::new(AtomicU64::new(0));
        self.upload(&blob, None, &sent).await.map(drop)
    }
}
