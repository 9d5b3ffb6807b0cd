// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images as others see them: what they are called, and what OCI's tools read of them. Parsing and encoding
//! alone: nothing here reads a file or asks anybody.
//!
//! | module | what is in it |
//! |---|---|
//! | `reference` | the one grammar of what a user may call an image |
//! | `index` | `index.json` of a layout: images and their tags |
//! | `layout` | `oci-layout`, which says that a directory is a layout |
//! | `artifact` | an image as an OCI artifact: its manifest and configuration |
//! | `architecture` | what processors the programs of an image are for |

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod architecture;
mod artifact;
mod error;
mod index;
mod layout;
pub mod media_type;
mod reference;

pub use architecture::Architecture;
pub use artifact::{Artifact, ImageBlobs, ParsedArtifact};
pub use error::{Error, Result};
pub use index::{Entry, Index, Target, TargetKind};
pub use layout::{check_layout, LAYOUT};
pub use reference::{InvalidReference, PublisherKey, Reference, RegistryReference, Tag};
