// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The key of a realm: whoever has it reads the realm's images, and makes more. How it encrypts is in
//! `Documentation/format.md`. Encrypted for those who may have it, it is in the realm's envelope.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod envelope;
mod file;
mod key;

pub use envelope::{Envelope, Grant, ENVELOPE_MAX, GRANTS_MAX, GRANT_MAX};
pub use file::{create, read, read_stream, write, KeyFileError};
pub use key::{InvalidRealmKey, RealmKey};
