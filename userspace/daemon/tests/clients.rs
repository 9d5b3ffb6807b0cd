// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs` and `peerfsd` as processes, and another `peerfsd` that has an image.

#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::{geteuid, Pid};
use peerfs_control::{PinOrigin, PullState, PullStatus, Reply};
use serde_json::Value;
use support::process::{configure, peerfs, peerfsd, succeed, text, Running};

/// Bytes of the image's one file, which do not compress.
const LENGTH: usize = 3_000_000;
/// A source that needs some seconds for the image.
const SLOW: &str = "upload_bytes_per_second = 500000\n";

/// A daemon that has an image, and the digest of that.
fn seed(more: &str) -> (Running, String) {
    let root = tempfile::tempdir().unwrap();
    let tree = root.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), content()).unwrap();
    let mut build = Command::new(peerfs());
    build.args(["build", "--tag", "seed", "--root-dir"]);
    let digest = succeed(build.arg(root.path().join("store")).arg(tree));
    (
        Running::start_over(root, more).0,
        digest.trim_end().to_owned(),
    )
}

fn content() -> Vec<u8> {
    let mut state = 42_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 56) as u8
    });
    bytes.take(LENGTH).collect()
}

/// The configuration of one that knows another.
fn knowing(other: &Running) -> String {
    format!("bootstrap = {:?}\n", other.status().listen_addresses)
}

fn empty(more: &str) -> Running {
    Running::start_over(tempfile::tempdir().unwrap(), more).0
}

/// Waits until something holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A pull that tells how it goes as JSON.
struct Pulling {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Pulling {
    fn start(daemon: &Running, image: &str) -> Self {
        let mut process = daemon.client("pull", &["--json", image]);
        process.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let lines = Box::new(stdout.lines().map(Result::unwrap));
        Pulling { child, lines }
    }

    /// The next line; whether it is the last one.
    fn next(&mut self) -> (PullStatus, bool) {
        let line = self.lines.next().expect("there are more lines");
        match serde_json::from_str(&line).unwrap() {
            Reply::Progress(status) => (status, false),
            Reply::Done(status) => (status, true),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until some of the content has come.
    fn wait_for_content(&mut self) {
        while self.next().0.present_chunks == 0 {}
    }

    fn done(&mut self) -> PullStatus {
        loop {
            if let (status, true) = self.next() {
                return status;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

/// All of the image is in the store, and right.
fn assert_complete(daemon: &Running, image: &str) {
    let command = |name: &str| {
        let mut process = Command::new(peerfs());
        process.arg(name).arg("--root-dir").arg(daemon.store());
        process
    };
    succeed(command("verify").arg("--complete"));
    let output = command("cat").args([image, "/file"]).output().unwrap();
    assert!(output.stdout == content());
}

fn from_peers(daemon: &Running) -> u64 {
    daemon.status().bytes_by_source["peers"]
}

#[test]
fn an_image_is_pulled_and_told_of() {
    let (a, image) = seed(SLOW);
    let b = empty(&knowing(&a));
    let mut pulling = Pulling::start(&b, &image);
    let (mut before, mut steps) = (0, 0);
    let last = loop {
        let (status, is_last) = pulling.next();
        assert_eq!(status.image, image);
        assert!(status.present_bytes >= before, "{status:?}");
        steps += u32::from(status.present_bytes > before && before > 0);
        before = status.present_bytes;
        if is_last {
            break status;
        }
    };
    assert!(steps > 3, "{steps} steps");
    assert_eq!(last.state, PullState::Complete);
    assert_eq!(last.total_bytes, Some(last.present_bytes));
    assert_eq!(last.total_chunks, Some(last.present_chunks));
    assert_eq!(last.bytes_by_source["peers"], last.present_bytes);
    assert!(pulling.child.wait().unwrap().success());
    assert_complete(&b, &image);

    // There is nothing left to be done but to give it a name, which then names it.
    assert_eq!(
        b.succeed("pull", &["--tag", "mine", &image]),
        format!("{image}\n")
    );
    let output = b.client("pull", &["mine"]).output().unwrap();
    assert_eq!(text(&output.stdout), format!("{image}\n"));
    assert!(text(&output.stderr).contains("nothing was fetched"));
    assert_eq!(from_peers(&b), last.present_bytes);

    // What is damaged is mended.
    let blobs = fs::read_dir(b.store().join("blobs/sha256")).unwrap();
    let largest = blobs
        .map(Result::unwrap)
        .max_by_key(|blob| blob.metadata().unwrap().len());
    let pack = largest.unwrap().path();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[LENGTH / 2] ^= 1;
    fs::write(&pack, bytes).unwrap();
    b.succeed("pull", &["mine"]);
    assert_complete(&b, &image);
}

#[test]
fn two_clients_share_a_fetch_and_one_may_go() {
    let (a, image) = seed(SLOW);
    let b = empty(&knowing(&a));
    let mut first = Pulling::start(&b, &image);
    first.wait_for_content();
    let mut second = Pulling::start(&b, &image);
    second.wait_for_content();
    assert_eq!(b.status().pulls.len(), 1);
    first.signal(Signal::SIGKILL);
    first.child.wait().unwrap();
    let done = second.done();
    assert_eq!(
        Some(from_peers(&b)),
        done.total_bytes,
        "all of it came once"
    );
    assert!(second.child.wait().unwrap().success());
    assert_complete(&b, &image);
    until("nobody pulls any more", || b.status().pulls.is_empty());
}

#[test]
fn who_interrupts_a_pull_keeps_what_has_come() {
    let (a, image) = seed(SLOW);
    let b = empty(&knowing(&a));
    let mut pulling = Pulling::start(&b, &image);
    pulling.wait_for_content();
    pulling.signal(Signal::SIGINT);
    let status = pulling.child.wait().unwrap();
    // A shell says 130.
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32));
    let mut message = String::new();
    let mut stderr = pulling.child.stderr.take().unwrap();
    stderr.read_to_string(&mut message).unwrap();
    assert!(message.contains("what has come stays"), "{message}");
    until("the daemon stops it", || b.status().pulls.is_empty());
    // What was on its way has come or not by then.
    thread::sleep(Duration::from_secs(1));
    let came = from_peers(&b);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(from_peers(&b), came);
    let done = Pulling::start(&b, &image).done();
    assert!(came > 0 && done.bytes_by_source["peers"] < done.present_bytes);
    assert_complete(&b, &image);
}

#[test]
fn what_nobody_has_is_not_waited_for_for_ever() {
    let b = empty("");
    let nobody = "09".repeat(32);
    let begun = Instant::now();
    let message = b.fail("pull", &["--timeout", "1", &nobody]);
    assert!(
        message.contains(&format!("sends blob {nobody}")),
        "{message}"
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
    let mut pulling = Pulling::start(&b, &nobody);
    let waiting = loop {
        let (status, is_last) = pulling.next();
        assert!(!is_last);
        if status.state == PullState::Waiting {
            break status;
        }
    };
    assert!(waiting.reason.unwrap().contains(&nobody));
    pulling.signal(Signal::SIGTERM);
    pulling.child.wait().unwrap();
    until("the daemon stops it", || b.status().pulls.is_empty());
}

#[test]
fn what_can_not_be_fetched_is_refused_with_the_reason() {
    let (a, image) = seed("");
    for (command, name, named) in [
        ("pull", "other", "a tag is a name in this store"),
        ("pin", "other", "there are: \"seed\""),
        ("unpin", "other", "no image is called \"other\""),
        ("pull", "127.0.0.1:1/base:1", "cannot ask 127.0.0.1:1"),
        ("pin", "registry.example/base:1", "is not in the store"),
        (
            "pin",
            &format!("{}/base", "a".repeat(52)),
            "nothing is known of",
        ),
        ("unpin", &image, "is not pinned"),
    ] {
        let message = a.fail(command, &[name]);
        assert!(message.contains(named), "{command} {name}: {message}");
    }
    for arguments in [&["a b"][..], &["--tag", &image, "seed"]] {
        let output = a.client("pull", arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    // What is no image at all.
    fs::write(a.root.path().join("tree/note"), "no manifest").unwrap();
    let blob = peerfs_store::Store::open(&a.store()).unwrap();
    let blob = blob.add_blob(b"no manifest").unwrap().to_string();
    let message = a.fail("pull", &[&blob]);
    assert!(
        message.contains("is not the manifest of an image"),
        "{message}"
    );
}

#[test]
fn pins_and_their_ends_outlive_the_daemon() {
    let (a, image) = seed("");
    let b = empty("");
    assert_eq!(b.succeed("pin", &[&image]), format!("{image}\n"));
    assert_eq!(b.succeed("pin", &[&image]), format!("{image}\n"));
    let (b, _) = b.restart(&knowing(&a));
    until("the pin is complete", || {
        b.status().pins[0].state == "complete"
    });
    assert_complete(&b, &image);
    assert_eq!(b.status().pins[0].origin, PinOrigin::Command);
    assert!(b
        .succeed("status", &[])
        .contains(&format!("pin {image}: complete")));
    b.succeed("unpin", &[&image]);
    assert_eq!(b.status().pins, []);
    assert!(b.fail("unpin", &[&image]).contains("is not pinned"));
    let (b, _) = b.restart(&format!("{}[[pin]]\nimage = {image:?}\n", knowing(&a)));
    until("the configuration's pin is known", || {
        b.status().pins[0].state == "complete"
    });
    assert_eq!(b.status().pins.len(), 1);
    let message = b.fail("unpin", &[&image]);
    assert!(message.contains("the configuration pins"), "{message}");
    let (b, _) = b.restart("");
    assert_eq!(b.status().pins, []);
}

#[test]
fn the_pin_of_a_configuration_may_be_a_tag_that_comes_later() {
    let b = empty("[[pin]]\nimage = \"later\"\n");
    let state = || b.status().pins[0].state.clone();
    until("it says what is missing", || {
        state().contains("no image is called \"later\"")
    });
    let root = tempfile::tempdir().unwrap();
    let check = |image: &str| {
        let config = configure(root.path(), &format!("[[pin]]\nimage = {image:?}\n"));
        peerfsd().arg("--config").arg(config).output().unwrap()
    };
    let output = check("registry.example/base");
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(message.contains("can't fetch from registries"), "{message}");
    assert!(
        message.contains("peerfsd.toml") && message.contains("line 9"),
        "{message}"
    );
}

#[test]
fn a_damaged_file_of_pins_keeps_no_daemon_from_its_work() {
    let image = "09".repeat(32);
    let endless = "[".repeat(2 << 20);
    for damage in ["{\"version\":1,\"pi", &endless] {
        let root = tempfile::tempdir().unwrap();
        let pins = root.path().join("state/pins.json");
        fs::create_dir(root.path().join("state")).unwrap();
        fs::write(&pins, damage).unwrap();
        let (b, log) = Running::start_over(root, "");
        assert!(
            log.contains("pins.json") && log.contains("are not"),
            "{log}"
        );
        let message = b.fail("pin", &[&image]);
        assert!(message.contains("mend it, or remove it"), "{message}");
        assert_eq!(
            fs::read_to_string(&pins).unwrap(),
            *damage,
            "it is left alone"
        );
        b.status();
    }
}

#[test]
fn what_happens_is_told() {
    let (a, image) = seed("");
    let b = empty("");
    let mut process = b.client("events", &["--json"]);
    let mut child = process.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["kind"], "subscribed");
    // The other one connects to it, and has the image.
    let a = a.restart(&knowing(&b)).0;
    b.succeed("pull", &[&image]);
    let mut kinds = Vec::new();
    loop {
        let event = next();
        let kind = event["kind"].as_str().unwrap().to_owned();
        assert!(event["time_ms"].as_u64().unwrap() > 1_600_000_000_000);
        if kind != "peer_connected" && kind != "peer_disconnected" {
            assert_eq!(event["image"], image.as_str());
        }
        let is_complete = event["state"] == "complete";
        kinds.push(kind);
        if is_complete {
            break;
        }
    }
    assert!(kinds.contains(&"peer_connected".to_owned()), "{kinds:?}");
    assert!(kinds.contains(&"image".to_owned()), "{kinds:?}");
    drop(a);
    while next()["kind"] != "peer_disconnected" {}
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn nobody_need_read_what_is_told() {
    let b = empty("");
    let mut shell = Command::new("bash");
    shell.args([
        "-c",
        "set -o pipefail; \"$0\" events --socket \"$1\" | head -n 1",
    ]);
    let told = succeed(shell.arg(peerfs()).arg(b.socket()));
    assert!(told.contains(" peerfsd "), "{told}");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = b.client("mounts", &[]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(b.succeed("mounts", &["--json"]), "");
    assert!(b.succeed("mounts", &[]).starts_with("MOUNTED ON"));
}

#[test]
fn others_do_not_reach_the_daemon_and_its_user_is_told_when_it_is_not_there() {
    let b = empty("");
    fs::set_permissions(b.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = b.root.path().join("peerfs");
    fs::copy(peerfs(), &program).unwrap();
    if geteuid().is_root() {
        let mut other = Command::new(&program);
        other
            .args(["pin", &"09".repeat(32), "--socket"])
            .arg(b.socket());
        let output = other.uid(65534).gid(65534).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = text(&output.stderr);
        assert!(message.contains("its user alone may ask"), "{message}");
    }
    let mut b = b;
    b.stop(Signal::SIGTERM);
    let message = b.fail("pull", &[&"09".repeat(32)]);
    assert!(
        message.contains("Start it with `systemctl start peerfsd`"),
        "{message}"
    );
}

/// Asks with these bytes, and closes that side; returns all that is answered.
fn ask_raw(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn whatever_is_asked_is_answered() {
    let b = empty("");
    let answer = ask_raw(
        &b.socket(),
        b"{\"command\":\"evict\"}\n{\"command\":\"images\"}\n",
    );
    let lines: Vec<&str> = answer.lines().collect();
    assert!(
        lines[0].contains("peerfsd 0.") && lines[0].contains("does not know"),
        "{answer}"
    );
    assert_eq!(lines[1], r#"{"images":[]}"#);
    let answer = ask_raw(&b.socket(), &[b'x'; 10_000]);
    assert_eq!(answer, "{\"error\":\"a request has at most 4096 bytes\"}\n");
    // Many who want to hear of everything leave room for others.
    let listening: Vec<UnixStream> = (0..70)
        .map(|_| {
            let mut stream = UnixStream::connect(b.socket()).unwrap();
            stream.write_all(b"{\"command\":\"events\"}\n").unwrap();
            stream
        })
        .collect();
    // Which of them come too late nobody knows: each is read by a task of its own.
    let refused = listening
        .iter()
        .map(|stream| BufReader::new(stream).lines().next().unwrap().unwrap())
        .filter(|first| first.contains("too many clients"))
        .count();
    assert_eq!(refused, 70 - 64);
    b.status();
}

#[test]
fn a_store_that_takes_nothing_is_told() {
    let (a, image) = seed("");
    // Mounts of their own, and so users who may have one.
    const READ_ONLY: &str = "mount --bind $0 $0 && mount -o remount,bind,ro $0 && exec \"$@\"";
    const SMALL: &str = "mount -t tmpfs -o size=2m small $0 && exec \"$@\"";
    for (script, named) in [
        (READ_ONLY, "the store is read only"),
        (SMALL, "No space left on device"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        peerfs_store::Store::create(&store).unwrap();
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
            command.arg(&store);
            command
        };
        if !unshare().arg("true").status().unwrap().success() {
            eprintln!("no user namespaces here");
            return;
        }
        let config = configure(root.path(), &knowing(&a));
        let mut command = unshare();
        command
            .arg(env!("CARGO_BIN_EXE_peerfsd"))
            .arg("--config")
            .arg(config);
        let (b, _) = Running::run(command, root);
        let message = b.fail("pull", &[&image]);
        assert!(message.contains(named), "{message}");
        b.status();
    }
}
