// SPDX-License-Identifier: GPL-2.0

//! peerfs: a read-only filesystem of content-addressed images, verified by the kernel and fetched on
//! demand. See `Documentation/architecture.md`.

#![crate_name = "peerfs"]

use fs::PeerFs;
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::{Device, Upcall};
use vfs::misc_device;

mod bindings;
mod fs;
mod store;
mod upcall;
mod vfs;

module! {
    type: Peerfs,
    name: "peerfs",
    authors: ["peerfs authors"],
    description: "Content-addressed images, verified by the kernel and fetched on demand",
    license: "GPL",
    alias: ["fs-peerfs"],
    params: {
        upcall: u8 {
            default: 1,
            description: "0: what the store lacks is an error at once, and there is no /dev/peerfs",
        },
    },
}

struct Peerfs {
    _filesystem: Pin<KBox<vfs::Registration<PeerFs>>>,
    _device: Option<Pin<KBox<misc_device::Registration<Device>>>>,
}

impl kernel::Module for Peerfs {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let enabled = module_parameters::upcall.value() != 0;
        let upcall = Arc::pin_init(Upcall::new(enabled), GFP_KERNEL)?;
        let device = if enabled {
            let device = misc_device::Registration::new(upcall.clone());
            Some(KBox::pin_init(device, GFP_KERNEL)?)
        } else {
            None
        };
        let filesystem = vfs::Registration::new(module, upcall);
        Ok(Peerfs {
            _filesystem: KBox::pin_init(filesystem, GFP_KERNEL)?,
            _device: device,
        })
    }
}
