// SPDX-License-Identifier: GPL-2.0

//! `struct super_block`.
//!
//! Locking: `s_umount` is held exclusively while a superblock is filled and when it ends (`kill_sb`), so
//! neither can meet the other; `statfs` and `show_options` are called at any time between, by many tasks,
//! and read what never changes.

use core::marker::PhantomData;

use kernel::error::from_result;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong};
use kernel::prelude::*;
use kernel::str::{CStr, CString};
use kernel::sync::aref::ARef;
use kernel::types::Opaque;

use super::inode_cache::InodeCache;
use super::{dentry, export, xattr, FileSystem, FileSystemType, Inode, Registration};
use crate::rust::bindings;

/// What is done with superblocks.
pub(crate) trait SuperOperations: FileSystemType {
    /// The superblock is there, and its files' `st_dev` is `device`.
    fn begin(shared: &Self::Shared, data: &Self::SuperData, device: DeviceNumber) -> Result;

    /// The superblock's end: nobody else has `device` yet.
    fn end(data: &Self::SuperData);

    /// What tells superblocks with other content apart, wherever and whenever they are mounted.
    fn uuid(data: &Self::SuperData) -> [u8; 16];

    /// How many filesystems are stacked on each other below this one: that of what it reads from,
    /// and one more. The VFS limits it, so that the stack does.
    fn stack_depth(data: &Self::SuperData) -> c_int;

    /// The root directory. Must not wait for anything slow.
    fn root(super_block: &SuperBlock<Self>) -> Result<ARef<Inode<Self>>>;

    /// statfs(2). Must not wait for anything slow.
    fn statfs(super_block: &SuperBlock<Self>) -> StatFs;

    /// The options for /proc/mounts.
    fn show_options(data: &Self::SuperData, writer: &OptionsWriter<'_>);
}

/// A superblock of `T`.
///
/// # Invariants
///
/// `s_fs_info` points to a `T::SuperData`.
#[repr(transparent)]
pub(crate) struct SuperBlock<T> {
    inner: Opaque<bindings::super_block>,
    _filesystem: PhantomData<T>,
}

impl<T: FileSystem> SuperBlock<T> {
    /// # Safety
    ///
    /// `super_block` must be one of `T` that [`fill`] has filled, valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(super_block: *mut bindings::super_block) -> &'a Self {
        // SAFETY: by the requirements and the transparent representation.
        unsafe { &*super_block.cast() }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::super_block {
        self.inner.get()
    }

    /// The `st_dev` of its files.
    pub(crate) fn device(&self) -> DeviceNumber {
        // SAFETY: it is valid.
        unsafe { DeviceNumber::of(self.as_ptr()) }
    }

    /// The filesystem's data.
    pub(crate) fn data(&self) -> &T::SuperData {
        // SAFETY: by the invariant; it lives until `kill_sb`, after which there is no reference.
        unsafe { &*(*self.inner.get()).s_fs_info.cast() }
    }
}

/// The `st_dev` of a superblock's files.
pub(crate) struct DeviceNumber(bindings::dev_t);

impl DeviceNumber {
    /// # Safety
    ///
    /// `super_block` must be valid.
    pub(super) unsafe fn of(super_block: *mut bindings::super_block) -> Self {
        // SAFETY: by the requirements; the number never changes.
        DeviceNumber(unsafe { (*super_block).s_dev })
    }

    /// The number, as the kernel encodes it.
    pub(crate) fn number(&self) -> bindings::dev_t {
        self.0
    }
}

impl kernel::fmt::Display for DeviceNumber {
    /// As in /proc/self/mountinfo.
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        let minor = self.0 & ((1 << bindings::MINORBITS) - 1);
        write!(f, "{}:{minor}", self.0 >> bindings::MINORBITS)
    }
}

/// The answer of statfs(2).
pub(crate) struct StatFs {
    /// Bytes of a block.
    pub(crate) block_size: u32,
    /// Blocks in use.
    pub(crate) blocks: u64,
    /// Inodes.
    pub(crate) files: u64,
    /// The longest name, in bytes.
    pub(crate) name_length: u32,
    /// The filesystem's id.
    pub(crate) id: u64,
}

/// Where the options for /proc/mounts go.
pub(crate) struct OptionsWriter<'a> {
    seq: *mut bindings::seq_file,
    _borrow: PhantomData<&'a ()>,
}

impl OptionsWriter<'_> {
    /// Writes `,name=value`, with what would confuse a reader escaped.
    pub(crate) fn option(&self, name: &CStr, value: &CStr) {
        use kernel::str::CStrExt;
        // SAFETY: the file is valid by the lifetime, and so are both strings.
        unsafe {
            bindings::peerfs_seq_show_option(self.seq, name.as_char_ptr(), value.as_char_ptr())
        };
    }

    /// Writes `,name`.
    pub(crate) fn flag(&self, name: &CStr) {
        use kernel::str::CStrExt;
        // SAFETY: the file is valid by the lifetime, and so is the name; no value is a null pointer.
        unsafe {
            bindings::peerfs_seq_show_option(self.seq, name.as_char_ptr(), core::ptr::null())
        };
    }

    /// Writes `,name=number`.
    pub(crate) fn number(&self, name: &CStr, value: u64) {
        if let Ok(text) = CString::try_from_fmt(fmt!("{value}")) {
            self.option(name, &text);
        }
    }
}

/// Fills a new superblock.
///
/// # Safety
///
/// `super_block` must be new, be of a filesystem type that was registered for `T`, and have its `T::SuperData`,
/// from a `KBox`.
pub(super) unsafe fn fill<T: FileSystem>(
    super_block: *mut bindings::super_block,
    shared: &T::Shared,
) -> Result {
    // SAFETY: by the requirements.
    let data: &T::SuperData = unsafe { &*(*super_block).s_fs_info.cast() };
    let stack_depth = T::stack_depth(data);
    let uuid = T::uuid(data);
    // SAFETY: it is valid and nobody else has it yet.
    unsafe {
        let fields = &mut *super_block;
        fields.s_flags |= bindings::PEERFS_SB_RDONLY | bindings::PEERFS_SB_POSIXACL;
        fields.s_magic = T::MAGIC as c_ulong;
        fields.s_maxbytes = i64::MAX;
        fields.s_blocksize = kernel::page::PAGE_SIZE;
        fields.s_blocksize_bits = kernel::page::PAGE_SHIFT as u8;
        fields.s_time_gran = 1;
        fields.s_op = &Operations::<T>::TABLE;
        fields.s_export_op = export::operations::<T>();
        bindings::peerfs_super_set_uuid(fields, uuid.as_ptr(), uuid.len() as c_uint);
        fields.s_xattr = xattr::handlers::<T>();
        if !bindings::peerfs_is_init_user_ns(fields.s_user_ns) {
            fields.s_iflags |= bindings::SB_I_UNTRUSTED_MOUNTER as c_ulong;
        }
    }
    if stack_depth > bindings::FILESYSTEM_MAX_STACK_DEPTH as c_int {
        return Err(ELOOP);
    }
    // SAFETY: as above.
    unsafe { (*super_block).s_stack_depth = stack_depth };
    // SAFETY: the superblock is new, and its type is the one of a registration.
    unsafe {
        Registration::<T>::of((*super_block).s_type)
            .pages()
            .share_bdi(super_block)
    };
    // SAFETY: `super_block` has its number.
    T::begin(shared, data, unsafe { DeviceNumber::of(super_block) })?;
    // SAFETY: `s_fs_info` is set.
    let root = T::root(unsafe { SuperBlock::<T>::from_raw(super_block) })?;
    // SAFETY: this hands the reference over, also if it fails.
    let root = unsafe { bindings::d_make_root(ARef::into_raw(root).as_ptr().cast()) };
    if root.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: as above.
    unsafe { (*super_block).s_root = root };
    Ok(())
}

/// The end of a superblock, filled or not.
///
/// # Safety
///
/// Only for the VFS, by its rules for `kill_sb`.
pub(super) unsafe extern "C" fn kill_sb<T: FileSystem>(super_block: *mut bindings::super_block) {
    // SAFETY: it is valid and was made by `get_tree_nodev`.
    let data: *mut T::SuperData = unsafe { (*super_block).s_fs_info.cast() };
    if !data.is_null() {
        // SAFETY: `get_tree` set it, and it stays until it is dropped below.
        T::end(unsafe { &*data });
    }
    // SAFETY: as above. This evicts all inodes, and gives the superblock's number back.
    unsafe { bindings::kill_anon_super(super_block) };
    if !data.is_null() {
        // SAFETY: `get_tree` made it from a `KBox`, and nothing refers to it any more.
        drop(unsafe { KBox::from_raw(data) });
    }
}

struct Operations<T>(PhantomData<T>);

impl<T: FileSystem> Operations<T> {
    const TABLE: bindings::super_operations = bindings::super_operations {
        alloc_inode: Some(InodeCache::<T>::alloc_inode),
        destroy_inode: Some(InodeCache::<T>::destroy_inode),
        free_inode: Some(InodeCache::<T>::free_inode),
        statfs: Some(Self::statfs),
        show_options: Some(Self::show_options),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `statfs`.
    unsafe extern "C" fn statfs(
        dentry: *mut bindings::dentry,
        buffer: *mut kernel::bindings::kstatfs,
    ) -> c_int {
        // SAFETY: the VFS gives a valid dentry of a superblock of `T`.
        let super_block = unsafe { SuperBlock::<T>::from_raw(dentry::super_block(dentry)) };
        let answer = T::statfs(super_block);
        // SAFETY: the VFS gives a zeroed buffer to fill in; the kernel crate knows only its name.
        let buffer = unsafe { &mut *buffer.cast::<bindings::kstatfs>() };
        buffer.f_type = T::MAGIC as c_long;
        buffer.f_bsize = answer.block_size as c_long;
        buffer.f_blocks = answer.blocks;
        buffer.f_files = answer.files;
        buffer.f_namelen = answer.name_length as c_long;
        buffer.f_fsid.val = [answer.id as u32 as c_int, (answer.id >> 32) as u32 as c_int];
        0
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `show_options`.
    unsafe extern "C" fn show_options(
        seq: *mut bindings::seq_file,
        dentry: *mut bindings::dentry,
    ) -> c_int {
        from_result(|| {
            // SAFETY: the VFS gives a valid dentry of a superblock of `T`.
            let super_block = unsafe { SuperBlock::<T>::from_raw(dentry::super_block(dentry)) };
            let writer = OptionsWriter {
                seq,
                _borrow: PhantomData,
            };
            T::show_options(super_block.data(), &writer);
            Ok(0)
        })
    }
}

/// The superblock of an inode.
impl<T: FileSystem> Inode<T> {
    /// The superblock that the inode belongs to.
    pub(crate) fn super_block(&self) -> &SuperBlock<T> {
        // SAFETY: an inode outlives no superblock, and both are of `T`.
        unsafe { SuperBlock::from_raw((*self.as_ptr()).i_sb) }
    }
}
