// SPDX-License-Identifier: GPL-2.0

//! The filesystem: the traits of `vfs` implemented over `store`, with `upcall` for what is missing.
#![forbid(unsafe_code)]

mod daemon;
mod dir;
mod file;
mod inode;
mod options;
mod super_block;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;
mod xattr;

use core::ops::Range;

use kernel::debugfs::Dir;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

use crate::store::Readers;
use crate::upcall::Upcall;
use crate::vfs::{self, Shrinker};

/// What all mounts share.
pub(crate) struct Shared {
    /// The way to the daemons.
    upcall: Arc<Upcall>,
    /// Who reads ahead.
    readers: Arc<Readers>,
    _shrinker: Shrinker<Readers>,
    /// The folder of debugfs that has one for each mount.
    debugfs: Dir,
}

impl Shared {
    /// For mounts whose daemons are behind this upcall, and which show their counters in this folder.
    pub(crate) fn new(upcall: Arc<Upcall>, debugfs: Dir) -> Result<Self> {
        let readers = Readers::new()?;
        Ok(Shared {
            upcall,
            _shrinker: Shrinker::new(c"peerfs-readers", readers.clone())?,
            readers,
            debugfs,
        })
    }
}

/// The filesystem type.
pub(crate) struct PeerFs;

type SuperBlock = vfs::SuperBlock<PeerFs>;
type Inode = vfs::Inode<PeerFs>;

impl vfs::FileSystem for PeerFs {
    const NAME: &'static CStr = c"peerfs";
    /// "PRFS".
    const MAGIC: u32 = 0x5052_4653;
    /// Why a user may mount it is argued in `Documentation/security.md`.
    const FLAGS: u32 = vfs::FS_USERNS_MOUNT | vfs::FS_ALLOW_IDMAP;

    type Shared = Shared;
    type Options = options::Options;
    type SuperData = super_block::SuperData;
    type InodeData = inode::InodeData;

    fn parse_parameter(
        context: &vfs::FsContext<'_>,
        options: &mut Self::Options,
        parameter: &vfs::Parameter<'_>,
    ) -> Result<bool> {
        options.parse(context, parameter)
    }

    fn new_super(
        context: &vfs::FsContext<'_>,
        shared: &Self::Shared,
        options: &Self::Options,
    ) -> Result<Self::SuperData> {
        super_block::SuperData::new(context, shared, options)
    }

    fn begin(shared: &Self::Shared, data: &Self::SuperData, device: vfs::DeviceNumber) -> Result {
        data.show_counters(&shared.debugfs, device)
    }

    fn end(data: &Self::SuperData) {
        data.hide_counters();
    }

    fn uuid(data: &Self::SuperData) -> [u8; 16] {
        data.uuid()
    }

    fn stack_depth(data: &Self::SuperData) -> c_int {
        data.store.stack_depth()
    }

    fn reconfigure(
        context: &vfs::FsContext<'_>,
        data: &Self::SuperData,
        options: &Self::Options,
    ) -> Result {
        data.check_same(context, options)
    }

    fn root(super_block: &SuperBlock) -> Result<ARef<Inode>> {
        inode::get(super_block, peerfs_format::ROOT_INODE)
    }

    fn inode_of_handle(super_block: &SuperBlock, number: u64) -> Result<ARef<Inode>> {
        inode::get_by_handle(super_block, number)
    }

    fn parent(directory: &Inode) -> Result<ARef<Inode>> {
        inode::parent(directory)
    }

    fn statfs(super_block: &SuperBlock) -> vfs::StatFs {
        super_block.data().statfs()
    }

    fn show_options(data: &Self::SuperData, writer: &vfs::OptionsWriter<'_>) {
        data.show_options(writer);
    }

    fn lookup(directory: &Inode, name: &[u8]) -> Result<Option<ARef<Inode>>> {
        dir::lookup(directory, name)
    }

    fn read_directory(directory: &Inode, emitter: &mut vfs::DirEmitter<'_>) -> Result {
        dir::read(directory, emitter)
    }

    fn open(inode: &Inode) -> Result {
        file::open(inode)
    }

    fn content_id(inode: &Inode) -> Result<Option<vfs::ContentId>> {
        file::content_id(inode)
    }

    fn read(inode: &Inode, range: Range<u64>) -> Result<KVVec<u8>> {
        file::read(inode, range)
    }

    fn readahead(inode: &Inode, readahead: vfs::Readahead<'_>) {
        file::readahead(inode, readahead);
    }

    fn seek_data(inode: &Inode, offset: u64) -> Result<Option<u64>> {
        file::seek_data(inode, offset)
    }

    fn seek_hole(inode: &Inode, offset: u64) -> Result<u64> {
        file::seek_hole(inode, offset)
    }

    fn has_xattrs(inode: &Inode) -> bool {
        xattr::has(inode)
    }

    fn get_xattr(inode: &Inode, prefix: &[u8], name: &[u8]) -> Result<KVVec<u8>> {
        xattr::get(inode, prefix, name)
    }

    fn list_xattrs(inode: &Inode, lister: &mut vfs::XattrLister<'_>) -> Result {
        xattr::list(inode, lister)
    }
}
