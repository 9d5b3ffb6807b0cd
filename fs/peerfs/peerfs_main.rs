// SPDX-License-Identifier: GPL-2.0

//! peerfs: a read-only filesystem of content-addressed images, verified by the kernel and fetched on
//! demand. See `Documentation/architecture.md`.

#![crate_name = "peerfs"]

use kernel::prelude::*;

mod bindings;
mod store;
mod vfs;

module! {
    type: Peerfs,
    name: "peerfs",
    authors: ["peerfs authors"],
    description: "Content-addressed images, verified by the kernel and fetched on demand",
    license: "GPL",
    alias: ["fs-peerfs"],
}

struct Peerfs;

impl kernel::Module for Peerfs {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let d: Result<peerfs_format::Digest, _> = "ab".parse();
        pr_info!("hello {}\n", d.is_ok());
        Ok(Peerfs)
    }
}
