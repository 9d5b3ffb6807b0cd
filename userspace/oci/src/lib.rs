// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images as others see them: what they are called, and what OCI's tools read of them. Parsing and encoding
//! alone: nothing here reads a file or asks anybody.
//!
//! | module | what is in it |
//! |---|---|
//! | `reference` | the one grammar of what a user may call an image |
//! | `index` | `index.json` of a layout: images and their tags |
//! | `layout` | `oci-layout`, which says that a directory is a layout |
//! | `image` | an image as registries have it: an OCI image index that leads to both of the next |
//! | `artifact` | an image as an OCI artifact, with all blobs |
//! | `runnable` | an image as container runtimes take it, with one small layer |
//! | `stub` | that layer |
//! | `plain` | an image as everybody has them, with the files in a layer |
//! | `document` | an index or a manifest of whatever tool, with what it leads to |
//! | `children` | what an index leads to, and which of it is meant |
//! | `descriptor` | the type, digest and length of a blob |
//! | `links` | which blobs indexes and manifests of any tool name |
//! | `container` | ordinary images of containers, as others make them |
//! | `platform` | what machines they are for |
//! | `architecture` | what processors the programs of an image are for |

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod architecture;
mod artifact;
mod children;
mod container;
mod descriptor;
mod document;
mod error;
mod image;
mod index;
mod layout;
mod links;
pub mod media_type;
mod plain;
mod platform;
mod reference;
mod referrers;
mod runnable;
mod stub;

pub use architecture::Architecture;
pub use artifact::ImageBlobs;
pub use children::{Child, Children};
pub use container::{chain_ids, ContainerConfig, ContainerManifest, DockerImage};
pub use document::{media_type_of, BlobInfo, Document, DOCUMENT_TYPES};
pub use error::{Error, Result};
pub use image::{oci_manifests, OciImage, OciManifest, OCI_INDEX_MAX};
pub use index::{Entry, Index, Target, TargetKind};
pub use layout::{check_layout, LAYOUT};
pub use links::{links, Link};
/// How the programs of an image are run: environment, command and the like.
pub use oci_spec::image::Config as RuntimeConfig;
pub use plain::{Layer, LayerFormat, PlainImage};
pub use platform::Platform;
pub use reference::{InvalidReference, PublisherKey, Reference, RegistryReference, Tag};
pub use referrers::{conversion_of, conversions, original_of, with_conversion};
pub use runnable::MANIFEST_ANNOTATION;
pub use stub::{stub_layer, STUB_DIRECTORY, STUB_FILE};
