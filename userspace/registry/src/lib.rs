// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A client of OCI registries (distribution specification 1.1), and of what else has blobs behind HTTP.
//!
//! | module | noun |
//! |---|---|
//! | [`Remote`] | a place that has blobs: a repository of a registry, or a copy of a store as files |
//! | `http` | connections, certificates, and answers that are taken piece by piece |
//! | `auth`, `challenge`, `credentials` | saying who asks |
//! | `documents` | indexes and manifests |
//! | [`BlobReader`], [`BlobPieces`] | a blob that is read as it comes |
//! | `image` | what a reference stands for |
//! | `referrers` | conversions of ordinary images beside these |
//! | [`Push`], `upload` | putting an image and its blobs there |
//! | `name_records` | records of publishers' names, as artifacts |
//! | `signatures` | signatures of images, beside these |
//! | `traces` | traces of images, as artifacts |
//! | `envelopes` | the keys of encrypted images, for those who may have them, beside these |
//! | `artifact` | small blobs, and what leads to them |
//! | `revision` | documents under a tag that several may change at once |
//! | `retry` | when something is tried again, and when nobody is asked for a while |
//!
//! Nothing that a server sends is trusted: all of it is bounded in bytes and time, documents and small blobs are
//! verified here, and whoever takes an [`Answer`] or a range verifies it.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod artifact;
mod auth;
mod certified;
mod challenge;
mod credentials;
mod documents;
mod download;
mod envelopes;
mod error;
mod http;
mod image;
mod name_records;
mod push;
mod referrers;
mod remote;
mod retry;
mod revision;
mod signatures;
mod traces;
mod upload;

pub use documents::{Fetched, DOCUMENT_MAX};
pub use download::{BlobPieces, BlobReader};
pub use error::{Error, Result};
pub use http::Answer;
pub use image::{OrdinaryImage, PeerfsImage, RemoteImage};
pub use peerfs_oci::Platform;
pub use push::{Document, Push, PushProgress};
pub use remote::{Options, Ranged, Remote, UrlError};
pub use retry::Breaker;
pub use upload::{Content, Uploaded};
