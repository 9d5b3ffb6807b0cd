// SPDX-License-Identifier: GPL-2.0

//! peerfs: a read-only filesystem of content-addressed images, verified by the kernel and fetched on
//! demand. See `Documentation/architecture.md`.

#![crate_name = "peerfs"]
// Not forbidden as in the other files: that would bind vfs and bindings too, which allow it.
#![deny(unsafe_code)]

use fs::{PeerFs, Shared};
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
///
/// In place, hence in the module's static memory: lockdep insists on that for the lock classes in a
/// `file_system_type`.
#[pin_data]
struct Peerfs {
    #[pin]
    _statistics: File<Arc<Upcall>>,
    _debugfs: Dir,
    #[pin]
    _filesystem: vfs::Registration<PeerFs>,
    _device: Option<Pin<KBox<misc_device::Registration<Device>>>>,
}

impl kernel::InPlaceModule for Peerfs {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let enabled = module_parameters::upcall.value() != 0;
        let debugfs = Dir::new(c"peerfs");
        pin_init::pin_init_scope(move || {
            let upcall = Arc::pin_init(Upcall::new(enabled), GFP_KERNEL)?;
            let device = if enabled {
                let device = misc_device::Registration::new(upcall.clone());
                Some(KBox::pin_init(device, GFP_KERNEL)?)
            } else {
                None
            };
            let shared = Shared::new(upcall.clone(), debugfs.subdir(c"mounts"))?;
            Ok(try_pin_init!(Self {
                _filesystem <- vfs::Registration::new(module, shared),
                _statistics <- debugfs.read_callback_file(
                    c"upcall",
                    upcall,
                    &|upcall: &Arc<Upcall>, f| upcall.statistics().show(f),
                ),
                _debugfs: debugfs.clone(),
                _device: device,
            }))
        })
    }
}
