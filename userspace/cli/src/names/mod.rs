// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Publishers' names: keys, records, and mounts that follow them.

pub(crate) mod follow;
pub(crate) mod history;
pub(crate) mod key;
pub(crate) mod layers;
mod list;
pub(crate) mod member;
pub(crate) mod publish;
pub(crate) mod replicas;
mod switch;
mod time_text;

use std::path::Path;

use peerfs_control::{NameStatus, Reply, Request};
use peerfs_format::Digest;

use crate::conversation::ask;
use crate::error::{Error, Result};

/// Asks the daemon for a name.
fn ask_name(socket: &Path, request: &Request) -> Result<NameStatus> {
    match ask(socket, request)? {
        Reply::Name(status) => Ok(status),
        _ => Err(Error::UnexpectedReply),
    }
}

/// The manifest that a publisher's name stands for now, as the daemon finds out.
///
/// # Errors
/// [`Error::Refused`] if it stands for nothing.
pub(crate) fn manifest(socket: &Path, name: &str) -> Result<Digest> {
    let request = Request::Name {
        name: name.to_owned(),
        search: true,
    };
    let status = ask_name(socket, &request)?;
    match (status.image, status.problem) {
        (Some(image), _) => image.parse().map_err(|_| Error::UnexpectedReply),
        (None, Some(problem)) => Err(Error::Refused(problem)),
        (None, None) => Err(Error::UnexpectedReply),
    }
}
