// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate lacks for a filesystem: safe wrappers over the kernel's objects, named after them and laid
//! out as `rust/kernel` is. The only place with unsafe code; knows nothing of peerfs.
//!
//! The callbacks of the C interfaces are thin: each one borrows the objects that it was given as the types of
//! this module, calls the trait's method and turns its `Result` into an errno.
//!
//! Locking: each file says at its head what is held when it is called, and what it takes itself. Nothing
//! here takes a lock of its own while it holds another one of its own.

mod bindings;
pub(crate) mod cred;
pub(crate) mod crypto;
pub(crate) mod fs;
pub(crate) mod key;
pub(crate) mod lz4;
pub(crate) mod miscdevice;
pub(crate) mod mm;
pub(crate) mod module;
pub(crate) mod ratelimit;
pub(crate) mod str;
pub(crate) mod sync;
pub(crate) mod task;
pub(crate) mod time;
pub(crate) mod trace;
pub(crate) mod workqueue;
pub(crate) mod zstd;
