// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs`, the command.
//!
//! Each subcommand is a module with a function that takes its arguments. Called as `mount.peerfs`
//! the same program is the helper of mount(8).

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod arguments;
mod build;
mod cat;
mod certified;
mod collect;
mod container;
mod conversation;
mod diff;
mod doctor;
mod documentation;
mod du;
mod error;
mod events;
mod export;
mod extract;
mod failure;
mod fuse;
mod grants;
mod images;
mod import;
mod inspect;
mod limits;
mod list;
mod local_pull;
mod mount;
mod mount_helper;
mod mount_options;
mod mounts;
mod names;
mod output;
mod peers;
mod pins;
mod podman;
mod progress;
mod pull;
mod pull_on;
mod push;
mod realm;
mod rootless;
mod run;
mod seen_folder;
mod signatures;
mod status;
mod top;
mod trace;
mod verify;
mod warnings;

pub use run::run;
