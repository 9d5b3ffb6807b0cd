// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs mounts`.

use peerfs_control::{MountStatus, Reply, Request};
use peerfs_store::printable;

use crate::arguments::MountsArguments;
use crate::conversation::ask;
use crate::error::{Error, Result};
use crate::output::{size, Align, Output};

/// Lists the mounts over a daemon's store.
pub(crate) fn run(arguments: &MountsArguments) -> Result<()> {
    let Reply::Mounts(mounts) = ask(&arguments.daemon.socket, &Request::Mounts)? else {
        return Err(Error::UnexpectedReply);
    };
    let mut output = Output::new();
    if arguments.json {
        for mount in &mounts {
            output.json(mount)?;
        }
    } else {
        let header = ["MOUNTED ON", "TAGS", "MISSING", "MANIFEST"].map(str::to_owned);
        let rows: Vec<_> = [header].into_iter().chain(mounts.iter().map(row)).collect();
        let columns = [Align::Left, Align::Left, Align::Right, Align::Left];
        output.table(columns, &rows)?;
    }
    output.finish()
}

fn row(mount: &MountStatus) -> [String; 4] {
    let tags = mount.tags.iter().map(|tag| printable(tag).to_string());
    let tags = tags.collect::<Vec<_>>().join(",");
    [
        printable(&mount.mountpoint).to_string(),
        if tags.is_empty() {
            "<none>".to_owned()
        } else {
            tags
        },
        match mount.missing_bytes {
            Some(0) => "nothing".to_owned(),
            Some(bytes) => size(bytes),
            None => "unknown".to_owned(),
        },
        printable(&mount.manifest).to_string(),
    ]
}
