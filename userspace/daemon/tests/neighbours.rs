// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What `peerfsd` says of its peers: of those that it does not have, and of itself.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A daemon whose log is read. It is killed in the end.
struct Running {
    child: Child,
    lines: Receiver<String>,
    root: TempDir,
}

impl Running {
    /// Starts a daemon with these settings of its node, and the key in its folder.
    fn start(root: TempDir, listen: &str, more: &str) -> Self {
        let file = root.path().join("peerfsd.toml");
        let text = format!(
            "root_dir = {:?}\nstate_dir = {:?}\ncontrol_socket = {:?}\ndevice = \"none\"\n[peer]\nmdns = false\n\
             listen = [\"{listen}\"]\nkey_file = {:?}\n{more}",
            root.path().join("store"),
            root.path().join("state"),
            root.path().join("control"),
            root.path().join("peer.key"),
        );
        std::fs::write(&file, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_peerfsd"))
            .arg("--config")
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                if line.map(|line| sender.send(line)).is_err() {
                    return;
                }
            }
        });
        Running { child, lines, root }
    }

    /// The lines that it logs in this time.
    fn lines_within(&self, time: Duration) -> Vec<String> {
        let end = Instant::now() + time;
        let mut lines = Vec::new();
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            lines.extend(self.lines.recv_timeout(left));
        }
        lines
    }

    /// Waits for a line with this in it.
    fn says(&self, text: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        let mut lines = Vec::new();
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return,
                Ok(line) => lines.push(line),
                Err(_) => break,
            }
        }
        panic!("{text:?} is not in {lines:#?}");
    }

    fn key(&self) -> std::path::PathBuf {
        self.root.path().join("peer.key")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already if it could not listen.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A port of the loopback interface at which nobody listens.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!(
        "/ip4/127.0.0.1/tcp/{}",
        listener.local_addr().unwrap().port()
    )
}

#[test]
fn a_start_without_peers_warns_of_nothing() {
    let daemon = Running::start(folder(), "/ip4/127.0.0.1/tcp/0", "");
    let lines = daemon.lines_within(Duration::from_secs(3));
    assert!(
        lines.iter().any(|line| line.contains("started")),
        "{lines:#?}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("WARN")),
        "{lines:#?}"
    );
}

#[test]
fn its_own_address_is_no_bootstrap_peer() {
    let address = free_address();
    let bootstrap = format!("bootstrap = [\"{address}\"]");
    let daemon = Running::start(folder(), &address, &bootstrap);
    daemon.says("own and is passed over");
    let lines = daemon.lines_within(Duration::from_secs(3));
    assert!(
        !lines.iter().any(|line| line.contains("WARN")),
        "{lines:#?}"
    );
}

#[test]
fn another_machine_with_the_same_key_is_told() {
    let (first, second) = (free_address(), free_address());
    let daemon = Running::start(folder(), &first, "");
    daemon.says("started");
    let root = folder();
    std::fs::copy(daemon.key(), root.path().join("peer.key")).unwrap();
    let bootstrap = format!("bootstrap = [\"{first}\"]");
    let copy = Running::start(root, &second, &bootstrap);
    copy.says("a node there has this node's key");
}

#[test]
fn it_says_why_it_cannot_listen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    let daemon = Running::start(folder(), &address, "");
    daemon.says("in use");
}
