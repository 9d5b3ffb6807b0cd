// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a daemon shows over HTTP: a page for people, numbers for Prometheus. It changes nothing, and asks for nothing that
//! the daemon does not know.
//!
//! | module | what is in it |
//! |---|---|
//! | `server` | who may ask for what |
//! | `metrics` | the numbers, with their names |
//! | `kernel` | what the kernel's filesystem counts |
//! | `page.html` | the page |

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod kernel;
mod metrics;
mod server;

use async_trait::async_trait;
use peerfs_control::{Activity, ImageStatus, MountStatus};

pub use metrics::NAMES;
pub use server::serve;

/// A daemon that can be looked at.
#[async_trait]
pub trait Watched: Send + Sync + 'static {
    /// What it is busy with.
    async fn activity(&self) -> Activity;

    /// The images of its store; the reason, if they can't be read.
    async fn images(&self) -> Result<Vec<ImageStatus>, String>;

    /// The mounts over it.
    async fn mounts(&self) -> Result<Vec<MountStatus>, String>;

    /// How much of an image is here, from its first chunk to its last one, in `cells` equal parts: percents. None if there is no
    /// image with this hexadecimal digest.
    async fn map(&self, manifest: &str, cells: usize) -> Result<Option<Vec<u8>>, String>;
}
