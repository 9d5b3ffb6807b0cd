// SPDX-License-Identifier: GPL-2.0

//! What a filesystem implements, and its registration.
//!
//! Locking: registering and its end take the kernel's lock of the list of filesystems. The methods are
//! called with what the files say that call them: `fs_context`, `super_block`, `dentry`, `dir`, `folio`.

use core::ops::Range;

use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::aref::ARef;
use kernel::types::Opaque;

use super::inode_cache::InodeCache;
use super::pages::Pages;
use super::{
    fs_context, super_block, ContentId, DeviceNumber, DirEmitter, FsContext, Inode, OptionsWriter,
    Parameter, StatFs, SuperBlock, XattrLister,
};
use crate::rust::bindings;
use crate::rust::mm::Readahead;

/// Users without privileges may mount it, in a user namespace of theirs ([`FileSystem::FLAGS`]).
pub(crate) const FS_USERNS_MOUNT: u32 = bindings::FS_USERNS_MOUNT;
/// A mount of it may map owners ([`FileSystem::FLAGS`]).
pub(crate) const FS_ALLOW_IDMAP: u32 = bindings::FS_ALLOW_IDMAP;

/// A read-only filesystem. All methods may sleep, and may be called by many tasks at once.
pub(crate) trait FileSystem: Sized + Send + Sync + 'static {
    /// The name that mount(2) knows.
    const NAME: &'static CStr;
    /// `f_type` of statfs(2).
    const MAGIC: u32;
    /// `FS_*`: what may be done with it.
    const FLAGS: u32;

    /// What all mounts share.
    type Shared: Send + Sync;
    /// What is collected from the mount options.
    type Options: Default + Send;
    /// What belongs to a superblock; dropped after all of its inodes.
    type SuperData: Send + Sync;
    /// What belongs to an inode; dropped when the inode is evicted, in a context that may sleep.
    type InodeData: Send + Sync;

    /// Takes one mount option. `Ok(false)`: there is no option of this name.
    fn parse_parameter(
        context: &FsContext<'_>,
        options: &mut Self::Options,
        parameter: &Parameter<'_>,
    ) -> Result<bool>;

    /// Makes the superblock's data for a new mount. This may wait for what is slow: there is no superblock yet
    /// that others would have to wait for, as sync(2) does.
    fn new_super(
        context: &FsContext<'_>,
        shared: &Self::Shared,
        options: &Self::Options,
    ) -> Result<Self::SuperData>;

    /// The superblock is there, and its files' `st_dev` is `device`.
    fn begin(shared: &Self::Shared, data: &Self::SuperData, device: DeviceNumber) -> Result;

    /// The superblock's end: nobody else has `device` yet.
    fn end(data: &Self::SuperData);

    /// What tells superblocks with other content apart, wherever and whenever they are mounted.
    fn uuid(data: &Self::SuperData) -> [u8; 16];

    /// How many filesystems are stacked on each other below this one: that of what it reads from,
    /// and one more. The VFS limits it, so that the stack does.
    fn stack_depth(data: &Self::SuperData) -> c_int;

    /// Called for a remount; whatever is not the same is refused here.
    fn reconfigure(
        context: &FsContext<'_>,
        data: &Self::SuperData,
        options: &Self::Options,
    ) -> Result;

    /// The root directory. Must not wait for anything slow.
    fn root(super_block: &SuperBlock<Self>) -> Result<ARef<Inode<Self>>>;

    /// The inode that a file handle names; ESTALE if there is none of this number.
    fn inode_of_handle(super_block: &SuperBlock<Self>, number: u64) -> Result<ARef<Inode<Self>>>;

    /// The directory that a directory is in; the root's is the root.
    fn parent(directory: &Inode<Self>) -> Result<ARef<Inode<Self>>>;

    /// statfs(2). Must not wait for anything slow.
    fn statfs(super_block: &SuperBlock<Self>) -> StatFs;

    /// The options for /proc/mounts.
    fn show_options(data: &Self::SuperData, writer: &OptionsWriter<'_>);

    /// Looks up a name in a directory.
    fn lookup(directory: &Inode<Self>, name: &[u8]) -> Result<Option<ARef<Inode<Self>>>>;

    /// Emits the entries of a directory from the emitter's position on, until it is full.
    fn read_directory(directory: &Inode<Self>, emitter: &mut DirEmitter<'_>) -> Result;

    /// A regular file is being opened.
    fn open(inode: &Inode<Self>) -> Result;

    /// What a regular file holds, asked when it is opened, until there is an answer. The file shares its
    /// pages with all files that have the same id, in superblocks of the same user namespace.
    fn content_id(inode: &Inode<Self>) -> Result<Option<ContentId>>;

    /// Bytes of a regular file, as many as the range has; those behind the end of the file are zeros.
    fn read(inode: &Inode<Self>, range: Range<u64>) -> Result<KVVec<u8>>;

    /// Fills, or starts filling, what it can of the folios of a readahead without waiting for anything
    /// slow; the others are read by [`FileSystem::read`] when somebody needs them.
    fn readahead(inode: &Inode<Self>, readahead: Readahead<'_>);

    /// The first offset at or after `offset`, which is below the file's size, that is data
    /// (lseek(2) with SEEK_DATA), or `None` if there is only a hole up to the end.
    fn seek_data(inode: &Inode<Self>, offset: u64) -> Result<Option<u64>>;

    /// The first offset at or after `offset`, which is below the file's size, that is a hole
    /// (SEEK_HOLE); the end of the file counts as one.
    fn seek_hole(inode: &Inode<Self>, offset: u64) -> Result<u64>;

    /// Whether an inode has xattrs; nothing else is asked about them of one that has none.
    fn has_xattrs(inode: &Inode<Self>) -> bool;

    /// The value of the xattr whose name is `prefix` and `name` joined, or ENODATA.
    fn get_xattr(inode: &Inode<Self>, prefix: &[u8], name: &[u8]) -> Result<KVVec<u8>>;

    /// Lists the full names of all xattrs.
    fn list_xattrs(inode: &Inode<Self>, lister: &mut XattrLister<'_>) -> Result;
}

/// A registered filesystem.
///
/// # Invariants
///
/// `fs_type` is registered, and `cache` is that of its inodes.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: FileSystem> {
    #[pin]
    fs_type: Opaque<bindings::file_system_type>,
    // All of it goes after the filesystem is unregistered, hence after the last superblock. First what mounts share:
    // with it ends the work that still has pages. Then the pages, and last the cache, since it waits for what is
    // freed by RCU.
    shared: T::Shared,
    #[pin]
    pages: Pages<T>,
    cache: InodeCache<T>,
}

// SAFETY: unregistering may be done by any task.
unsafe impl<T: FileSystem> Send for Registration<T> {}
// SAFETY: there is nothing to do with a shared registration.
unsafe impl<T: FileSystem> Sync for Registration<T> {}

impl<T: FileSystem> Registration<T> {
    /// Registers the filesystem.
    pub(crate) fn new(module: &'static ThisModule, shared: T::Shared) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            cache: InodeCache::new()?,
            pages <- Pages::new(),
            fs_type <- Opaque::try_ffi_init(|slot: *mut bindings::file_system_type| {
                // SAFETY: `slot` is valid for writes, and all zeros is a valid value.
                unsafe { slot.write_bytes(0, 1) };
                // SAFETY: `slot` was just initialised, and nobody else has it yet.
                let fs_type = unsafe { &mut *slot };
                fs_type.name = kernel::str::CStrExt::as_char_ptr(T::NAME);
                fs_type.owner = module.as_ptr();
                fs_type.fs_flags = T::FLAGS as c_int;
                fs_type.init_fs_context = Some(fs_context::init_fs_context::<T>);
                fs_type.kill_sb = Some(super_block::kill_sb::<T>);
                // SAFETY: `slot` is pinned until it is unregistered in `drop`.
                to_result(unsafe { bindings::register_filesystem(slot) })
            }),
            shared,
        })
    }

    /// The registration of a filesystem type.
    ///
    /// # Safety
    ///
    /// `fs_type` must be the one of a registration of `T`, which stays registered for `'a`.
    pub(super) unsafe fn of<'a>(fs_type: *mut bindings::file_system_type) -> &'a Self {
        let registration: *const Self =
            // SAFETY: by the requirements it lies in a registration.
            unsafe { kernel::container_of!(Opaque::cast_from(fs_type), Self, fs_type) };
        // SAFETY: as above.
        unsafe { &*registration }
    }

    /// What all mounts of the filesystem type share.
    pub(super) fn shared(&self) -> &T::Shared {
        &self.shared
    }

    /// Where its inodes are allocated.
    pub(super) fn inode_cache(&self) -> &InodeCache<T> {
        &self.cache
    }

    /// The address spaces of its inodes.
    pub(super) fn pages(&self) -> &Pages<T> {
        &self.pages
    }
}

#[pinned_drop]
impl<T: FileSystem> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: by the invariant it is registered. The module's reference count is zero, so there
        // is no superblock any more.
        unsafe { bindings::unregister_filesystem(self.fs_type.get()) };
    }
}
