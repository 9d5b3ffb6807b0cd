// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What several programs need of the system: the one place with unsafe code in userspace, for what no library wraps, and what
//! takes care to do right.

#[cfg(feature = "activation")]
pub mod activation;
pub mod clock;
pub mod interrupt;
pub mod ioctl;
pub mod keyring;
pub mod loop_device;
pub mod mapping;
pub mod mount_point;
#[cfg(feature = "tokio")]
pub mod readiness;
pub mod secret_file;
pub mod unix_socket;
