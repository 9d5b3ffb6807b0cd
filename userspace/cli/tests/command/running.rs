// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Running the command line.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// `peerfs` with a store.
pub fn peerfs(root_dir: &Path, command: &str) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_peerfs"));
    process.arg(command).env("PEERFS_ROOT_DIR", root_dir);
    process
}

/// Runs a command that must succeed, and returns its standard output.
pub fn succeed(process: &mut Command) -> Vec<u8> {
    let output = process.output().expect("the command can be started");
    assert!(
        output.status.success(),
        "{process:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Builds an image and returns the digest of its manifest.
pub fn build(tree: &Path, root_dir: &Path, tag: &str, options: &[&str]) -> String {
    let mut process = peerfs(root_dir, "build");
    process
        .arg(tree)
        .args([OsStr::new("--tag"), OsStr::new(tag)])
        .args(options);
    let digest = String::from_utf8(succeed(&mut process)).unwrap();
    digest.trim_end().to_owned()
}
