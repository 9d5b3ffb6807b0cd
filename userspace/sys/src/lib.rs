// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The one place with unsafe code in userspace: what no library wraps.

#[cfg(feature = "activation")]
pub mod activation;
pub mod clock;
pub mod interrupt;
pub mod ioctl;
pub mod loop_device;
pub mod mapping;
#[cfg(feature = "tokio")]
pub mod readiness;
