// SPDX-License-Identifier: GPL-2.0

//! peerfs: a read-only filesystem of content-addressed images, verified by the kernel and fetched on
//! demand. See `Documentation/architecture.md`.

#![crate_name = "peerfs"]
// Not forbidden as in the other files: that would bind vfs and bindings too, which allow it.
#![deny(unsafe_code)]

use fs::PeerFs;
use kernel::debugfs::{Dir, File};
use kernel::prelude::*;
use kernel::sync::Arc;
use upcall::{Device, Upcall};
use vfs::misc_device;

#[allow(unsafe_code)]
mod bindings;
mod fs;
mod store;
mod upcall;
#[allow(unsafe_code)]
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

/// What is registered; in the order in which it is taken back.
struct Peerfs {
    _statistics: Pin<KBox<File<Arc<Upcall>>>>,
    _debugfs: Dir,
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
        let debugfs = Dir::new(c"peerfs");
        let statistics =
            debugfs.read_callback_file(c"upcall", upcall.clone(), &|upcall: &Arc<Upcall>, f| {
                upcall.statistics().show(f)
            });
        let statistics = KBox::pin_init(statistics, GFP_KERNEL)?;
        let filesystem = vfs::Registration::new(module, upcall);
        Ok(Peerfs {
            _statistics: statistics,
            _debugfs: debugfs,
            _filesystem: KBox::pin_init(filesystem, GFP_KERNEL)?,
            _device: device,
        })
    }
}
