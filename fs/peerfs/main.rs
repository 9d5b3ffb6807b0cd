// SPDX-License-Identifier: GPL-2.0

//! peerfs: a read-only filesystem of content-addressed images, verified by the kernel and fetched on
//! demand. See `Documentation/architecture.md`.

#![crate_name = "peerfs"]
// Not forbidden as in the other files: that would bind `rust` too, which allows it.
#![deny(unsafe_code)]

use kernel::debugfs::{Dir, File};
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::Arc;
use rust::fs::{FileSystemType, FS_ALLOW_IDMAP, FS_USERNS_MOUNT};
use rust::key::TrustedKeyring;
use rust::miscdevice;
use rust::mm::Shrinker;
use store::Workers;
use upcall::{Device, Upcall};

mod dir;
mod file;
mod inode;
mod options;
#[allow(unsafe_code)]
mod rust;
mod store;
#[path = "super.rs"]
mod super_block;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;
mod trace;
mod upcall;
mod xattr;

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
        require_signature: u8 {
            default: 0,
            description: "1: only images are mounted that are signed by whom the keyring .peerfs has",
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
    _filesystem: rust::fs::Registration<PeerFs>,
    _device: Option<Pin<KBox<miscdevice::Registration<Device>>>>,
}

impl kernel::InPlaceModule for Peerfs {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let enabled = module_parameters::upcall.value() != 0;
        let debugfs = Dir::new(c"peerfs");
        pin_init::pin_init_scope(move || {
            let upcall = Arc::pin_init(Upcall::new(enabled), GFP_KERNEL)?;
            let device = if enabled {
                let device = miscdevice::Registration::new(upcall.clone());
                Some(KBox::pin_init(device, GFP_KERNEL)?)
            } else {
                None
            };
            let shared = Shared::new(upcall.clone(), debugfs.subdir(c"mounts"))?;
            Ok(try_pin_init!(Self {
                _filesystem <- rust::fs::Registration::new(module, shared),
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

/// What all mounts share.
struct Shared {
    /// The way to the daemons.
    upcall: Arc<Upcall>,
    /// Who reads ahead.
    workers: Arc<Workers>,
    _shrinker: Shrinker<Workers>,
    /// The folder of debugfs that has one for each mount.
    debugfs: Dir,
    /// Who may sign images where a signature is required.
    trusted: TrustedKeyring,
    /// Whether it is required of all of them.
    require_signature: bool,
}

impl Shared {
    /// For mounts whose daemons are behind this upcall, and which show their counters in this folder.
    fn new(upcall: Arc<Upcall>, debugfs: Dir) -> Result<Self> {
        let workers = Workers::new()?;
        Ok(Shared {
            upcall,
            _shrinker: Shrinker::new(c"peerfs-workers", workers.clone())?,
            workers,
            debugfs,
            trusted: TrustedKeyring::new(c".peerfs")?,
            require_signature: module_parameters::require_signature.value() != 0,
        })
    }
}

/// The filesystem type.
struct PeerFs;

type SuperBlock = rust::fs::SuperBlock<PeerFs>;
type Inode = rust::fs::Inode<PeerFs>;

impl FileSystemType for PeerFs {
    const NAME: &'static CStr = c"peerfs";
    /// "PRFS".
    const MAGIC: u32 = 0x5052_4653;
    /// Why a user may mount it is argued in `Documentation/security.md`.
    const FLAGS: u32 = FS_USERNS_MOUNT | FS_ALLOW_IDMAP;

    type Shared = Shared;
    type Options = options::Options;
    type SuperData = super_block::SuperData;
    type InodeData = inode::InodeData;
}
