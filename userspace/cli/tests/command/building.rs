// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Builds that end early, and trees with something in the way.

use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::Fixture;
use crate::running::{build, drop_privileges, fail, peerfs, public_copy, succeed};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

#[test]
fn all_files_that_can_not_be_read_are_told_at_once() {
    let fixture = Fixture::new();
    let tree = fixture.tree();
    let program = public_copy(fixture.folder.path());
    fs::create_dir(tree.join("directory")).unwrap();
    fs::write(tree.join("directory/inside"), "").unwrap();
    fs::write(tree.join("large"), &fixture.content).unwrap();
    fs::write(tree.join("small\x1b"), "").unwrap();
    fs::create_dir(tree.join("readable")).unwrap();
    fs::write(tree.join("readable/small"), "x").unwrap();
    let closed = ["directory", "large", "small\x1b", "readable/small"];
    for name in closed {
        fs::set_permissions(tree.join(name), Permissions::from_mode(0o000)).unwrap();
    }
    let mut process = Command::new(program);
    drop_privileges(&mut process);
    process
        .arg("build")
        .arg(&tree)
        .args(["--tag", "x", "--root-dir"]);
    let output = process
        .arg(fixture.folder.path().join("new"))
        .output()
        .unwrap();
    for name in closed {
        fs::set_permissions(tree.join(name), Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    let expected: Vec<String> = ["directory", "large", "readable/small", "small\\u{1b}"]
        .map(|name| format!("  {}/{name}", tree.display()))
        .to_vec();
    let mut lines = message.lines();
    assert!(
        lines.next().unwrap().contains("4 files of the tree"),
        "{message}"
    );
    assert_eq!(lines.collect::<Vec<_>>(), expected);
}

#[test]
fn other_file_systems_can_be_left_out() {
    let fixture = Fixture::new();
    let mounted = fixture.tree().join("mounted");
    fs::create_dir(&mounted).unwrap();
    let script = r#"mount -t tmpfs none "$1" && echo >"$1/inside" && shift && exec "$@""#;
    let build = |options: &[&str]| {
        let mut process = Command::new("unshare");
        process.args(["--mount", "--map-root-user", "bash", "-c", script, "bash"]);
        process
            .arg(&mounted)
            .arg(env!("CARGO_BIN_EXE_peerfs"))
            .arg("build");
        process
            .arg(fixture.tree())
            .args(["--tag", "image", "--root-dir"]);
        process.arg(fixture.store()).args(options).output().unwrap()
    };
    let output = build(&[]);
    if String::from_utf8_lossy(&output.stderr).contains("unshare") {
        eprintln!("skipped: no user namespaces here");
        return;
    }
    let list = || succeed(peerfs(&fixture.store(), "ls").args(["-R", "image"]));
    assert_eq!(list(), b"file\nmounted\nmounted/inside\n");
    assert!(build(&["--one-file-system"]).status.success());
    assert_eq!(list(), b"file\nmounted\n");
}

/// Starts a build that takes half a minute: what repeats itself would be stored once.
fn start(fixture: &Fixture) -> Child {
    let numbers = (0..4_000_000u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut large = BufWriter::new(File::create(fixture.tree().join("large")).unwrap());
    numbers.for_each(|number| writeln!(large, "{number:016x}").unwrap());
    large.flush().unwrap();
    // Whoever runs the tests in the background may have had SIGINT ignored, which is inherited.
    let mut process = Command::new("env");
    process
        .arg("--default-signal")
        .arg(env!("CARGO_BIN_EXE_peerfs"))
        .arg("build")
        .arg("--root-dir")
        .arg(fixture.folder.path().join("new"))
        .arg(fixture.tree())
        .args(["--tag", "x", "--compression", "zstd:19", "--threads", "1"]);
    let child = process
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tmp = fixture.folder.path().join("new/tmp");
    while !tmp.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(300));
    child
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let fixture = Fixture::new();
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = start(&fixture);
        let sent = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        // A shell says 130 or 143 then.
        assert_eq!(status.signal(), Some(signal.as_raw()));
        assert!(
            sent.elapsed() < Duration::from_secs(5),
            "{:?}",
            sent.elapsed()
        );
        let left = fs::read_dir(fixture.folder.path().join("new/tmp")).unwrap();
        assert_eq!(left.count(), 0);
    }
}

#[test]
fn a_build_goes_on_if_it_is_to_ignore_signals() {
    let fixture = Fixture::new();
    let script = r#"trap "" INT TERM; "$@" & child=$!; sleep 0.2; kill -INT $child; wait $child"#;
    let mut process = Command::new("bash");
    process
        .args(["-c", script, "bash"])
        .arg(env!("CARGO_BIN_EXE_peerfs"));
    process
        .arg("build")
        .arg(fixture.tree())
        .args(["--tag", "x", "--root-dir"]);
    succeed(process.arg(fixture.store()));
}

#[test]
fn a_tree_that_is_none_is_named() {
    let fixture = Fixture::new();
    let file = fixture.tree().join("file");
    let mut process = peerfs(&fixture.store(), "build");
    let (_, message) = fail(process.arg(&file).args(["--tag", "x"]));
    assert!(message.contains("open the directory"), "{message}");
    File::create(fixture.tree().join("n".repeat(255))).unwrap();
    build(&fixture.tree(), &fixture.store(), "x", &[]);
}

/// The configuration that an image is run with.
fn oci_config(store: &Path, summary: &Value) -> Value {
    let blob = |digest: &str| -> Value {
        let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
        let bytes = fs::read(store.join("blobs/sha256").join(digest)).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let index = blob(summary["oci_index"].as_str().unwrap());
    let manifest = blob(index["manifests"][0]["digest"].as_str().unwrap());
    blob(manifest["config"]["digest"].as_str().unwrap())
}

#[test]
fn an_image_is_for_what_its_programs_are_for() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, store) = (folder.path().join("tree"), folder.path().join("store"));
    fs::create_dir(&tree).unwrap();
    let build = |options: &[&str]| -> Value {
        let mut process = peerfs(&store, "build");
        process.arg(&tree).args(["--json", "--tag", "image"]);
        serde_json::from_slice(&succeed(process.args(options))).unwrap()
    };
    // Programs of other machines than this one: what builds the image has no part in it.
    let header = |machine: u8| {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(18, 0);
        header.extend([machine, 0, 1, 0, 0, 0]);
        header
    };
    let write = |name: &str, content: &[u8], mode: u32| {
        fs::write(tree.join(name), content).unwrap();
        fs::set_permissions(tree.join(name), Permissions::from_mode(mode)).unwrap();
    };
    // No program: it can't be executed.
    write("library", &header(22), 0o644);
    write("script", b"#!/bin/sh\nexec another-program\n", 0o755);
    let summary = build(&[]);
    assert_eq!(oci_config(&store, &summary)["architecture"], "unknown");
    write("program", &header(183), 0o755);
    let arm = build(&[]);
    assert_eq!(arm["architecture"], "arm64");
    assert_eq!(oci_config(&store, &arm)["architecture"], "arm64");
    assert_eq!(oci_config(&store, &arm)["os"], "linux");
    let told = build(&["--architecture", "riscv64"]);
    assert_eq!(oci_config(&store, &told)["architecture"], "riscv64");
    assert_eq!(told["manifest"], arm["manifest"]);
    assert_ne!(told["oci_index"], arm["oci_index"]);
    assert_eq!(build(&[])["oci_index"], arm["oci_index"]);
}

#[test]
fn a_profile_is_for_size() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let numbers = (0..200_000).map(|number| format!("{number} is a number\n"));
    fs::write(fixture.tree().join("text"), numbers.collect::<String>()).unwrap();
    let stored = |tag: &str, options: &[&str]| -> u64 {
        let mut process = peerfs(&store, "build");
        process.arg(fixture.tree()).args(["--json", "--tag", tag]);
        let summary: Value = serde_json::from_slice(&succeed(process.args(options))).unwrap();
        summary["stored_bytes"].as_u64().unwrap()
    };
    let default = stored("default", &["--profile", "default"]);
    let small = stored("small", &["--profile", "small"]);
    let random = fixture.content.len() as u64;
    assert!(
        3 * (small - random) < 2 * (default - random),
        "{small} of {default}"
    );
    // The profile's chunks, in another way.
    let plain = stored("plain", &["--profile", "small", "--compression", "none"]);
    assert!(plain > default, "{plain}");
    succeed(peerfs(&store, "verify").arg("--complete"));
}
