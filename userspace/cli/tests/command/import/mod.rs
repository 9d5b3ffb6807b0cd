// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images from archives and from images for containers, against what the real tools make of them.

mod archives;
pub mod containers;
mod filesystems;
mod hostile;
mod puzzlefs;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::running::{build, fail, peerfs, succeed};
use tempfile::TempDir;

/// A folder in the build's own, since /tmp may be of a kind that has no user attributes.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs a script in a folder.
fn shell(folder: &Path, script: &str) -> String {
    let mut process = Command::new("bash");
    process.current_dir(folder).args(["-euc", script]);
    String::from_utf8(succeed(&mut process)).unwrap()
}

fn has(program: &str) -> bool {
    let mut process = Command::new("sh");
    process.args(["-c", &format!("command -v {program}")]);
    process.output().is_ok_and(|output| output.status.success())
}

fn import(folder: &Path, source: impl AsRef<OsStr>, tag: &str, options: &[&str]) -> String {
    let mut process = peerfs(&folder.join("store"), "import");
    process.current_dir(folder).arg(source);
    let digest = succeed(process.args(["--tag", tag]).args(options));
    String::from_utf8(digest).unwrap().trim_end().to_owned()
}

fn import_fails(folder: &Path, source: impl AsRef<OsStr>, options: &[&str]) -> String {
    let mut process = peerfs(&folder.join("store"), "import");
    process.current_dir(folder).arg(source);
    let message = fail(process.args(["--tag", "refused"]).args(options)).1;
    assert!(is_empty(&folder.join("store/tmp")));
    let images = succeed(peerfs(&folder.join("store"), "images").arg("-q"));
    assert!(images.is_empty(), "{message}");
    message
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

/// The image that `peerfs build` makes of a tree.
fn built(folder: &Path, tree: &str) -> String {
    build(&folder.join(tree), &folder.join("store"), "built", &[])
}
