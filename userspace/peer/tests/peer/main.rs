// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Nodes with each other.

mod burden;
mod discovery;
mod exchange;
mod following;
mod hostile;
mod internet;
mod mdns;
mod members;
mod private;
mod raw;
mod relay;
mod support;
