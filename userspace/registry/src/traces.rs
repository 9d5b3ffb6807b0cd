// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Traces of images, in the repositories that these are in: an artifact under a tag of its own, with a layer for each workload.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use peerfs_format::Digest;
use peerfs_trace::{Trace, TRACE_MAX};
use serde::Deserialize;
use serde_json::{json, Value};

use crate::documents::sha256;
use crate::error::{Error, Result};
use crate::remote::Remote;
use crate::revision::Revising;
use crate::signatures::Small;
use crate::upload::Content;

/// The media type of a trace.
const TRACE_TYPE: &str = "application/vnd.peerfs.trace.v1";
/// That of the manifest which leads to them.
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's configuration of an artifact that needs none.
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The annotation of a layer that says what the image was mounted for.
const WORKLOAD: &str = "peerfs.workload";
/// The traces of an image that are kept there, and taken from there.
const TRACES_MAX: usize = 16;
/// Bytes of all of them that are taken: whoever mounts the image waits for them.
const BYTES_MAX: u64 = 512 * 1024;

/// The tag under which the traces of an image are, by its manifest.
fn tag(image: &Digest) -> String {
    format!("peerfs-trace-{image}")
}

#[derive(Default, Deserialize)]
struct Layers {
    #[serde(default)]
    layers: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Layer {
    /// If it is of a trace.
    fn of(layer: &Value) -> Option<Self> {
        let layer: Layer = serde_json::from_value(layer.clone()).ok()?;
        (layer.media_type == TRACE_TYPE).then_some(layer)
    }
}

impl Remote {
    /// The traces of an image that are in this repository; none if there are none. One that is damaged, or of another image, is left
    /// out, and so is what is too much.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn traces(&self, image: &Digest) -> Result<Vec<Trace>> {
        let Some(found) = self.revision(&tag(image), MANIFEST_TYPE).await? else {
            return Ok(Vec::new());
        };
        let Layers { layers } = serde_json::from_slice(&found.bytes).unwrap_or_default();
        let (mut traces, mut room) = (Vec::new(), BYTES_MAX);
        for layer in layers.iter().filter_map(Layer::of).take(TRACES_MAX) {
            let digest = layer.digest.strip_prefix("sha256:");
            let Some(digest) = digest.and_then(|digest| digest.parse().ok()) else {
                continue;
            };
            let Some(left) = room.checked_sub(layer.size) else {
                continue;
            };
            match self.small_blob(&digest, layer.size.min(TRACE_MAX)).await {
                Ok(bytes) => {
                    room = left;
                    let trace = Trace::parse(&bytes).ok();
                    traces.extend(trace.filter(|trace| trace.image == *image));
                }
                Err(Error::Missing { .. } | Error::Wrong { .. } | Error::TooLong { .. }) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(traces)
    }

    /// Puts a trace into this repository, in the place of an older one for the same workload. Of those that others put there at once
    /// none is lost.
    ///
    /// # Errors
    /// Those of the server; [`Error::Contended`].
    pub async fn put_trace(&self, trace: &Trace) -> Result<()> {
        let (tag, bytes) = (tag(&trace.image), trace.encode());
        let layer = json!({
            "mediaType": TRACE_TYPE,
            "size": bytes.len(),
            "digest": format!("sha256:{}", sha256(&bytes)),
            "annotations": {WORKLOAD: trace.workload.name().unwrap_or_default()},
        });
        let config = json!({
            "mediaType": EMPTY_TYPE,
            "size": EMPTY.len(),
            "digest": format!("sha256:{}", sha256(EMPTY)),
        });
        for blob in [EMPTY, &bytes] {
            let blob: Arc<dyn Content> = Arc::new(Small(blob.into()));
            self.upload(&blob, None, &Arc::new(AtomicU64::new(0)))
                .await?;
        }
        let mut revising = Revising::default();
        loop {
            let before = self.revision(&tag, MANIFEST_TYPE).await?;
            let known = before
                .as_ref()
                .map(|known| serde_json::from_slice(&known.bytes));
            let Layers { mut layers } = known.and_then(std::result::Result::ok).unwrap_or_default();
            if layers.first() == Some(&layer) {
                return Ok(());
            }
            let workload = trace.workload.name().unwrap_or_default();
            layers.retain(|other| {
                let other = Layer::of(other);
                other.is_none_or(|other| {
                    other.annotations.get(WORKLOAD).map(String::as_str) != Some(workload)
                })
            });
            // The newest first: those behind make room.
            layers.insert(0, layer.clone());
            layers.truncate(TRACES_MAX);
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "artifactType": TRACE_TYPE,
                "config": config,
                "layers": layers,
            });
            let manifest = manifest.to_string().into_bytes();
            self.revise(&tag, MANIFEST_TYPE, &manifest, before.as_ref())
                .await?;
            revising.settle(self.host()).await?;
        }
    }
}
