// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers over the kernel's objects, named after them. Besides `bindings` the only place with
//! unsafe code; knows nothing of peerfs.
//!
//! A filesystem implements [`FileSystem`] and registers it with a [`Registration`]. The callbacks of
//! the C interfaces are thin: each one borrows the objects that it was given as the types of this
//! module, calls the trait's method and turns its `Result` into an errno.
//!
//! Locking: each file says at its head what is held when it is called, and what it takes itself. Nothing
//! here takes a lock of its own while it holds another one of its own.

mod address_space;
pub(crate) mod completion;
mod credential;
mod dentry;
pub(crate) mod descriptor;
mod dir;
mod export;
mod file;
mod file_system;
mod folio;
mod fs_context;
mod inode;
mod inode_cache;
mod killable_mutex;
pub(crate) mod misc_device;
mod module_reference;
mod nofs;
mod opened_file;
mod pages;
mod path;
mod report;
mod sha256;
mod shrinker;
mod super_block;
mod task;
mod text;
mod time;
mod workqueue;
mod xattr;
mod zstd;

pub(crate) use credential::{current_credential, override_credential};
pub(crate) use dir::DirEmitter;
pub(crate) use file_system::{FileSystem, Registration, FS_ALLOW_IDMAP, FS_USERNS_MOUNT};
pub(crate) use folio::{FolioBytes, Readahead};
pub(crate) use fs_context::{ErrorName, FsContext, Parameter};
pub(crate) use inode::{Attributes, Inode, InodeKind};
pub(crate) use killable_mutex::lock_killable;
pub(crate) use module_reference::ModuleReference;
pub(crate) use nofs::NoFsScope;
pub(crate) use opened_file::OpenedFile;
pub(crate) use pages::ContentId;
pub(crate) use path::{Directory, Found};
pub(crate) use report::Reporter;
pub(crate) use sha256::sha256;
pub(crate) use shrinker::{Shrink, Shrinker};
pub(crate) use super_block::{DeviceNumber, OptionsWriter, StatFs, SuperBlock};
pub(crate) use task::{is_being_killed, let_others_run};
pub(crate) use text::c_string;
pub(crate) use time::seconds_to_jiffies;
pub(crate) use workqueue::Workqueue;
pub(crate) use xattr::XattrLister;
pub(crate) use zstd::ZstdDecoder;
