// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs pin` and `peerfs unpin`.

use peerfs_control::{Reply, Request};
use peerfs_store::printable;

use crate::arguments::PinArguments;
use crate::conversation::ask;
use crate::error::{Error, Result};
use crate::output::Output;

/// Has the daemon keep an image complete.
pub(crate) fn pin(arguments: &PinArguments) -> Result<()> {
    let image = arguments.image.to_string();
    change(arguments, &Request::Pin { image })
}

/// Has the daemon not keep it any more.
pub(crate) fn unpin(arguments: &PinArguments) -> Result<()> {
    let image = arguments.image.to_string();
    change(arguments, &Request::Unpin { image })
}

fn change(arguments: &PinArguments, request: &Request) -> Result<()> {
    match ask(&arguments.daemon.socket, request)? {
        Reply::Pinned(manifest) | Reply::Unpinned(manifest) => {
            let mut output = Output::new();
            output.line(&printable(&manifest).to_string())?;
            output.finish()
        }
        _ => Err(Error::UnexpectedReply),
    }
}
