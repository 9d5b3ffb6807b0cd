// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The key of a realm encrypted for recipients of [age](https://age-encryption.org), and the identities that decrypt it. age's own
//! library reads and writes both.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod identity;
mod recipient;
mod sealed;

pub use identity::{create, read, read_stream, Identities, IdentityError, InvalidIdentity};
pub use recipient::{InvalidRecipient, Recipient, RECIPIENTS_MAX};
pub use sealed::{is_sealed, kinds, open, open_envelope, seal, OpenError, SealError};
