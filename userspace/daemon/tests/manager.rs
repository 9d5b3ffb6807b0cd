// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfsd` as a service manager runs it.

#![forbid(unsafe_code)]

mod support;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use peerfs_control::{ask, Reply, Request, Status};
use support::process::{configure, peerfsd, Running};
use tempfile::TempDir;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

/// What a service manager hears.
struct Ear(UnixDatagram);

impl Ear {
    fn open(root: &Path) -> Self {
        let socket = UnixDatagram::bind(root.join("notify")).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Ear(socket)
    }

    /// The next message with this line, and whether the watchdog was told of before it.
    #[track_caller]
    fn hear(&self, line: &str) -> (String, bool) {
        let (mut buffer, mut is_alive) = ([0; 4096], false);
        loop {
            let length = self.0.recv(&mut buffer).expect(line);
            let message = std::str::from_utf8(&buffer[..length]).unwrap();
            is_alive |= message.contains("WATCHDOG=1");
            if message.lines().any(|found| found == line) {
                return (message.to_owned(), is_alive);
            }
        }
    }
}

fn hang_up(daemon: &Running) {
    kill(Pid::from_raw(daemon.child.id() as i32), Signal::SIGHUP).unwrap();
}

#[test]
fn it_says_when_it_is_ready_and_alive_and_what_a_reload_has_changed() {
    let root = tempfile::tempdir().unwrap();
    let ear = Ear::open(root.path());
    let mut command = peerfsd();
    command.arg("--config").arg(configure(root.path(), ""));
    command.env("NOTIFY_SOCKET", root.path().join("notify"));
    command.env("WATCHDOG_USEC", "300000");
    let (mut daemon, _) = Running::run(command, root);
    ear.hear("READY=1");
    ear.hear("WATCHDOG=1");
    ear.hear("WATCHDOG=1");

    // `configure` leaves off in the table of the peers.
    let pin = "a".repeat(64);
    let more = format!("connections_max = 7\n[log]\nlevel = 'debug'\n[[pin]]\nimage = '{pin}'");
    configure(daemon.root.path(), &more);
    hang_up(&daemon);
    let (message, _) = ear.hear("RELOADING=1");
    assert!(message.contains("MONOTONIC_USEC="), "{message}");
    let (message, _) = ear.hear("READY=1");
    assert!(message.contains("peer.connections_max"), "{message}");
    let pins = |daemon: &Running| daemon.status().pins.len();
    assert_eq!(pins(&daemon), 1);

    // One that is wrong changes nothing, and the daemon goes on.
    configure(daemon.root.path(), "nonsense = 1");
    hang_up(&daemon);
    let (message, _) = ear.hear("READY=1");
    assert!(message.contains("refused"), "{message}");
    assert_eq!(pins(&daemon), 1);
    configure(daemon.root.path(), "");
    hang_up(&daemon);
    let (message, _) = ear.hear("READY=1");
    assert!(!message.contains("restart"), "{message}");
    assert_eq!(pins(&daemon), 0);
    let (status, _) = daemon.stop(Signal::SIGTERM);
    assert_eq!(status, Some(0));
    ear.hear("STOPPING=1");
}

/// A daemon that has this socket passed to it.
fn start_with(socket: OwnedFd, root: TempDir) -> Running {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"",
    ]);
    command.arg(env!("CARGO_BIN_EXE_peerfsd"));
    command.arg("--config").arg(configure(root.path(), ""));
    command
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "control");
    command.stdin(Stdio::from(socket));
    Running::run(command, root).0
}

fn status(socket: &Path) -> Status {
    match ask(socket, &Request::Status, LONG) {
        Ok(Reply::Status(status)) => status,
        other => panic!("no status but {other:?}"),
    }
}

#[test]
fn clients_of_a_passed_socket_wait_for_the_next_daemon() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("control");
    let socket = UnixListener::bind(&path).unwrap();
    let passed = || OwnedFd::from(socket.try_clone().unwrap());
    let mut daemon = start_with(passed(), root);
    let before = status(&path);
    daemon.stop(Signal::SIGTERM);
    // Nobody is there to answer, and yet it is asked.
    let asking = std::thread::spawn({
        let path = path.clone();
        move || status(&path)
    });
    UnixStream::connect(&path).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let root = std::mem::replace(&mut daemon.root, elsewhere);
    let mut daemon = start_with(passed(), root);
    assert_eq!(asking.join().unwrap().node_id, before.node_id);
    daemon.stop(Signal::SIGKILL);
    assert!(path.exists());
}

#[test]
fn what_is_passed_must_be_a_socket_that_listens() {
    let root = tempfile::tempdir().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<&0; LISTEN_PID=$$ exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_peerfsd"));
    command.arg("--config").arg(configure(root.path(), ""));
    command.env("LISTEN_FDS", "1").stdin(Stdio::from(file));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("peerfsd.socket"), "{said}");
}

#[test]
fn the_key_may_be_a_credential() {
    // The key of a daemon that has run before.
    let mut first = Running::start(&[]);
    let node = first.status().node_id;
    first.stop(Signal::SIGTERM);
    let credentials = tempfile::tempdir().unwrap();
    let key = first.root.path().join("state/peer.key");
    std::fs::copy(key, credentials.path().join("peer.key")).unwrap();

    let root = tempfile::tempdir().unwrap();
    let mut command = peerfsd();
    command.arg("--config").arg(configure(root.path(), ""));
    command.env("CREDENTIALS_DIRECTORY", credentials.path());
    let (daemon, _) = Running::run(command, root);
    assert_eq!(daemon.status().node_id, node);
    assert!(!daemon.root.path().join("state/peer.key").exists());

    // A directory with other credentials is no reason for anything.
    let root = tempfile::tempdir().unwrap();
    let mut command = peerfsd();
    command.arg("--config").arg(configure(root.path(), ""));
    command.env("CREDENTIALS_DIRECTORY", root.path());
    let (daemon, _) = Running::run(command, root);
    assert_ne!(daemon.status().node_id, node);
}
