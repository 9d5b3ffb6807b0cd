// SPDX-License-Identifier: GPL-2.0

//! Filesystems: what is in [`FileSystem`] is implemented, and it is registered with a [`Registration`].
//!
//! Locking: each file says at its head what is held when it is called, and what it takes itself.

mod address_space;
mod dentry;
mod descriptor;
mod dir;
mod export;
mod file;
mod file_system;
mod fs_context;
mod inode;
mod inode_cache;
mod opened_file;
mod pages;
mod path;
mod super_block;
mod xattr;

pub(crate) use address_space::AddressSpaceOperations;
pub(crate) use descriptor::{same_filesystem, DirectoryId};
pub(crate) use dir::{DirEmitter, DirectoryOperations};
pub(crate) use export::ExportOperations;
pub(crate) use file::FileOperations;
pub(crate) use file_system::{
    FileSystem, FileSystemType, Registration, FS_ALLOW_IDMAP, FS_USERNS_MOUNT,
};
pub(crate) use fs_context::{ContextOperations, ErrorName, FsContext, Parameter};
pub(crate) use inode::{Attributes, Inode, InodeKind};
pub(crate) use opened_file::{FileId, OpenedFile};
pub(crate) use pages::ContentId;
pub(crate) use path::{Directory, Found};
pub(crate) use super_block::{DeviceNumber, OptionsWriter, StatFs, SuperBlock, SuperOperations};
pub(crate) use xattr::{XattrLister, XattrOperations};
