// SPDX-License-Identifier: GPL-2.0 OR MIT

//! peerfs for containerd: a snapshotter, as containerd's proxy plugins reach it.
//!
//! Layers are kept as containerd's own overlayfs snapshotter keeps them, but for a layer that stands for a peerfs image: nothing
//! of it is unpacked, it is that image, mounted when a container needs it.
//!
//! | module | what is in it |
//! |---|---|
//! | `service` | gRPC: messages to calls and back |
//! | `snapshotter` | what is asked, done |
//! | `folder` | where snapshots lie on the disk |
//! | `record` | what is known of each |
//! | `overlay` | what containerd is to mount for one |
//! | `images` | images: fetched by peerfsd, mounted by `peerfs mount` |
//! | `pull` | what peerfsd is asked for |
//! | `catalogue` | what layers of ordinary images unpack to, as others say |
//! | `filter` | containerd's language for choosing some |
//! | `usage` | what files take |
//! | `arguments` | the command line |

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

pub mod arguments;
mod catalogue;
mod error;
mod filter;
mod folder;
mod images;
mod overlay;
mod pull;
mod record;
mod service;
mod snapshotter;
mod usage;

pub use error::{Error, Result};
pub use folder::Snapshots;
pub use images::{ImageConfig, Images};
pub use overlay::{check_path, Mount, Overlay};
pub use record::{Kind, Record, Usage};
pub use service::Service;
pub use snapshotter::{Labels, Snapshotter};

/// containerd's messages.
pub mod messages {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("containerd.services.snapshots.v1");
}
