// SPDX-License-Identifier: GPL-2.0

//! What belongs to a mount.
#![forbid(unsafe_code)]

use kernel::debugfs::{Dir, File};
use kernel::ffi::c_int;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::{Arc, Mutex};
use peerfs_format::upcall::Workload;
use peerfs_format::{NAME_MAX, ROOT_INODE};

use crate::options::Options;
use crate::rust::cred::current_credential;
use crate::rust::fs::{
    ContextOperations, DeviceNumber, Directory, ErrorName, FsContext, OptionsWriter, Parameter,
    StatFs, SuperOperations,
};
use crate::store::{verify_signature, Hex, Statistics, Store};
use crate::upcall::Daemon;
use crate::{inode, Inode, PeerFs, Shared, SuperBlock};

/// Bytes of the blocks that statfs counts in.
const BLOCK_SIZE: u32 = 4096;

/// What belongs to a mount.
pub(crate) struct SuperData {
    /// The store's counters, for as long as the mount lives.
    counters: Pin<KBox<Mutex<Option<Counters>>>>,
    pub(crate) store: Arc<Store<Daemon>>,
    timeout: u32,
    workload: Workload,
    require_signature: bool,
}

type Counters = Pin<KBox<File<Arc<Statistics>>>>;

impl Drop for SuperData {
    fn drop(&mut self) {
        // Readahead that nobody waits for any more still has the store. It should not outlive the
        // mount, whose filesystem below would stay busy; but if that is stuck, the mount goes alone.
        self.store.wait_for_work();
    }
}

impl SuperData {
    /// Opens the store and the image, and waits for its manifest.
    fn new(context: &FsContext<'_>, shared: &Shared, options: &Options) -> Result<Self> {
        let Some(root_dir) = &options.root_dir else {
            context.error(format_args!(
                "root_dir= is missing: the folder of the store"
            ));
            return Err(EINVAL);
        };
        let Some(digest) = options.manifest else {
            context.error(format_args!(
                "manifest= is missing: the digest of the image's manifest, as `peerfs build` prints"
            ));
            return Err(EINVAL);
        };
        let name = CString::try_from_fmt(fmt!("{}", root_dir.to_str().unwrap_or("store")))?;
        let path = root_dir.to_str().unwrap_or("root_dir");
        let directory = Directory::open(root_dir).inspect_err(|error| {
            context.error(format_args!(
                "root_dir {path}: {}: not a folder that can be opened",
                ErrorName(*error)
            ));
        })?;
        // Before anything of the image is read, and anybody is asked for it.
        let require_signature = shared.require_signature || options.require_signature;
        if require_signature {
            verify_signature(&directory, &digest, &shared.trusted).map_err(|error| {
                context.error(format_args!("manifest {digest} in {path}: {error}"));
                Error::from(error)
            })?;
        }
        // A daemon writes with privileges: it does so only for who could write there alone.
        let may_ask = context.is_privileged() || directory.is_writable();
        let upcall = shared.upcall.store(directory.id())?;
        let workload = options.workload.unwrap_or_default();
        let daemon = Daemon::new(upcall, may_ask, options.timeout(), workload);
        let store = Store::open(
            name,
            directory,
            current_credential(),
            digest,
            daemon,
            shared.workers.clone(),
            context.is_privileged(),
        )
        .map_err(|error| {
            context.error(format_args!("manifest {digest} in {path}: {error}"));
            Error::from(error)
        })?;
        Ok(SuperData {
            counters: KBox::pin_init(new_mutex!(None, "peerfs counters"), GFP_KERNEL)?,
            store,
            timeout: options.timeout(),
            workload,
            require_signature,
        })
    }

    /// Shows the store's counters, in a folder with the device's number.
    fn show_counters(&self, debugfs: &Dir, device: DeviceNumber) -> Result {
        let folder = CString::try_from_fmt(fmt!("{device}"))?;
        let counters = KBox::pin_init(
            debugfs.subdir(&folder).read_callback_file(
                c"store",
                self.store.statistics().clone(),
                &|statistics: &Arc<Statistics>, f| statistics.show(f),
            ),
            GFP_KERNEL,
        )?;
        *self.counters.lock() = Some(counters);
        Ok(())
    }

    /// Takes them back: another mount may get the number.
    fn hide_counters(&self) {
        let counters = self.counters.lock().take();
        drop(counters);
    }

    /// A remount changes nothing: refuses options that differ.
    fn check_same(&self, context: &FsContext<'_>, options: &Options) -> Result {
        let differs = options
            .root_dir
            .as_ref()
            .is_some_and(|path| path.to_bytes() != self.store.name().to_bytes())
            || options
                .manifest
                .is_some_and(|digest| digest != *self.store.manifest_digest())
            || options.has_timeout() && options.timeout() != self.timeout
            || options
                .workload
                .is_some_and(|workload| workload != self.workload)
            || options.require_signature && !self.require_signature;
        if differs {
            context.error(format_args!(
                "a remount cannot change options: unmount, then mount anew"
            ));
            return Err(EINVAL);
        }
        Ok(())
    }

    /// The generation of the image's inodes: a file handle of another image must not fit.
    pub(crate) fn generation(&self) -> u32 {
        let digest = &self.store.manifest_digest().0;
        digest
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

impl ContextOperations for PeerFs {
    fn parse_parameter(
        context: &FsContext<'_>,
        options: &mut Options,
        parameter: &Parameter<'_>,
    ) -> Result<bool> {
        options.parse(context, parameter)
    }

    fn new_super(context: &FsContext<'_>, shared: &Shared, options: &Options) -> Result<SuperData> {
        SuperData::new(context, shared, options)
    }

    fn reconfigure(context: &FsContext<'_>, data: &SuperData, options: &Options) -> Result {
        data.check_same(context, options)
    }
}

impl SuperOperations for PeerFs {
    fn begin(shared: &Shared, data: &SuperData, device: DeviceNumber) -> Result {
        data.show_counters(&shared.debugfs, device)
    }

    fn end(data: &SuperData) {
        data.hide_counters();
    }

    fn uuid(data: &SuperData) -> [u8; 16] {
        // The beginning of the manifest's digest: nothing else says better what the content is.
        let digest = &data.store.manifest_digest().0;
        digest.first_chunk().copied().unwrap_or_default()
    }

    fn stack_depth(data: &SuperData) -> c_int {
        data.store.stack_depth()
    }

    fn root(super_block: &SuperBlock) -> Result<ARef<Inode>> {
        inode::get(super_block, ROOT_INODE)
    }

    fn statfs(super_block: &SuperBlock) -> StatFs {
        let store = &super_block.data().store;
        let manifest = store.manifest();
        let digest = store.manifest_digest().0;
        StatFs {
            block_size: BLOCK_SIZE,
            blocks: manifest.content_bytes.div_ceil(BLOCK_SIZE.into()),
            files: manifest.inode_count,
            name_length: NAME_MAX as u32,
            id: digest
                .first_chunk()
                .map_or(0, |bytes| u64::from_le_bytes(*bytes)),
        }
    }

    fn show_options(data: &SuperData, writer: &OptionsWriter<'_>) {
        writer.option(c"root_dir", data.store.name());
        let digest = Hex(data.store.manifest_digest());
        if let Ok(digest) = CString::try_from_fmt(fmt!("{digest}")) {
            writer.option(c"manifest", &digest);
        }
        writer.number(c"timeout", data.timeout.into());
        let workload = data.workload.name();
        if let Some(Ok(name)) = workload.map(|name| CString::try_from_fmt(fmt!("{name}"))) {
            writer.option(c"workload", &name);
        }
        if data.require_signature {
            writer.flag(c"require_signature");
        }
    }
}
