// SPDX-License-Identifier: GPL-2.0

//! What belongs to a mount.
#![forbid(unsafe_code)]

use kernel::debugfs::File;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use peerfs_format::NAME_MAX;

use super::daemon::Daemon;
use super::options::Options;
use super::Shared;
use crate::store::{Hex, Readers, Statistics, Store};
use crate::vfs::{
    current_credential, DeviceNumber, Directory, ErrorName, FsContext, OptionsWriter, StatFs,
};

/// Bytes of the blocks that statfs counts in.
const BLOCK_SIZE: u32 = 4096;

/// What belongs to a mount.
pub(crate) struct SuperData {
    /// The store's counters, for as long as the mount lives.
    _debugfs: Pin<KBox<File<Arc<Statistics>>>>,
    pub(super) store: Arc<Store<Daemon>>,
    readers: Arc<Readers>,
    timeout: u32,
}

impl Drop for SuperData {
    fn drop(&mut self) {
        // Readahead that nobody waits for any more still has the store. It shall not outlive the
        // mount, whose filesystem below would stay busy.
        self.readers.flush();
    }
}

impl SuperData {
    /// Opens the store and the image.
    pub(super) fn new(
        context: &FsContext<'_>,
        shared: &Shared,
        options: &Options,
        device: DeviceNumber,
    ) -> Result<Self> {
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
        // A daemon writes with privileges: it does so only for who could write there alone.
        let upcall =
            (context.is_privileged() || directory.is_writable()).then(|| shared.upcall.clone());
        let daemon = Daemon::new(upcall, directory.id(), options.timeout());
        let readers = shared.readers.clone();
        let store = Store::open(
            name,
            directory,
            current_credential(),
            digest,
            daemon,
            readers.clone(),
        )
        .map_err(|error| {
            context.error(format_args!("manifest {digest} in {path}: {error}"));
            Error::from(error)
        })?;
        let folder = CString::try_from_fmt(fmt!("{device}"))?;
        let debugfs = KBox::pin_init(
            shared.debugfs.subdir(&folder).read_callback_file(
                c"store",
                store.statistics().clone(),
                &|statistics: &Arc<Statistics>, f| statistics.show(f),
            ),
            GFP_KERNEL,
        )?;
        Ok(SuperData {
            _debugfs: debugfs,
            store,
            readers,
            timeout: options.timeout(),
        })
    }

    /// A remount changes nothing: refuses options that differ.
    pub(super) fn check_same(&self, context: &FsContext<'_>, options: &Options) -> Result {
        let differs = options
            .root_dir
            .as_ref()
            .is_some_and(|path| path.to_bytes() != self.store.name().to_bytes())
            || options
                .manifest
                .is_some_and(|digest| digest != *self.store.manifest_digest())
            || options.has_timeout() && options.timeout() != self.timeout;
        if differs {
            context.error(format_args!(
                "a remount cannot change options: unmount, then mount anew"
            ));
            return Err(EINVAL);
        }
        Ok(())
    }

    /// The beginning of the manifest's digest: nothing else says better what the content is.
    pub(super) fn uuid(&self) -> [u8; 16] {
        let digest = &self.store.manifest_digest().0;
        digest.first_chunk().copied().unwrap_or_default()
    }

    /// The generation of the image's inodes: a file handle of another image must not fit.
    pub(super) fn generation(&self) -> u32 {
        let digest = &self.store.manifest_digest().0;
        digest
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    pub(super) fn statfs(&self) -> StatFs {
        let manifest = self.store.manifest();
        let digest = self.store.manifest_digest().0;
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

    pub(super) fn show_options(&self, writer: &OptionsWriter<'_>) {
        writer.option(c"root_dir", self.store.name());
        if let Ok(digest) = CString::try_from_fmt(fmt!("{}", Hex(self.store.manifest_digest()))) {
            writer.option(c"manifest", &digest);
        }
        writer.number(c"timeout", self.timeout.into());
    }
}
