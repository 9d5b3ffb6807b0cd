// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests through the command line. One program, since each takes long to link.

#![forbid(unsafe_code)]

mod base;
mod building;
mod containers;
mod conversions;
mod damage;
mod docker_registry;
mod elsewhere;
mod encrypted;
mod exporting;
mod extracting;
mod fixture;
mod fuse;
mod granted;
mod images;
mod import;
mod incomplete;
mod mounting;
mod naming;
mod operating;
mod planted;
mod podman;
mod reading;
mod registry;
mod repairing;
mod resources;
mod round_trip;
mod running;
mod sharing;
mod signing;
mod status;
mod swarm_keys;
mod traces;
mod updating;
