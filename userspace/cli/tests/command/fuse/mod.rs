// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mounts through FUSE. They need root, who may mount, and a kernel with FUSE.

mod filled;
mod users;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

use crate::fixture::Fixture;
use crate::round_trip::make_tree;
use crate::running::{build, fail, helper, output_soon, peerfs, program_of, succeed};

/// How long something may take that takes moments.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether this can be tried here.
fn can_mount() -> bool {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    let reason = match device {
        Err(error) => format!("/dev/fuse: {error}"),
        Ok(_) if !rustix::process::geteuid().is_root() => "only root may mount".to_owned(),
        Ok(_) => return true,
    };
    eprintln!("skipped: {reason}");
    false
}

/// A directory that something is mounted on, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// Mounts an image of a store, with more of a command line.
    fn new(store: &Path, image: &str, mountpoint: &Path, options: &[&str]) -> Self {
        let mountpoint = Self::at(mountpoint);
        let mut process = peerfs(store, "mount");
        process.arg("--fuse").args(options).arg(image);
        succeed(process.arg(&mountpoint.0));
        mountpoint
    }

    /// A directory where something is going to be mounted.
    fn at(mountpoint: &Path) -> Self {
        fs::create_dir(mountpoint).unwrap();
        Mounted(mountpoint.to_owned())
    }

    fn unmount(self) {
        succeed(peerfs(&self.0, "umount").arg(&self.0));
        assert!(!is_mounted(&self.0));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let _ = peerfs(&self.0, "umount")
                .arg("--lazy")
                .arg(&self.0)
                .output();
        }
    }
}

/// The same directory, where nothing can be changed.
fn read_only(tree: &Path) -> Mounted {
    let again = Mounted::at(&tree.with_file_name("read-only"));
    let mut mount = Command::new("mount");
    succeed(mount.args(["-o", "bind,ro"]).arg(tree).arg(&again.0));
    again
}

fn is_mounted(mountpoint: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = mountpoint.to_str().unwrap().replace(' ', "\\040");
    text.lines()
        .any(|line| line.split(' ').nth(4) == Some(&path))
}

/// A process that serves a mount, which is killed in the end.
struct Serving(Child);

impl Serving {
    /// Has `peerfs mount --foreground` mount an image, and waits until it has.
    fn start(store: &Path, image: &str, mountpoint: &Path) -> Self {
        let mut process = Command::new("env");
        process.arg("--default-signal");
        process.args([env!("CARGO_BIN_EXE_peerfs"), "mount", "--fuse"]);
        process.args(["--foreground", "--root-dir"]).arg(store);
        let serving = Serving(process.arg(image).arg(mountpoint).spawn().unwrap());
        until("it is mounted", || is_mounted(mountpoint));
        serving
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a command of the kernel tests' program prints.
fn testing(command: &str, paths: &[&Path], options: &[&str]) -> String {
    let mut process = Command::new(program_of("peerfs-testing", "peerfs-testing"));
    process.arg(command).args(paths).args(options);
    String::from_utf8_lossy(&succeed(&mut process)).into_owned()
}

/// What the kernel tests' program for such system calls prints that have no command.
fn system_call(arguments: &[&OsStr]) -> String {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kernel/system_calls.py");
    let output = succeed(Command::new("python3").arg(program).args(arguments));
    String::from_utf8(output).unwrap().trim_end().to_owned()
}

#[track_caller]
fn assert_same_tree(tree: &Path, mount: &Path) {
    let [expected, found] = [tree, mount].map(|root| testing("manifest", &[root], &[]));
    for (expected, found) in expected.lines().zip(found.lines()) {
        assert_eq!(expected, found);
    }
    assert_eq!(expected.lines().count(), found.lines().count());
}

#[test]
fn an_encrypted_image_is_mounted_by_who_has_its_key() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    let path = |name: &str| fixture.folder.path().join(name);
    // A comma, as paths may have them.
    let (key, other) = (path("realm,1.key"), path("other.key"));
    for key in [&key, &other] {
        succeed(peerfs(&fixture.store(), "key").arg("realm").arg(key));
    }
    let options = ["--encrypt", key.to_str().unwrap()];
    build(&fixture.tree(), &fixture.store(), "secret", &options);
    let escaped = key.to_str().unwrap().replace(',', "\\,");
    let right = format!("key={escaped}");
    let mounted = Mounted::new(&fixture.store(), "secret", &path("m"), &["-o", &right]);
    assert!(fs::read(mounted.0.join("file")).unwrap() == fixture.content);
    mounted.unmount();
    // Or who was granted it.
    let own = path("own.txt");
    let recipient = succeed(peerfs(&fixture.store(), "key").arg("identity").arg(&own));
    let recipient = String::from_utf8(recipient).unwrap();
    let mut grant = peerfs(&fixture.store(), "key");
    grant
        .arg("grant")
        .arg(&key)
        .args(["--to", recipient.trim_end()]);
    succeed(grant.arg("secret"));
    let identity = format!("identity={}", own.display());
    let options = ["-o", identity.as_str()];
    let mounted = Mounted::new(&fixture.store(), "secret", &path("granted"), &options);
    assert!(fs::read(mounted.0.join("file")).unwrap() == fixture.content);
    mounted.unmount();
    let nowhere = Mounted::at(&path("n"));
    for options in [
        vec![],
        vec!["-o".to_owned(), format!("key={}", other.display())],
    ] {
        let mut process = peerfs(&fixture.store(), "mount");
        process.arg("--fuse").args(options).arg("secret");
        let (_, message) = fail(process.arg(&nowhere.0));
        assert!(
            message.contains("-o key=FILE") && message.contains("needs the realm key"),
            "{message}"
        );
        assert!(!is_mounted(&nowhere.0));
    }
}

#[test]
fn a_mount_is_its_source() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [tree, store, mount] = ["tree", "store", "mount"].map(|name| folder.path().join(name));
    make_tree(&tree, &["--small"]);
    let image = build(&tree, &store, "image", &[]);
    let mounted = Mounted::new(&store, &image, &mount, &["--timeout", "7"]);
    assert_same_tree(&tree, &mount);
    testing("compare", &[&tree, &mount], &["--count", "200"]);
    let few = ["--seed", "1", "--seconds", "60", "--operations", "3000"];
    testing("differ", &[&read_only(&tree).0, &mount], &few);
    testing("read-only", &[&mount], &[]);
    let path = mount.join("content/large-text");
    let handle = system_call(&["handle".as_ref(), path.as_ref()]);
    mounted.unmount();
    fs::remove_dir(&mount).unwrap();
    let mounted = Mounted::new(&store, &image, &mount, &[]);
    let open = ["open-handle".as_ref(), mount.as_ref(), handle.as_ref()];
    let opened = system_call(&open);
    // Without a path, which nobody has walked.
    let text = fs::read_to_string(tree.join("content/large-text")).unwrap();
    assert_eq!(opened, format!("/ {}", text.lines().next().unwrap()));
    mounted.unmount();
}

#[test]
fn two_stores_of_any_name_are_mounted_and_collected_beside_each_other() {
    if !can_mount() {
        return;
    }
    let (one, two) = (Fixture::new(), Fixture::new());
    let names = ["a, b%2c\\", "say \"ü\""];
    let stores = [(&one, names[0]), (&two, names[1])].map(|(fixture, name)| {
        let store = fixture.folder.path().join(name);
        fs::rename(fixture.store(), &store).unwrap();
        store
    });
    fs::write(two.tree().join("file"), "of the second store").unwrap();
    let second = build(&two.tree(), &stores[1], "second", &[]);

    let here = one.folder.path().join("mount point");
    let first = Mounted::new(&stores[0], "image", &here, &[]);
    let there = Mounted::at(&two.folder.path().join("mnt"));
    let options = format!(
        "fuse,noexec,timeout=5,manifest={second},root_dir={}",
        stores[1].to_str().unwrap().replace('"', "\\\"")
    );
    let mut mount = helper(&stores[0]);
    succeed(mount.args(["-o", &options, "none"]).arg(&there.0));

    // Nothing but the mount needs it any more.
    for (store, image) in [(&stores[0], "image"), (&stores[1], "second")] {
        succeed(peerfs(store, "rm").arg(image));
        succeed(&mut peerfs(store, "gc"));
    }
    assert!(fs::read(here.join("file")).unwrap() == one.content);
    let file = there.0.join("file");
    assert_eq!(fs::read(&file).unwrap(), b"of the second store");
    let error = Command::new(&file).spawn().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    first.unmount();
    there.unmount();
    // Containers of other tests have copies of the mounts that there were when they began: those count until they end.
    until("nothing is left that nobody needs", || {
        succeed(&mut peerfs(&stores[0], "gc"));
        let left = fs::read_dir(stores[0].join("blobs/sha256")).unwrap();
        left.count() == 0
    });
}

#[test]
fn what_is_missing_is_an_error_after_the_timeout() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    let mountpoint = fixture.folder.path().join("mount");
    fs::create_dir(&mountpoint).unwrap();
    let socket = fixture.folder.path().join("none");
    let options = ["--fuse", "--timeout", "1", "--socket"];

    // Without its manifest it can't be mounted, which is said.
    let mut process = peerfs(&fixture.store(), "mount");
    process.args(options).arg(&socket).arg("ab".repeat(32));
    let (_, message) = fail(process.arg(&mountpoint));
    assert!(message.contains("could not be fetched"), "{message}");
    assert!(!is_mounted(&mountpoint));
    fs::remove_dir(&mountpoint).unwrap();

    fs::remove_file(fixture.blob(&fixture.pack().0.digest)).unwrap();
    let options = ["--timeout", "1", "--socket", socket.to_str().unwrap()];
    let mounted = Mounted::new(&fixture.store(), "image", &mountpoint, &options);
    let file = mountpoint.join("file");
    assert_eq!(fs::metadata(&file).unwrap().len(), 1_000_000);
    let begun = Instant::now();
    let error = fs::read(&file).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    mounted.unmount();
}

#[test]
fn a_mount_ends_with_who_serves_it() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    let mounted = Mounted::at(&fixture.folder.path().join("mount"));
    let file = mounted.0.join("file");
    for signal in [Signal::TERM, Signal::INT] {
        let mut serving = Serving::start(&fixture.store(), "image", &mounted.0);
        assert!(fs::read(&file).unwrap() == fixture.content);
        serving.signal(signal);
        serving.0.wait().unwrap();
        assert!(!is_mounted(&mounted.0));
    }
    // Who has a file open reads on.
    let mut serving = Serving::start(&fixture.store(), "image", &mounted.0);
    let mut open = fs::File::open(&file).unwrap();
    serving.signal(Signal::TERM);
    until("nobody finds it", || !is_mounted(&mounted.0));
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert!(content == fixture.content);
    drop(open);
    serving.0.wait().unwrap();

    let mut serving = Serving::start(&fixture.store(), "image", &mounted.0);
    serving.signal(Signal::KILL);
    serving.0.wait().unwrap();
    let error = fs::read(&file).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
    mounted.unmount();
}

#[test]
fn who_serves_in_the_background_ends_with_the_mount() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    let mountpoint = fixture.folder.path().join("mount");
    // Names as a shell gives them, from a folder that is no longer in use then.
    let mounted = Mounted::at(&mountpoint);
    let mut process = peerfs(Path::new("../store"), "mount");
    process.current_dir(fixture.tree()).arg("--fuse");
    let output = output_soon(process.args(["image", "../mount"]));
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let served = || {
        let mut pgrep = Command::new("pgrep");
        let output = pgrep.arg("--full").arg("--").arg(&mountpoint).output();
        !output.unwrap().stdout.is_empty()
    };
    assert!(served());
    fs::remove_dir_all(fixture.tree()).unwrap();
    assert!(fs::read(mountpoint.join("file")).unwrap() == fixture.content);
    mounted.unmount();
    until("it ends", || !served());
}
