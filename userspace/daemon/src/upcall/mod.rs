// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The kernel's side of the daemon: takes requests from `/dev/peerfs` and answers each one once.
//! The protocol is described in `Documentation/upcall.md`.

mod device;
mod request;
mod server;

#[cfg(test)]
mod tests;

pub use device::{Device, Ioctls, KernelIoctls};
pub use request::{Message, Request};
pub use server::{serve, Answer, RequestHandler};
