// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is put into a repository besides images: small blobs, and OCI artifacts that lead to them (image specification 1.1,
//! "Guidelines for Artifact Usage").

use std::io::{Cursor, Read};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use peerfs_format::Digest;
use serde_json::{json, Value};

use crate::documents::sha256;
use crate::error::Result;
use crate::remote::Remote;
use crate::upload::Content;

/// The media type of an artifact's manifest.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's configuration of an artifact that needs none.
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

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
