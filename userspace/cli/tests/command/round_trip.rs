// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A tree of edge cases, built and read back through the command line.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::running::{build, peerfs, program_of, succeed};
use rustix::fs::{lgetxattr, llistxattr, major, minor};
use serde_json::{json, Value};
use sha2::{Digest, Sha256};

/// Files above this size are not read back here: they are all but empty and would take long.
const READ_MAX: u64 = 64 * 1024 * 1024;

#[test]
fn edge_cases_come_back_as_they_were() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make the tree of edge cases");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    make_tree(&tree, &[]);
    let store = folder.path().join("store");
    let digest = build(&tree, &store, "edges", &["--threads", "1"]);
    for (threads, compression) in [("8", "zstd:3"), ("2", "zstd")] {
        let options = ["--threads", threads, "--compression", compression];
        let again = build(&tree, &folder.path().join(threads), "edges", &options);
        assert_eq!(again, digest, "with {threads} threads");
    }
    let plain = build(&tree, &store, "plain", &["--compression", "none"]);
    assert_ne!(plain, digest);
    let lz4 = build(&tree, &store, "lz4", &["--compression", "lz4"]);

    let expected = expected(&tree);
    for image in [digest.as_str(), "plain", &lz4] {
        assert_eq!(
            listing(&store, image, &["-R"], "/").len(),
            expected.len() - 1
        );
        let mut found = listing(&store, image, &["-R"], "/");
        found.extend(listing(&store, image, &["-d"], "/"));
        for (path, wanted) in &expected {
            let actual = found.get(path).expect("every path is in the image");
            for (field, value) in wanted.as_object().unwrap() {
                let shown = String::from_utf8_lossy(path);
                assert_eq!(actual.get(field), Some(value), "{field} of {shown}");
            }
        }
        check_contents(&tree, &store, image, &expected);
    }
    succeed(peerfs(&store, "verify").arg("--complete"));
}

/// Makes the tree with the program that the kernel tests use.
pub fn make_tree(tree: &Path, options: &[&str]) {
    let mut process = Command::new(program_of("peerfs-testing", "peerfs-testing"));
    succeed(process.arg("make-tree").args(options).arg(tree));
}

/// What `ls --json` says of each path.
pub fn listing(
    store: &Path,
    image: &str,
    options: &[&str],
    path: &str,
) -> BTreeMap<Vec<u8>, Value> {
    let mut process = peerfs(store, "ls");
    process.arg("--json").args(options).args([image, path]);
    let output = String::from_utf8(succeed(&mut process)).unwrap();
    let lines = output.lines().map(|line| {
        let info: Value = serde_json::from_str(line).unwrap();
        let path = match info.get("path_hex") {
            Some(digits) => unhex(digits.as_str().unwrap()),
            None => info["path"].as_str().unwrap().as_bytes().to_vec(),
        };
        (path, info)
    });
    lines.collect()
}

/// What it should say.
fn expected(tree: &Path) -> BTreeMap<Vec<u8>, Value> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        let path = tree.join(&relative);
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                waiting.push(relative.join(entry.unwrap().file_name()));
            }
        }
        let name = [b"/", relative.as_os_str().as_bytes()].concat();
        found.insert(name, file_info(&path, &metadata));
    }
    found
}

fn file_info(path: &Path, metadata: &Metadata) -> Value {
    let kind = metadata.file_type();
    let mut info = json!({
        "mode": format!("{:o}", metadata.mode()),
        "uid": metadata.uid(),
        "gid": metadata.gid(),
        "mtime_seconds": metadata.mtime(),
        "mtime_nanoseconds": metadata.mtime_nsec(),
    });
    let fields = info.as_object_mut().unwrap();
    if kind.is_dir() {
        let children = fs::read_dir(path).unwrap();
        let directories = children.filter(|child| {
            let child = child.as_ref().unwrap();
            child.file_type().unwrap().is_dir()
        });
        // Not every file system counts so, but images do.
        fields.insert("nlink".into(), json!(2 + directories.count()));
    } else {
        fields.insert("nlink".into(), json!(metadata.nlink()));
        fields.insert("size".into(), json!(metadata.size()));
    }
    if kind.is_char_device() || kind.is_block_device() {
        let device = (major(metadata.rdev()), minor(metadata.rdev()));
        fields.insert("device".into(), json!(device));
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).unwrap();
        fields.insert(
            "target_hex".into(),
            json!(hex(target.as_os_str().as_bytes())),
        );
    }
    let xattrs = xattrs(path);
    if !xattrs.is_empty() {
        fields.insert("xattrs".into(), json!(xattrs));
    }
    info
}

fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut buffer = vec![0; 64 * 1024];
    let length = llistxattr(path, &mut buffer[..]).unwrap_or(0);
    let names = buffer[..length].split(|&byte| byte == 0);
    let names = names.filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 * 1024];
            let length = lgetxattr(path, name, &mut value[..]).unwrap();
            (
                String::from_utf8_lossy(name).into_owned(),
                hex(&value[..length]),
            )
        })
        .collect()
}

/// Reads the regular files back, many at once.
fn check_contents(tree: &Path, store: &Path, image: &str, expected: &BTreeMap<Vec<u8>, Value>) {
    let files: Vec<&[u8]> = expected
        .keys()
        .map(Vec::as_slice)
        .filter(|path| {
            let metadata = fs::symlink_metadata(on_disk(tree, path)).unwrap();
            metadata.is_file() && metadata.size() <= READ_MAX
        })
        .collect();
    assert!(files.len() > 100);
    for batch in files.chunks(100) {
        let mut process = peerfs(store, "cat");
        process.arg(image);
        let mut content = Vec::new();
        for path in batch {
            process.arg(OsStr::from_bytes(path));
            content.extend(fs::read(on_disk(tree, path)).unwrap());
        }
        let actual = Sha256::digest(succeed(&mut process));
        assert_eq!(actual, Sha256::digest(content), "{process:?}");
    }
}

fn on_disk(tree: &Path, path: &[u8]) -> PathBuf {
    let relative = path.strip_prefix(b"/").unwrap_or(path);
    tree.join(OsStr::from_bytes(relative))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    let pairs = pairs.map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}
