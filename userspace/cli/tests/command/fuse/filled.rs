// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mounts of images that a daemon brings, from another daemon that has them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use super::{assert_same_tree, can_mount, testing, until, Mounted};
use crate::fixture::{change, Fixture};
use crate::round_trip::make_tree;
use crate::running::{build, fail, peerfs, program_of, succeed};

/// A daemon over a store of its own, until it is dropped.
struct Daemon {
    folder: TempDir,
    more: String,
    child: Child,
}

impl Daemon {
    /// One with more of a configuration, for `[peer]`.
    fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = run(folder.path(), more);
        Daemon {
            folder,
            more: more.to_owned(),
            child,
        }
    }

    /// One that knows this one.
    fn beside(other: &Daemon) -> Self {
        let mut process = peerfs(&other.store(), "status");
        process.arg("--json").arg("--socket").arg(other.socket());
        let status: Value = serde_json::from_slice(&succeed(&mut process)).unwrap();
        let status = status.get("status").unwrap_or(&status);
        Self::start(&format!("bootstrap = {}\n", status["listen_addresses"]))
    }

    /// Kills it and, a moment later, starts another one.
    fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        thread::sleep(Duration::from_millis(500));
        fs::remove_file(self.socket()).unwrap();
        self.child = run(self.folder.path(), &self.more);
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    fn mount(&self, image: &str) -> Mounted {
        let socket = self.socket();
        let options = ["--socket", socket.to_str().unwrap()];
        Mounted::new(
            &self.store(),
            image,
            &self.folder.path().join("mnt"),
            &options,
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(folder: &Path, more: &str) -> Child {
    let config = format!(
        "root_dir = {:?}\nstate_dir = {:?}\ncontrol_socket = {:?}\ndevice = \"none\"\n[peer]\n\
         mdns = false\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n{more}",
        folder.join("store"),
        folder.join("state"),
        folder.join("control"),
    );
    fs::write(folder.join("config"), config).unwrap();
    let mut daemon = Command::new(program_of("peerfs-daemon", "peerfsd"));
    daemon.arg("--config").arg(folder.join("config"));
    let child = daemon.stderr(Stdio::null()).spawn().unwrap();
    until("the daemon listens", || folder.join("control").exists());
    child
}

#[test]
fn an_image_that_is_not_here_is_mounted_and_read() {
    if !can_mount() {
        return;
    }
    let seed = Daemon::start("");
    let tree = seed.folder.path().join("tree");
    make_tree(&tree, &["--small"]);
    let image = build(&tree, &seed.store(), "image", &[]);
    let daemon = Daemon::beside(&seed);
    let mounted = daemon.mount(&image);
    let mut mounts = peerfs(&daemon.store(), "mounts");
    let mounts = succeed(mounts.arg("--socket").arg(daemon.socket()));
    let mounts = String::from_utf8(mounts).unwrap();
    assert!(mounts.contains(mounted.0.to_str().unwrap()), "{mounts}");
    testing("compare", &[&tree, &mounted.0], &["--count", "100"]);
    assert_same_tree(&tree, &mounted.0);
    mounted.unmount();
}

#[test]
fn no_reader_sees_that_the_daemon_is_killed() {
    if !can_mount() {
        return;
    }
    // Some seconds for the file.
    let seed = Daemon::start("upload_bytes_per_second = 300000\n");
    let fixture = Fixture::new();
    let image = build(&fixture.tree(), &seed.store(), "image", &[]);
    let mut daemon = Daemon::beside(&seed);
    let mounted = daemon.mount(&image);
    let file = mounted.0.join("file");
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let file = file.clone();
            thread::spawn(move || fs::read(file))
        })
        .collect();
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(400));
        daemon.kill_and_restart();
    }
    for reader in readers {
        assert!(reader.join().unwrap().unwrap() == fixture.content);
    }
    mounted.unmount();
}

#[test]
fn what_is_damaged_is_fetched_anew() {
    if !can_mount() {
        return;
    }
    let seed = Daemon::start("");
    let fixture = Fixture::new();
    let image = build(&fixture.tree(), &seed.store(), "image", &[]);
    let daemon = Daemon::beside(&seed);
    let mut pull = peerfs(&daemon.store(), "pull");
    succeed(pull.arg("--socket").arg(daemon.socket()).arg(&image));
    // Of all that there is.
    let blobs = fs::read_dir(daemon.store().join("blobs/sha256")).unwrap();
    for blob in blobs.map(|blob| blob.unwrap().path()) {
        let length = fs::metadata(&blob).unwrap().len() as usize;
        change(&blob, |bytes| bytes[length / 2] ^= 1);
    }
    let mounted = daemon.mount(&image);
    assert!(fs::read(mounted.0.join("file")).unwrap() == fixture.content);
    mounted.unmount();
}

#[test]
fn what_is_read_stays_when_the_store_becomes_too_large() {
    if !can_mount() {
        return;
    }
    let seed = Daemon::start("");
    let daemon = Daemon::beside(&seed);
    let fixture = Fixture::new();
    let images = ["first", "second"].map(|name| {
        let others = packs(&seed.store());
        let image = build(&fixture.tree(), &seed.store(), name, &[]);
        let other: Vec<u8> = fixture.content.iter().rev().copied().collect();
        fs::write(fixture.tree().join("file"), other).unwrap();
        let pack = packs(&seed.store()).difference(&others).next().cloned();
        let mut pull = peerfs(&daemon.store(), "pull");
        succeed(pull.arg("--socket").arg(daemon.socket()).arg(&image));
        (
            image,
            daemon.store().join("blobs/sha256").join(pack.unwrap()),
        )
    });
    let [(first, read), (_, unread)] = &images;
    // What is used is known by the second.
    thread::sleep(Duration::from_secs(1));
    let mounted = daemon.mount(first);
    assert!(fs::read(mounted.0.join("file")).unwrap() == fixture.content);
    // The daemon is told every five.
    thread::sleep(Duration::from_secs(7));
    let config = daemon.folder.path().join("config");
    let smaller = fs::read_to_string(&config).unwrap() + "[limits]\ncache_bytes = 1500000\n";
    fs::write(&config, smaller).unwrap();
    let process = Pid::from_child(&daemon.child);
    kill_process(process, Signal::HUP).unwrap();
    until("something was given up", || {
        !read.exists() || !unread.exists()
    });
    assert!(read.exists() && !unread.exists());
    mounted.unmount();
}

/// The names of a store's packs.
fn packs(store: &Path) -> BTreeSet<OsString> {
    let blobs = fs::read_dir(store.join("blobs/sha256")).unwrap();
    let packs = blobs
        .map(Result::unwrap)
        .filter(|blob| blob.metadata().unwrap().len() > 900_000);
    packs.map(|blob| blob.file_name()).collect()
}

#[test]
fn what_was_missed_is_noted_and_brought_elsewhere_before_it_is_read() {
    if !can_mount() {
        return;
    }
    let seed = Daemon::start("");
    let fixture = Fixture::new();
    let image = build(&fixture.tree(), &seed.store(), "image", &[]);
    let first = Daemon::beside(&seed);
    let mounted = first.mount(&image);
    assert!(fs::read(mounted.0.join("file")).unwrap() == fixture.content);
    let trace = |daemon: &Daemon, command: &str| {
        let mut process = peerfs(&daemon.store(), "trace");
        process.arg(command);
        process
    };
    let listed = || String::from_utf8(succeed(&mut trace(&first, "list"))).unwrap();
    until("it is noted", || listed().contains(&image));
    let shown = succeed(trace(&first, "show").arg(&image));
    assert!(String::from_utf8(shown)
        .unwrap()
        .contains(" ms  pack 0, chunk"));
    let exported = succeed(trace(&first, "export").arg(&image).arg("-"));
    let file = fixture.folder.path().join("trace");
    fs::write(&file, &exported).unwrap();
    mounted.unmount();

    let second = Daemon::beside(&seed);
    let warm = || {
        let mut process = peerfs(&second.store(), "warm");
        process.arg("--socket").arg(second.socket()).arg(&image);
        process
    };
    let (_, message) = fail(&mut warm());
    assert!(message.contains("no trace"), "{message}");
    let imported = succeed(trace(&second, "import").arg(&file));
    assert_eq!(String::from_utf8(imported).unwrap().trim(), image);
    assert_eq!(
        String::from_utf8(succeed(&mut warm())).unwrap().trim(),
        image
    );
    // Nobody is needed any more for what is read.
    drop((seed, first));
    let mounted = second.mount(&image);
    assert!(fs::read(mounted.0.join("file")).unwrap() == fixture.content);
    mounted.unmount();

    let (_, message) = fail(warm().args(["--trace", "cc1"]));
    assert!(message.contains("for workload cc1"), "{message}");
    fs::write(&file, &exported[..90]).unwrap();
    let (_, message) = fail(trace(&second, "import").arg(&file));
    assert!(
        message.contains("can't be imported as a trace"),
        "{message}"
    );
    // One that is damaged hides no other, and can be removed.
    let other = second.store().join("traces").join("0a".repeat(32));
    fs::write(&other, &exported[..90]).unwrap();
    let listed = trace(&second, "list").output().unwrap();
    assert!(listed.status.success() && String::from_utf8(listed.stdout).unwrap().contains(&image));
    succeed(trace(&second, "rm").arg("0a".repeat(32)));
    assert!(!other.exists());
    succeed(trace(&second, "rm").arg(&image));
    let (_, message) = fail(trace(&second, "show").arg(&image));
    assert!(message.contains("no trace"), "{message}");
}
