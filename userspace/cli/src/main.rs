// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs`, the command; `mount.peerfs` when it is called so.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    peerfs_cli::run(std::env::args_os().collect())
}
