// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfsd` as a process.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use peerfs_control::{ask, Reply, Request};
use tempfile::TempDir;

fn peerfsd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_peerfsd"))
}

/// The configuration of a daemon that leaves the rest of the machine alone.
fn configure(root: &Path, more: &str) -> std::path::PathBuf {
    let file = root.join("peerfsd.toml");
    let text = format!(
        "root_dir = {:?}\ncontrol_socket = {:?}\ndevice = \"none\"\n[peer]\nmdns = false\n\
         listen = [\"/ip4/127.0.0.1/tcp/0\"]\n{more}",
        root.join("store"),
        root.join("control"),
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// A daemon that is killed if the test fails.
struct Running {
    child: Child,
    root: TempDir,
}

impl Running {
    /// Starts a daemon and waits until it says so.
    fn start(arguments: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut child = peerfsd()
            .arg("--config")
            .arg(configure(root.path(), ""))
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let mut lines = BufReader::new(stderr).lines();
        let started = lines.any(|line| line.unwrap().contains("started"));
        assert!(started, "peerfsd ended early");
        // Somebody has to read what it logs from now on.
        std::thread::spawn(move || lines.for_each(drop));
        Running { child, root }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.root.path().join("control")
    }

    /// Signals it; returns its exit status and how long it took to end.
    fn stop(&mut self, signal: Signal) -> (Option<i32>, Duration) {
        let before = Instant::now();
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        let status = self.child.wait().unwrap();
        (status.code(), before.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn check(text: &str) -> Output {
    let root = tempfile::tempdir().unwrap();
    let config = configure(root.path(), text);
    peerfsd()
        .arg("--check")
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

#[test]
fn help_names_the_options() {
    let output = peerfsd().arg("--help").output().unwrap();
    assert!(output.status.success());
    for option in [
        "--config",
        "--root-dir",
        "--check",
        "--device",
        "--log-format",
    ] {
        assert!(text(&output.stdout).contains(option), "{option}");
    }
}

#[test]
fn a_valid_configuration_passes_the_check() {
    let output = check("[log]\nlevel = \"debug\"\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "The configuration is valid.\n");
}

#[test]
fn a_wrong_configuration_is_refused_with_the_key() {
    let output = check("[limits]\nrequest = 5\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("request"));
    assert!(
        text(&output.stderr).contains("requests"),
        "what would be right"
    );
    let output = peerfsd()
        .args(["--check", "--config", "/nonexistent/peerfsd.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/nonexistent/peerfsd.toml"));
}

#[test]
fn it_ends_in_order_when_told_to() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Running::start(&[]);
        assert!(daemon.socket().exists());
        let (status, took) = daemon.stop(signal);
        assert_eq!(status, Some(0));
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert!(!daemon.socket().exists());
    }
}

#[test]
fn it_says_how_it_is_doing() {
    let daemon = Running::start(&[]);
    let Ok(Reply::Status(status)) = ask(&daemon.socket(), Request::Status, Duration::from_secs(10))
    else {
        panic!("no status");
    };
    assert!(!status.node_id.is_empty());
    assert_eq!(status.listen_addresses.len(), 1);
    assert_eq!(status.requests_in_flight, 0);
    assert_eq!(status.bytes_by_source["peers"], 0);
}

#[test]
fn its_key_is_its_own() {
    let mut daemon = Running::start(&[]);
    let key = daemon.root.path().join("store/peer.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mode = std::fs::metadata(daemon.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.stop(Signal::SIGTERM);
}

#[test]
fn a_second_daemon_on_the_same_store_is_refused() {
    let daemon = Running::start(&[]);
    let output = peerfsd()
        .arg("--config")
        .arg(daemon.root.path().join("peerfsd.toml"))
        .arg("--control-socket")
        .arg(daemon.root.path().join("other"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("already fills the store"), "{stderr}");
}

#[test]
fn a_socket_that_is_in_use_is_not_taken_away() {
    let daemon = Running::start(&[]);
    let output = peerfsd()
        .arg("--config")
        .arg(daemon.root.path().join("peerfsd.toml"))
        .arg("--root-dir")
        .arg(daemon.root.path().join("other"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("control_socket"));
    ask(&daemon.socket(), Request::Status, Duration::from_secs(10)).unwrap();
}

#[test]
fn the_log_can_be_json() {
    let root = tempfile::tempdir().unwrap();
    let mut child = peerfsd()
        .arg("--config")
        .arg(configure(root.path(), ""))
        .args(["--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    stderr.read_to_string(&mut String::new()).unwrap();
    child.wait().unwrap();
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(value["fields"]["message"].is_string(), "{line}");
}

#[test]
fn without_the_device_it_says_what_to_do_and_serves_peers() {
    let root = tempfile::tempdir().unwrap();
    let mut child = peerfsd()
        .arg("--config")
        .arg(configure(root.path(), ""))
        .args(["--device", "/nonexistent/peerfs"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let advised = lines.any(|line| line.unwrap().contains("modprobe peerfs"));
    assert!(advised);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}
