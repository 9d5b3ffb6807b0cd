// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images in directories: all of them, and nothing anywhere else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{lchown, symlink, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{replace, Fixture};
use crate::round_trip::make_tree;
use crate::running::{build, drop_privileges, fail, output_soon, peerfs, public_copy, succeed};
use peerfs_store::{Image, Store};
use rustix::fs::{mknodat, FileType, Mode, CWD};
use rustix::process::{kill_process, Pid, Signal};

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can do that");
    }
    is_root
}

fn extract(store: &Path, image: &str, directory: &Path, rest: &[&str]) -> Command {
    let mut process = peerfs(store, "extract");
    process.arg(image).arg(directory).args(rest);
    process
}

#[test]
fn what_is_built_of_an_extracted_image_is_the_same_image() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (tree, store) = (folder.path().join("tree"), folder.path().join("store"));
    make_tree(&tree, &[]);
    let digest = build(&tree, &store, "edges", &[]);
    for threads in ["1", "5"] {
        let target = folder.path().join(threads);
        succeed(&mut extract(
            &store,
            "edges",
            &target,
            &["--threads", threads],
        ));
        assert_eq!(build(&target, &store, "again", &[]), digest);
        // Over itself it is the same, too.
        let output = output_soon(&mut extract(&store, "edges", &target, &["--overwrite"]));
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        assert_eq!(build(&target, &store, "again", &[]), digest);
        let hole = fs::metadata(target.join("sparse/huge-hole")).unwrap();
        assert_eq!((hole.size(), hole.blocks()), (1 << 40, 0));
    }
}

#[test]
fn a_directory_that_holds_something_is_left_alone_unless_that_is_asked_for() {
    let fixture = Fixture::new();
    let target = fixture.folder.path().join("target");
    for name in ["file", "own"] {
        fs::create_dir_all(target.join(name)).unwrap();
    }
    symlink("/etc", target.join("elsewhere")).unwrap();
    let (_, message) = fail(&mut extract(&fixture.store(), "image", &target, &[]));
    assert!(
        message.contains("not empty") && message.contains("--overwrite"),
        "{message}"
    );
    fs::create_dir(fixture.tree().join("elsewhere")).unwrap();
    fs::write(fixture.tree().join("elsewhere/passwd"), "image").unwrap();
    build(&fixture.tree(), &fixture.store(), "image", &[]);
    succeed(&mut extract(
        &fixture.store(),
        "image",
        &target,
        &["--overwrite"],
    ));
    assert!(fs::read(target.join("file")).unwrap() == fixture.content);
    // A directory is one afterwards, and no way out.
    assert!(fs::symlink_metadata(target.join("elsewhere"))
        .unwrap()
        .is_dir());
    assert_eq!(fs::read(target.join("elsewhere/passwd")).unwrap(), b"image");
    assert!(target.join("own").is_dir());
}

#[test]
fn some_paths_are_extracted_with_what_leads_there() {
    let fixture = Fixture::new();
    for directory in ["a/b/c", "a/other", "z"] {
        let directory = fixture.tree().join(directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), "").unwrap();
    }
    symlink("b", fixture.tree().join("a/link")).unwrap();
    fs::set_permissions(fixture.tree().join("a"), Permissions::from_mode(0o751)).unwrap();
    build(&fixture.tree(), &fixture.store(), "image", &[]);
    let target = fixture.folder.path().join("target");
    let rest = ["/a/b/", "./a/link"];
    succeed(&mut extract(&fixture.store(), "image", &target, &rest));
    let listed = succeed(Command::new("find").arg(".").current_dir(&target));
    let mut listed: Vec<&str> = std::str::from_utf8(&listed).unwrap().lines().collect();
    listed.sort_unstable();
    let expected = [".", "./a", "./a/b", "./a/b/c", "./a/b/c/file", "./a/link"];
    assert_eq!(listed, expected);
    assert_eq!(
        fs::metadata(target.join("a")).unwrap().mode() & 0o7777,
        0o751
    );
    // Into a directory of somebody's, whose mode stays.
    fs::set_permissions(&target, Permissions::from_mode(0o711)).unwrap();
    let rest = ["--overwrite", "z"];
    succeed(&mut extract(&fixture.store(), "image", &target, &rest));
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o711);
    assert!(target.join("z/file").exists());

    let none = fixture.folder.path().join("none");
    for (path, problem) in [
        ("a/nothing", "no such file"),
        ("a/link/c", "not a directory"),
        ("a/../z", "\"..\""),
    ] {
        let (_, message) = fail(&mut extract(&fixture.store(), "image", &none, &["z", path]));
        assert!(message.contains(problem), "{message}");
        assert!(!none.exists());
    }
}

#[test]
fn an_image_with_names_that_lead_elsewhere_is_refused() {
    let fixture = Fixture::new();
    for name in [b"../x", b"f/le", b"/etc"] {
        let (mut bytes, manifest) = fixture.read_manifest();
        let store = Arc::new(Store::create(&fixture.store()).unwrap());
        let image = Image::open(store.clone(), &fixture.manifest).unwrap();
        let first_shard = image.blob_table().shard(0).unwrap().digest;
        let mut shard = fs::read(fixture.blob(&first_shard)).unwrap();
        while shard.windows(4).any(|found| found == b"file") {
            replace(&mut shard, b"file", name);
        }
        let mut table = fs::read(fixture.blob(&manifest.blob_table)).unwrap();
        let forged = store.add_blob(&shard).unwrap();
        replace(&mut table, &first_shard.0, &forged.0);
        let forged = store.add_blob(&table).unwrap();
        replace(&mut bytes, &manifest.blob_table.0, &forged.0);
        let hostile = store.add_blob(&bytes).unwrap().to_string();
        let target = fixture.folder.path().join("target");
        let (_, message) = fail(&mut extract(
            &fixture.store(),
            &hostile,
            &target,
            &["--overwrite"],
        ));
        assert!(
            message.contains("entry name") || message.contains("span name"),
            "{message}"
        );
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        assert!(!fixture.folder.path().join("x").exists());
        let (tar, _) = fail(peerfs(&fixture.store(), "export").args(["tar", &hostile]));
        assert!(!tar.windows(4).any(|found| found == name));
    }
}

/// Somebody makes directories of the target symbolic links that lead out of it, and back again, all the time.
#[test]
fn nothing_is_written_outside_whoever_moves_directories_meanwhile() {
    let fixture = Fixture::new();
    for number in 0..150 {
        let directory = fixture.tree().join(format!("d{number}/e"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), number.to_string()).unwrap();
        fs::hard_link(directory.join("file"), directory.join("../link")).unwrap();
    }
    build(&fixture.tree(), &fixture.store(), "image", &[]);
    let outside = fixture.folder.path().join("outside");
    fs::create_dir_all(outside.join("e")).unwrap();
    fs::set_permissions(&outside, Permissions::from_mode(0o750)).unwrap();
    let mut swapped = 0;
    for round in 0..2 {
        let target = fixture.folder.path().join(format!("target{round}"));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let swap = || {
                let (mut swaps, aside) = (0, target.join("aside"));
                while !is_over.load(Ordering::Relaxed) {
                    for number in 0..150 {
                        let directory = target.join(format!("d{number}"));
                        if fs::rename(&directory, &aside).is_ok() {
                            swaps += u32::from(symlink(&outside, &directory).is_ok());
                            thread::sleep(Duration::from_micros(50));
                            let _ = fs::remove_file(&directory);
                            let _ = fs::rename(&aside, &directory);
                        }
                    }
                }
                swaps
            };
            let swapper = scope.spawn(swap);
            let output = output_soon(&mut extract(
                &fixture.store(),
                "image",
                &target,
                &["--threads", "2"],
            ));
            is_over.store(true, Ordering::Relaxed);
            swapped += swapper.join().unwrap();
            // What was not where it should be is told.
            assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
        });
        let left = succeed(Command::new("find").arg(".").current_dir(&outside));
        assert_eq!(left, b".\n./e\n");
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o750);
    }
    assert!(swapped > 100, "{swapped} times");
}

#[test]
fn an_ordinary_user_gets_all_that_is_theirs_to_make() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let device = fixture.tree().join("device");
    mknodat(
        CWD,
        &device,
        FileType::CharacterDevice,
        Mode::RUSR,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let program = fixture.tree().join("program");
    fs::write(&program, "x").unwrap();
    let (nobody, other) = (65534, 1234);
    for (name, owner) in [("mine", nobody), ("others", other)] {
        let path = fixture.tree().join(name);
        fs::write(&path, "").unwrap();
        lchown(&path, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o4755)).unwrap();
    }
    build(&fixture.tree(), &fixture.store(), "image", &[]);
    let copy = public_copy(fixture.folder.path());
    let target = fixture.folder.path().join("target");
    let mut process = Command::new(copy);
    process
        .args(["extract", "--root-dir"])
        .arg(fixture.store())
        .arg("image")
        .arg(&target);
    let output = output_soon(drop_privileges(&mut process));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), 2, "{message}");
    assert!(
        lines[0].contains("can't create") && lines[0].contains("target/device"),
        "{message}"
    );
    assert!(!target.join("device").exists());
    let found = |name: &str| fs::metadata(target.join(name)).unwrap();
    assert!(fs::read(target.join("file")).unwrap() == fixture.content);
    for (name, mode) in [("mine", 0o4755), ("others", 0o755)] {
        let found = found(name);
        assert_eq!(
            (found.uid(), found.mode() & 0o7777),
            (nobody, mode),
            "{name}"
        );
    }
    // Root may do so, too.
    let target = fixture.folder.path().join("another");
    succeed(&mut extract(
        &fixture.store(),
        "image",
        &target,
        &["--no-same-owner"],
    ));
    let found = fs::metadata(target.join("others")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o755));
}

/// A disk of two MiB, for as long as it is needed.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn new(path: &'a Path) -> Self {
        fs::create_dir(path).unwrap();
        let mut mount = Command::new("mount");
        succeed(
            mount
                .args(["-t", "tmpfs", "-o", "size=2m", "none"])
                .arg(path),
        );
        SmallDisk(path)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_ends_it_and_no_half_of_a_file_stays() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    for number in 0..5 {
        let path = fixture.tree().join(format!("file{number}"));
        fs::write(path, &fixture.content[number..]).unwrap();
    }
    build(&fixture.tree(), &fixture.store(), "image", &[]);
    let path = fixture.folder.path().join("disk");
    let disk = SmallDisk::new(&path);
    let target = disk.0.join("target");
    let (_, message) = fail(&mut extract(&fixture.store(), "image", &target, &[]));
    assert!(
        message.contains("No space left") && message.contains("make room"),
        "{message}"
    );
    let whole = fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().size());
    let whole: Vec<u64> = whole.collect();
    assert!(
        !whole.is_empty() && whole.iter().all(|size| *size >= 999_990),
        "{whole:?}"
    );
    for form in ["tar", "oci"] {
        let mut process = peerfs(&fixture.store(), "export");
        let (_, message) = match form {
            "tar" => fail(
                process
                    .args(["tar", "image", "-o"])
                    .arg(disk.0.join("x.tar")),
            ),
            _ => fail(process.args(["oci", "image"]).arg(disk.0.join("layout"))),
        };
        assert!(message.contains("make room"), "{message}");
        let left = succeed(
            Command::new("find")
                .arg(disk.0)
                .args(["-name", ".peerfs-*"]),
        );
        assert!(left.is_empty());
    }
}

#[test]
fn who_interrupts_it_finds_no_half_of_a_file() {
    let fixture = Fixture::new();
    let large = fixture.tree().join("large");
    fs::write(&large, fixture.content.repeat(100)).unwrap();
    build(&fixture.tree(), &fixture.store(), "image", &[]);
    let target = fixture.folder.path().join("target");
    let mut child = extract(&fixture.store(), "image", &target, &["--threads", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let has_begun = || fs::metadata(target.join("large")).is_ok_and(|found| found.len() > 0);
    while !has_begun() && begin.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(2), "{status:?}");
    assert!(fs::read(target.join("file")).unwrap() == fixture.content);
    assert!(!target.join("large").exists());
}

#[test]
fn what_is_missing_is_named_with_what_brings_it() {
    let fixture = Fixture::new();
    let pack = fixture.make_partial(2);
    drop(pack);
    let target = fixture.folder.path().join("target");
    let (_, message) = fail(&mut extract(&fixture.store(), "image", &target, &[]));
    assert!(
        message.contains("file of the image") && message.contains("peerfs pull"),
        "{message}"
    );
    assert!(!target.join("file").exists());
    let (_, message) = fail(peerfs(&fixture.store(), "export").args(["tar", "image"]));
    assert!(
        message.contains("file of the image") && message.contains("peerfs pull"),
        "{message}"
    );
}

#[test]
fn a_socket_comes_back() {
    let fixture = Fixture::new();
    let _listener = UnixListener::bind(fixture.tree().join("socket")).unwrap();
    let digest = build(&fixture.tree(), &fixture.store(), "image", &[]);
    let target = fixture.folder.path().join("target");
    succeed(&mut extract(&fixture.store(), "image", &target, &[]));
    assert_eq!(build(&target, &fixture.store(), "again", &[]), digest);
}
