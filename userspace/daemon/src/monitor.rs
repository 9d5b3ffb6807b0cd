// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The daemon as those see it who look at its page and its metrics.

use async_trait::async_trait;
use peerfs_control::{Activity, ImageStatus, MountStatus};
use peerfs_format::Digest;
use peerfs_http::Address;
use peerfs_monitor::Watched;
use peerfs_text::Causes;
use serde::Deserialize;

use crate::status::StatusReader;

/// The page and the metrics.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorConfig {
    /// Where to listen for who wants to see them; by default nowhere.
    pub listen: Option<Address>,
}

#[async_trait]
impl Watched for StatusReader {
    async fn activity(&self) -> Activity {
        StatusReader::activity(self).await
    }

    async fn images(&self) -> Result<Vec<ImageStatus>, String> {
        let images = StatusReader::images(self).await;
        images.map_err(|error| Causes(&error).to_string())
    }

    async fn mounts(&self) -> Result<Vec<MountStatus>, String> {
        let mounts = StatusReader::mounts(self).await;
        mounts.map_err(|error| Causes(&error).to_string())
    }

    async fn map(&self, manifest: &str, cells: usize) -> Result<Option<Vec<u8>>, String> {
        let Ok(manifest) = manifest.parse::<Digest>() else {
            return Ok(None);
        };
        let map = StatusReader::map(self, manifest, cells).await;
        map.map_err(|error| Causes(&error).to_string())
    }
}
