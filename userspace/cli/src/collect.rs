// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs gc`.

use peerfs_control::{Collected, Reply, Request};
use peerfs_store::{Collect, Error as StoreError, Keep, Store};

use crate::arguments::{CollectArguments, DaemonArguments};
use crate::conversation::ask_long;
use crate::error::{Error, Result};
use crate::output::{size, Output};

/// Gives up what no image needs, or has the daemon do it that fills the store.
pub(crate) fn run(arguments: &CollectArguments) -> Result<()> {
    let store = Store::open(&arguments.store.root_dir)?;
    let collected = collect(&store, &arguments.daemon, arguments.dry_run)?;
    let mut output = Output::new();
    if arguments.json {
        output.json(&collected)?;
    } else {
        output.line(&sentence(&collected, arguments.dry_run))?;
    }
    output.finish()
}

/// Gives up what no image needs, or only says how much that is.
pub(crate) fn collect(store: &Store, daemon: &DaemonArguments, dry_run: bool) -> Result<Collected> {
    let how = match dry_run {
        true => Collect::DryRun,
        false => Collect::Really,
    };
    match store.collect(&Keep::default(), how) {
        Ok(collected) => Ok(Collected {
            blobs: collected.blobs,
            tables: collected.tables,
            thinned: collected.thinned,
            bytes: collected.bytes,
        }),
        Err(StoreError::InUse(_)) => match ask_long(&daemon.socket, &Request::Gc { dry_run })? {
            Reply::Collected(collected) => Ok(collected),
            _ => Err(Error::UnexpectedReply),
        },
        Err(error) => Err(error.into()),
    }
}

fn sentence(collected: &Collected, dry_run: bool) -> String {
    let (removed, thinned) = match dry_run {
        true => ("would remove", "thin"),
        false => ("removed", "thinned"),
    };
    format!(
        "{removed} {} blobs and {} tables of places, {thinned} {} files: {}",
        collected.blobs,
        collected.tables,
        collected.thinned,
        size(collected.bytes)
    )
}
