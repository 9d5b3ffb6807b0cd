// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images as archives and OCI images, read by the tools that these are for, and images compared with each other.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::fixture::Fixture;
use crate::round_trip::make_tree;
use crate::running::{build, fail, limited, output_soon, peerfs, succeed};
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_store::{write_image, Image, ImageBlobs, RuntimeConfig, Store};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};

fn export(store: &Path, arguments: &[&str]) -> Command {
    let mut process = peerfs(store, "export");
    process.args(arguments);
    process
}

fn has(program: &str) -> bool {
    let has = Command::new(program).arg("--version").output().is_ok();
    if !has {
        eprintln!("skipped: needs {program}");
    }
    has
}

#[test]
fn what_is_built_of_an_exported_image_is_the_same_image() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make the tree of edge cases");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let store = path("store");
    for options in [&["--small"][..], &[]] {
        let _ = fs::remove_dir_all(path("tree"));
        make_tree(&path("tree"), options);
        // Tar has none.
        fs::remove_file(path("tree").join("special/socket")).unwrap();
        if !options.is_empty() {
            // What has no value is nothing to tools that are written in Go.
            let path = path("tree").join("xattrs/every-namespace");
            rustix::fs::lremovexattr(&path, "user.empty").unwrap();
        }
        let digest = build(&path("tree"), &store, "edges", &[]);

        let archive = path("edges.tar");
        let to_file = ["tar", "edges", "--output", archive.to_str().unwrap()];
        let output = output_soon(&mut export(&store, &to_file));
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        let _ = fs::remove_dir_all(path("tar"));
        fs::create_dir(path("tar")).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xf"])
            .arg(&archive);
        let output = tar.arg("-C").arg(path("tar")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            build(&path("tar"), &store, "again", &[]),
            digest,
            "{options:?}"
        );

        // umoci writes holes as zeros.
        if options.is_empty() || !has("umoci") {
            continue;
        }
        let layout = format!("{}:edges", path("layout").display());
        succeed(&mut export(&store, &["oci", "edges", &layout]));
        let mut umoci = Command::new("umoci");
        succeed(
            umoci
                .args(["unpack", "--image", &layout])
                .arg(path("bundle")),
        );
        assert_eq!(
            build(&path("bundle").join("rootfs"), &store, "again", &[]),
            digest
        );
    }
}

/// An image with a configuration.
fn configured(fixture: &Fixture) {
    let store = Store::create(&fixture.store()).unwrap();
    let manifest = store
        .read_metadata(&fixture.manifest, METADATA_MAX)
        .unwrap();
    let read = fixture.read_manifest().1;
    let blobs = ImageBlobs {
        manifest: &manifest,
        blob_table: read.blob_table,
        blob_table_length: read.blob_table_length.into(),
        shards: &[],
        packs: &[],
    };
    let mut config = RuntimeConfig::default();
    config
        .set_env(Some(vec!["WHO=peerfs".to_owned()]))
        .set_entrypoint(Some(vec!["/file".to_owned()]))
        .set_user(Some("1000:1000".to_owned()));
    let (architecture, tag) = ("arm64".parse().unwrap(), "configured".parse().unwrap());
    write_image(&store, &blobs, &architecture, &config, &tag).unwrap();
}

#[test]
fn an_oci_image_is_run_as_the_image_says_and_has_the_same_bytes_everywhere() {
    let fixture = Fixture::new();
    configured(&fixture);
    let layout = fixture.folder.path().join("layout");
    let archive = fixture.folder.path().join("archive.tar");
    let place = |tag: &str| format!("{}:{tag}", layout.display());
    let mut digests = Vec::new();
    for (tag, threads, compression) in [
        ("one", "1", "gzip"),
        ("two", "3", "gzip"),
        ("three", "1", "zstd:5"),
        ("four", "3", "zstd:5"),
    ] {
        let options = ["--threads", threads, "--compression", compression];
        let place = place(tag);
        let rest = [&["oci", "configured", &place], &options[..]].concat();
        digests.push(String::from_utf8(succeed(&mut export(&fixture.store(), &rest))).unwrap());
    }
    assert_eq!((&digests[0], &digests[2]), (&digests[1], &digests[3]));
    assert_ne!(digests[0], digests[2]);
    let to_archive = format!("oci-archive:{}", archive.display());
    let digest = succeed(&mut export(
        &fixture.store(),
        &["oci", "configured", &to_archive],
    ));
    assert_eq!(digest, digests[0].as_bytes());
    if !has("skopeo") {
        return;
    }
    for image in [
        format!("oci:{}", place("two")),
        format!("oci:{}", place("three")),
        format!("{to_archive}:configured"),
    ] {
        let inspect = succeed(Command::new("skopeo").args(["inspect", "--config", &image]));
        let config: Value = serde_json::from_slice(&inspect).unwrap();
        let expected = json!({"Env": ["WHO=peerfs"], "Entrypoint": ["/file"], "User": "1000:1000"});
        assert_eq!(
            (&config["config"], &config["architecture"]),
            (&expected, &json!("arm64"))
        );
        // It reads the layer.
        let copy = format!("dir:{}", fixture.folder.path().join("copy").display());
        succeed(Command::new("skopeo").args(["copy", "--quiet", &image, &copy]));
    }
    // By the other tag it is run in another way.
    succeed(&mut export(
        &fixture.store(),
        &["oci", "image", &place("plain")],
    ));
    let image = format!("oci:{}", place("plain"));
    let inspect = succeed(Command::new("skopeo").args(["inspect", "--config", &image]));
    assert!(!String::from_utf8(inspect).unwrap().contains("WHO"));
}

#[test]
fn what_an_archive_is_not_written_to_stays_as_it_is() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let (_, message) = fail(&mut export(
        &store,
        &["oci", "image", fixture.tree().to_str().unwrap()],
    ));
    assert!(
        message.contains("neither empty nor an OCI image layout"),
        "{message}"
    );
    assert_eq!(fs::read_dir(fixture.tree()).unwrap().count(), 1);
    // Who unpacks it would remove a file.
    fs::write(fixture.tree().join(".wh.file"), "").unwrap();
    build(&fixture.tree(), &store, "hidden", &[]);
    let layout = fixture.folder.path().join("layout");
    let (_, message) = fail(&mut export(
        &store,
        &["oci", "hidden", layout.to_str().unwrap()],
    ));
    assert!(
        message.contains(".wh.file") && message.contains("export tar"),
        "{message}"
    );
    assert!(!layout.join("index.json").exists());
    let left = succeed(Command::new("find").arg(&layout).args(["-type", "f"]));
    assert!(left.is_empty());
    succeed(&mut export(&store, &["tar", "hidden"]));
    // What failed can be tried again.
    succeed(&mut export(
        &store,
        &["oci", "image", layout.to_str().unwrap()],
    ));
    // The image of that tag would be lost there, and with it what only that needs.
    let other = fixture.folder.path().join("other");
    build(&fixture.tree(), &other, "image", &[]);
    let (_, message) = fail(&mut export(
        &store,
        &["oci", "image", other.to_str().unwrap()],
    ));
    assert!(message.contains("is a store of peerfs"), "{message}");
    succeed(peerfs(&other, "ls").arg("image"));
}

#[test]
fn images_that_are_exported_at_the_same_time_are_all_in_the_layout() {
    let fixture = Fixture::new();
    let layout = fixture.folder.path().join("layout");
    let tags = ["one", "two", "three", "four", "five"];
    let children = tags.map(|tag| {
        let place = format!("oci:{}:{tag}", layout.display());
        let mut process = export(&fixture.store(), &["oci", "image", &place]);
        process.stdout(Stdio::null()).spawn().unwrap()
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    for tag in tags {
        assert!(index.contains(&format!("\"{tag}\"")), "{tag}: {index}");
    }
}

#[test]
fn who_waits_for_a_reader_is_ended_by_a_signal() {
    let fixture = Fixture::new();
    let mut child = export(&fixture.store(), &["tar", "image"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun to write what is more than a pipe holds.
    let output = child.stdout.as_mut().unwrap();
    output.read_exact(&mut [0; 100]).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut patience = 100;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if patience == 0 => {
                child.kill().unwrap();
                panic!("it does not end");
            }
            None => {
                patience -= 1;
                thread::sleep(Duration::from_millis(100));
            }
        }
    };
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()));
}

#[test]
fn the_memory_for_a_tree_does_not_grow_with_the_square_of_its_depth() {
    const DEPTH: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let (store, archive) = (folder.path().join("store"), folder.path().join("deep.tar"));
    let script = "import sys, tarfile\n\
                  with tarfile.open(sys.argv[1], 'w', format=tarfile.GNU_FORMAT) as archive:\n    \
                  archive.addfile(tarfile.TarInfo('a/' * int(sys.argv[2]) + 'f'))";
    let mut python = Command::new("python3");
    succeed(
        python
            .args(["-c", script])
            .arg(&archive)
            .arg(DEPTH.to_string()),
    );
    let mut import = peerfs(&store, "import");
    succeed(import.arg(&archive).args(["--tag", "deep"]));
    // Paths of half that length on average, of each directory, would be four hundred mebibytes.
    let mut export = limited(env!("CARGO_BIN_EXE_peerfs").as_ref(), "-v 250000");
    export
        .args(["export", "tar", "deep", "--output", "/dev/null"])
        .env("PEERFS_ROOT_DIR", &store);
    succeed(&mut export);
}

#[test]
fn nobody_need_read_an_archive_to_its_end() {
    let fixture = Fixture::new();
    let mut child = export(&fixture.store(), &["tar", "image"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut [0; 100])
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.code() == Some(1) && output.stderr.is_empty(),
        "{output:?}"
    );
    // A terminal would obey it.
    let mut script = Command::new("script");
    let command = format!("{} export tar image", env!("CARGO_BIN_EXE_peerfs"));
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let output = output_soon(script.env("PEERFS_ROOT_DIR", fixture.store()));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        !output.status.success() && shown.contains("not written to a terminal"),
        "{shown}"
    );
}

fn diff(store: &Path, arguments: &[&str]) -> String {
    let output = output_soon(peerfs(store, "diff").args(arguments));
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let code = output.status.code().unwrap();
    format!("{}{code}", String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_difference_is_of_what_users_see() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let tree = fixture.tree();
    for name in ["same", "edited", "moded", "replaced", "removed/below"] {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    fs::write(tree.join("text"), "This compresses. ".repeat(20_000)).unwrap();
    let date = |path: &Path| {
        succeed(
            Command::new("touch")
                .args(["--no-dereference", "--date", "2020-01-01"])
                .arg(path),
        );
    };
    let dates = || {
        let listed = succeed(Command::new("find").arg(&tree));
        String::from_utf8(listed)
            .unwrap()
            .lines()
            .for_each(|path| date(Path::new(path)));
    };
    dates();
    build(&tree, &store, "old", &[]);
    fs::write(tree.join("edited"), "EDITED").unwrap();
    succeed(Command::new("chmod").arg("600").arg(tree.join("moded")));
    fs::remove_file(tree.join("replaced")).unwrap();
    symlink("same", tree.join("replaced")).unwrap();
    fs::remove_dir_all(tree.join("removed")).unwrap();
    fs::create_dir(tree.join("new")).unwrap();
    fs::write(tree.join("new/file"), "new").unwrap();
    dates();
    succeed(
        Command::new("touch")
            .args(["--date", "2021-01-01"])
            .arg(tree.join("same")),
    );
    build(&tree, &store, "new", &[]);
    let expected =
        "C /edited: content\nC /moded: mode\nA /new\nA /new/file\nD /removed\nD /removed/below\n\
                    C /replaced: type\nC /same: time\n";
    assert_eq!(
        diff(&store, &["--long", "old", "new"]),
        format!("{expected}1")
    );
    let found = diff(&store, &["--ignore-times", "new", "old"]);
    let expected =
        "C /edited\nC /moded\nD /new\nD /new/file\nA /removed\nA /removed/below\nC /replaced\n1";
    assert_eq!(found, expected);
    assert_eq!(diff(&store, &["old", "old"]), "0");
    let trouble = output_soon(peerfs(&store, "diff").args(["old", "nowhere"]));
    assert_eq!(trouble.status.code(), Some(2), "{trouble:?}");

    // Content is the same however it is stored; who lies about that is believed only where nobody can look.
    build(
        &tree,
        &store,
        "plain",
        &["--whole", "--compression", "none"],
    );
    assert_eq!(diff(&store, &["new", "plain"]), "0");
    let summary = |first: &str, second: &str| -> Value {
        let output = output_soon(peerfs(&store, "diff").args(["--json", first, second]));
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    };
    let plain = summary("new", "plain");
    assert_eq!(
        (&plain["changed"], &plain["not_compared"]),
        (&json!(0), &json!(0))
    );
    assert!(plain["fetch_chunks"].as_u64() > Some(0));
    let same = summary("plain", "plain");
    assert_eq!(
        (&same["fetch_chunks"], &same["fetch_metadata_bytes"]),
        (&json!(0), &json!(0))
    );
    let digest: Digest = {
        let output = succeed(peerfs(&store, "inspect").args(["--json", "plain"]));
        let inspected: Value = serde_json::from_slice(&output).unwrap();
        inspected["manifest"].as_str().unwrap().parse().unwrap()
    };
    let image = Image::open(Store::open(&store).unwrap().into(), &digest).unwrap();
    let pack = image.blob_table().pack(0).unwrap();
    fs::remove_file(fixture.blob(&pack.digest)).unwrap();
    assert!(summary("new", "plain")["not_compared"].as_u64() > Some(0));
}

#[test]
fn what_only_one_image_needs_is_what_its_removal_frees() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let mut content = fixture.content.clone();
    content[400_000..400_010].copy_from_slice(b"ten bytes!");
    fs::write(fixture.tree().join("file"), &content).unwrap();
    fs::write(fixture.tree().join("more"), &fixture.content[..300_000]).unwrap();
    build(&fixture.tree(), &store, "edited", &[]);
    let usage = |image: &str| -> (Value, Value) {
        let output =
            String::from_utf8(succeed(peerfs(&store, "du").args(["--json", image]))).unwrap();
        let mut lines = output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        (lines.next().unwrap(), lines.next().unwrap())
    };
    let bytes = |value: &Value, key: &str| value[key].as_u64().unwrap();
    let gc = |options: &[&str]| -> Value {
        let output = succeed(peerfs(&store, "gc").arg("--json").args(options));
        serde_json::from_slice(&output).unwrap()
    };
    let (image, total) = usage("image");
    assert_eq!(bytes(&total, "reclaimable_bytes"), 0);
    let unique = bytes(&image, "unique_bytes");
    assert!(
        (1..500_000).contains(&unique) && bytes(&image, "shared_bytes") > 500_000,
        "{image}"
    );
    succeed(peerfs(&store, "rm").arg("image"));
    let (edited, total) = usage("edited");
    assert_eq!(bytes(&edited, "shared_bytes"), 0);
    let reclaimable = bytes(&total, "reclaimable_bytes");
    assert!(
        reclaimable.abs_diff(unique) <= 8192,
        "{reclaimable} of {unique}"
    );
    let would = gc(&["--dry-run"]);
    let done = gc(&[]);
    assert_eq!(would, done);
    assert_eq!(bytes(&done, "bytes"), reclaimable);
    let (edited, total) = usage("edited");
    let (all, needed) = (bytes(&total, "store_bytes"), bytes(&total, "needed_bytes"));
    assert!(
        all.abs_diff(needed) <= 8192 && needed == bytes(&edited, "unique_bytes"),
        "{total}"
    );
}

#[test]
fn what_a_store_takes_that_can_only_be_read_is_told() {
    let fixture = Fixture::new();
    fixture.build_other();
    succeed(peerfs(&fixture.store(), "rm").arg("other"));
    let store = fixture.store();
    let script =
        "mount --bind $1 $1 && mount -o remount,bind,ro $1 || exit 77; $2 du --json --root-dir $1";
    let mut process = Command::new("unshare");
    process.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    process.arg(&store).arg(env!("CARGO_BIN_EXE_peerfs"));
    let output = output_soon(&mut process);
    if output.status.code() == Some(77) {
        eprintln!("no mounts in user namespaces here");
        return;
    }
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let total: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    let gone = succeed(peerfs(&store, "gc").args(["--json", "--dry-run"]));
    let gone: Value = serde_json::from_slice(&gone).unwrap();
    assert!(gone["bytes"].as_u64() > Some(0));
    assert_eq!(total["reclaimable_bytes"], gone["bytes"]);
}
