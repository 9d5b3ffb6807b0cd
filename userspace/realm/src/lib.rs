// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The key of a realm: whoever has it reads the realm's images, and makes more. How it encrypts is in
//! `Documentation/format.md`.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod file;
mod key;

pub use file::{create, read, read_stream, KeyFileError};
pub use key::{InvalidRealmKey, RealmKey};
