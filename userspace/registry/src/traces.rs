// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Traces of images, in the repositories that these are in: an artifact under a tag of its own, with a layer for each workload.

use std::collections::BTreeMap;

use peerfs_format::Digest;
use peerfs_trace::{Trace, TRACE_MAX};
use serde::Deserialize;
use serde_json::{json, Value};

use crate::artifact::{descriptor, manifest, MANIFEST_TYPE};
use crate::error::{Error, Result};
use crate::remote::Remote;
use crate::revision::Revising;

/// The media type of a trace.
const TRACE_TYPE: &str = "application/vnd.peerfs.trace.v1";
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
        let workload = trace.workload.name().unwrap_or_default();
        let mut layer = descriptor(TRACE_TYPE, &bytes);
        layer["annotations"] = json!({WORKLOAD: workload});
        self.put_artifact_blob(&bytes).await?;
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
            layers.retain(|other| {
                let other = Layer::of(other);
                other.is_none_or(|other| {
                    other.annotations.get(WORKLOAD).map(String::as_str) != Some(workload)
                })
            });
            // The newest first: those behind make room.
            layers.insert(0, layer.clone());
            layers.truncate(TRACES_MAX);
            let manifest = manifest(TRACE_TYPE, &layers);
            self.revise(&tag, MANIFEST_TYPE, &manifest, before.as_ref())
                .await?;
            revising.settle(self.host()).await?;
        }
    }
}
