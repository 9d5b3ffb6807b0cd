// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers over the kernel's objects, named after them. Besides `bindings` the only place with
//! unsafe code; knows nothing of peerfs.

pub(crate) mod completion;
pub(crate) mod descriptor;
pub(crate) mod misc_device;
