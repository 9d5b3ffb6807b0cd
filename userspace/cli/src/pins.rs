// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs pin` and `peerfs unpin`.

use clap::Args;
use peerfs_control::{Reply, Request};
use peerfs_store::{printable, Reference};

use crate::arguments::DaemonArguments;
use crate::conversation::ask;
use crate::error::{Error, Result};
use crate::output::Output;

/// An image that a running peerfsd keeps.
#[derive(Args)]
pub(crate) struct PinArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// The image: a digest, or a tag of the store (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    image: Reference,
}

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
