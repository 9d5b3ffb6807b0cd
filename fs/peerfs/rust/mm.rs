// SPDX-License-Identifier: GPL-2.0

//! Memory management.
//!
//! Locking: each file says its own.

mod folio;
mod nofs;
mod shrinker;

pub(crate) use folio::{FolioBytes, Readahead, WantedFolio};
pub(crate) use nofs::NoFsScope;
pub(crate) use shrinker::{Shrink, Shrinker};
