// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Traces of images, in the repositories that these are in: an artifact under a tag of its own, with a layer for each workload.

use peerfs_format::Digest;
use peerfs_trace::{Trace, TRACE_MAX};
use serde_json::json;

use crate::artifact::{descriptor, Layer};
use crate::error::Result;
use crate::remote::Remote;

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

impl Remote {
    /// The traces of an image that are in this repository; none if there are none. One that is damaged, or of another image, is left
    /// out, and so is what is too much.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn traces(&self, image: &Digest) -> Result<Vec<Trace>> {
        let layers = self.artifact_layers(&tag(image)).await?;
        let layers = layers
            .iter()
            .filter_map(|layer| Layer::of(layer, TRACE_TYPE));
        let (mut traces, mut room) = (Vec::new(), BYTES_MAX);
        for layer in layers.take(TRACES_MAX) {
            let Some(left) = room.checked_sub(layer.size) else {
                continue;
            };
            if let Some(bytes) = self.layer_bytes(&layer, TRACE_MAX).await? {
                room = left;
                let trace = Trace::parse(&bytes).ok();
                traces.extend(trace.filter(|trace| trace.image == *image));
            }
        }
        Ok(traces)
    }

    /// Puts a trace into this repository, in the place of an older one for the same workload. Of those that others put there at once
    /// none is lost.
    ///
    /// # Errors
    /// Those of the server; [`Error::Contended`](crate::Error::Contended).
    pub async fn put_trace(&self, trace: &Trace) -> Result<()> {
        let bytes = trace.encode();
        let workload = trace.workload.name().unwrap_or_default();
        let mut layer = descriptor(TRACE_TYPE, &bytes);
        layer["annotations"] = json!({WORKLOAD: workload});
        self.put_artifact_blob(&bytes).await?;
        let is_of_workload =
            |other: Layer| other.annotations.get(WORKLOAD).map(String::as_str) == Some(workload);
        // The newest first: those behind make room.
        self.put_layer(
            &tag(&trace.image),
            TRACE_TYPE,
            &layer,
            TRACES_MAX,
            |other| Layer::of(other, TRACE_TYPE).is_some_and(is_of_workload),
        )
        .await
    }
}
