// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs gc`.

use peerfs_control::{Collected, Reply, Request};
use peerfs_store::{Collect, Error as StoreError, Store};

use crate::arguments::CollectArguments;
use crate::conversation::ask_long;
use crate::error::{Error, Result};
use crate::output::{size, Output};

/// Gives up what no image needs, or has the daemon do it that fills the store.
pub(crate) fn run(arguments: &CollectArguments) -> Result<()> {
    let store = Store::open(&arguments.store.root_dir)?;
    let collect = match arguments.dry_run {
        true => Collect::DryRun,
        false => Collect::Really,
    };
    let collected = match store.collect(&[], collect) {
        Ok(collected) => Collected {
            blobs: collected.blobs,
            tables: collected.tables,
            thinned: collected.thinned,
            bytes: collected.bytes,
        },
        Err(StoreError::InUse(_)) => by_daemon(arguments)?,
        Err(error) => return Err(error.into()),
    };
    let mut output = Output::new();
    if arguments.json {
        output.json(&collected)?;
    } else {
        output.line(&sentence(&collected, arguments.dry_run))?;
    }
    output.finish()
}

fn by_daemon(arguments: &CollectArguments) -> Result<Collected> {
    let dry_run = arguments.dry_run;
    match ask_long(&arguments.daemon.socket, &Request::Gc { dry_run })? {
        Reply::Collected(collected) => Ok(collected),
        _ => Err(Error::UnexpectedReply),
    }
}

fn sentence(collected: &Collected, dry_run: bool) -> String {
    let removed = if dry_run { "would remove" } else { "removed" };
    format!(
        "{removed} {} blobs and {} tables of places, thinned {} files: {}",
        collected.blobs,
        collected.tables,
        collected.thinned,
        size(collected.bytes)
    )
}
