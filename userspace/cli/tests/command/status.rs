// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs status`, with a daemon that is none.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use crate::running::{peerfs, succeed};
use peerfs_control::{ImageStatus, PeerStatus, PinOrigin, PinStatus, Reply, Status};
use serde_json::Value;

/// Answers one request with `reply` while `peerfs status` runs with these options.
fn ask(socket: &Path, reply: &Reply, options: &[&str]) -> std::process::Output {
    let listener = UnixListener::bind(socket).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            assert_eq!(request, "{\"command\":\"status\"}\n");
            let reply = serde_json::to_string(reply).unwrap();
            writeln!(stream, "{reply}").unwrap();
        });
        let mut process = peerfs(Path::new("/nonexistent"), "status");
        process.arg("--socket").arg(socket).args(options);
        process.output().unwrap()
    })
}

fn status() -> Reply {
    Reply::Status(Status {
        version: "0.1.0".into(),
        node_id: "12D3KooW".into(),
        private_swarm: Some("45fc986b".into()),
        member_of: None,
        peers: vec![PeerStatus {
            id: "12D3Peer".into(),
            address: "/ip4/10.0.0.1/udp/4001/quic-v1".into(),
            rtt_ms: Some(0.25),
            bytes_received: 5 * 1024 * 1024,
            ..PeerStatus::default()
        }],
        images: vec![
            ImageStatus {
                manifest: "ab".repeat(32),
                tags: vec!["debian".into()],
                total_bytes: 3 << 20,
                present_bytes: 1 << 20,
            },
            ImageStatus {
                manifest: "cd".repeat(32),
                ..ImageStatus::default()
            },
        ],
        pins: vec![PinStatus {
            image: "ef".repeat(32),
            origin: PinOrigin::Command,
            state: "waiting".into(),
        }],
        bytes_by_source: [("peers".to_owned(), 1 << 20)].into(),
        ..Status::default()
    })
}

#[test]
fn a_daemon_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let output = ask(&folder.path().join("one"), &status(), &[]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "12D3KooW",
        "in the private swarm with the key 45fc986b",
        "12D3Peer at",
        "5.00 MiB received",
        "debian: 1.00 MiB of 3.00 MiB here",
        "cdcd: 0 B of 0 B here",
        "efef: waiting",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let output = ask(&folder.path().join("two"), &status(), &["--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["images"][0]["tags"][0], "debian");
}

#[test]
fn a_daemon_that_refuses_or_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = Reply::Error("not today".into());
    let output = ask(&folder.path().join("one"), &refusal, &[]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message, "peerfs: peerfsd says: not today\n");
    let nobody = folder.path().join("nobody");
    let mut process = peerfs(folder.path(), "status");
    let output = process.arg("--socket").arg(nobody).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("is it running"), "{message}");
    assert!(message.contains("`systemctl start peerfsd`"), "{message}");
}

#[test]
fn the_documentation_is_made() {
    let folder = tempfile::tempdir().unwrap();
    succeed(peerfs(folder.path(), "man").arg(folder.path()));
    for page in [
        "peerfs.1",
        "peerfs-build.1",
        "peerfs-mount.1",
        "peerfs-pull.1",
    ] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
    let script = succeed(peerfs(folder.path(), "completions").arg("bash"));
    assert!(String::from_utf8(script).unwrap().contains("verify"));
}
