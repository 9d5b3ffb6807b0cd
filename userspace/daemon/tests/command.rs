// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfsd` as a process.

#![forbid(unsafe_code)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use peerfs_control::{ask, Reply, Request};
use support::process::{configure, peerfsd, text, Running};

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
fn nobody_need_listen_to_what_is_wrong() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let root = tempfile::tempdir().unwrap();
    let config = configure(root.path(), "");
    let check = |config: &Path| {
        let mut process = peerfsd();
        process.arg("--check").arg("--config").arg(config);
        process
    };
    let unheard = check(&config).stderr(full()).status().unwrap();
    assert_eq!(unheard.code(), Some(0));
    let unheard = check(Path::new("/nonexistent")).stderr(full()).status();
    assert_eq!(unheard.unwrap().code(), Some(2));
    // Whoever asks for the answer is not told that all is well.
    let output = check(&config).stdout(full()).stderr(Stdio::piped()).spawn();
    let output = output.unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
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
fn it_ends_although_the_store_does_not_open() {
    // A file system of which nobody answers, for as long as the descriptor is open. Needs a mount of its own.
    const SILENT: &str = "exec 9<>/dev/fuse && \
        mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 silent $0 && exec \"$@\"";
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", SILENT]);
        command.arg(&store).arg(program);
        command
    };
    if !unshare("true").status().unwrap().success() {
        eprintln!("no FUSE in user namespaces here");
        return;
    }
    let mut child = unshare(env!("CARGO_BIN_EXE_peerfsd"))
        .arg("--config")
        .arg(configure(root.path(), ""))
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(child.try_wait().unwrap(), None, "it waits for the store");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn it_says_how_it_is_doing() {
    let daemon = Running::start(&[]);
    let Ok(Reply::Status(status)) =
        ask(&daemon.socket(), &Request::Status, Duration::from_secs(10))
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
    let key = daemon.root.path().join("state/peer.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mode = std::fs::metadata(daemon.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.stop(Signal::SIGTERM);
}

/// Starts a daemon that must refuse to run; returns what it says.
fn refusal(root: &Path, arguments: &[&str]) -> String {
    let mut command = peerfsd();
    command.arg("--config").arg(configure(root, ""));
    let output = command.args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    text(&output.stderr).to_owned()
}

#[test]
fn a_key_that_others_may_know_is_refused() {
    let mut daemon = Running::start(&[]);
    daemon.stop(Signal::SIGTERM);
    let key = daemon.root.path().join("state/peer.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refusal = refusal(daemon.root.path(), &[]);
    assert!(refusal.contains("chmod 600"), "{refusal}");
}

#[test]
fn a_key_in_the_store_is_not_used() {
    let mut daemon = Running::start(&[]);
    let id =
        |daemon: &Running| match ask(&daemon.socket(), &Request::Status, Duration::from_secs(10)) {
            Ok(Reply::Status(status)) => status.node_id,
            other => panic!("{other:?}"),
        };
    let first = id(&daemon);
    daemon.stop(Signal::SIGTERM);
    // As a copy of a store would bring it.
    let root = tempfile::tempdir().unwrap();
    peerfs_store::Store::create(&root.path().join("store")).unwrap();
    let (old, copied) = (
        daemon.root.path().join("state/peer.key"),
        root.path().join("store/peer.key"),
    );
    std::fs::copy(old, &copied).unwrap();
    let mut command = peerfsd();
    command.arg("--config").arg(configure(root.path(), ""));
    let (second, log) = Running::run(command, root);
    assert_ne!(id(&second), first);
    assert!(log.contains("store/peer.key is not used"), "{log}");
}

#[test]
fn two_daemons_do_not_share_a_key() {
    let daemon = Running::start(&[]);
    let other = ["store2", "control2"].map(|name| daemon.root.path().join(name));
    let arguments = ["--root-dir", "--control-socket"];
    let arguments: Vec<&str> = arguments
        .iter()
        .zip(&other)
        .flat_map(|(&name, path)| [name, path.to_str().unwrap()])
        .collect();
    let refusal = refusal(daemon.root.path(), &arguments);
    assert!(refusal.contains("--state-dir"), "{refusal}");
}

#[test]
fn a_link_in_the_store_is_not_followed() {
    for name in ["lock", "oci-layout", "tmp"] {
        let root = tempfile::tempdir().unwrap();
        let victim = root.path().join("victim");
        std::fs::write(&victim, b"precious").unwrap();
        let store = root.path().join("store");
        drop(peerfs_store::Store::create(&store).unwrap());
        let place = store.join(name);
        if place.is_dir() {
            std::fs::remove_dir(&place).unwrap();
        } else {
            let _ = std::fs::remove_file(&place);
        }
        std::os::unix::fs::symlink(&victim, place).unwrap();
        let refusal = refusal(root.path(), &[]);
        assert!(refusal.contains("symbolic link"), "{name}: {refusal}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }
}

#[test]
fn a_store_on_a_read_only_mount_is_served() {
    // Needs a mount of its own, and so a user who may have one.
    const READ_ONLY: &str = "mount --bind $0 $0 && mount -o remount,bind,ro $0 && exec \"$@\"";
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            READ_ONLY,
        ]);
        command
    };
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    peerfs_store::Store::create(&store).unwrap();
    if !unshare()
        .arg(&store)
        .arg("true")
        .status()
        .unwrap()
        .success()
    {
        eprintln!("no user namespaces here");
        return;
    }
    let before = std::fs::read_dir(&store).unwrap().count();
    let mut command = unshare();
    command
        .arg(&store)
        .arg(env!("CARGO_BIN_EXE_peerfsd"))
        .arg("--config")
        .arg(configure(root.path(), ""));
    let (daemon, log) = Running::run(command, root);
    assert!(log.contains("is read only"), "{log}");
    ask(&daemon.socket(), &Request::Status, Duration::from_secs(10)).unwrap();
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), before);
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
        .arg("--state-dir")
        .arg(daemon.root.path().join("other-state"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("control_socket"));
    ask(&daemon.socket(), &Request::Status, Duration::from_secs(10)).unwrap();
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
