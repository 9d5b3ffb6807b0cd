// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfsd` and `peerfs` as processes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use peerfs_control::{ask, Reply, Request, Status};
use tempfile::TempDir;

pub fn peerfsd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_peerfsd"))
}

/// `peerfs`, which is built beside the daemon.
pub fn peerfs() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_peerfsd")).with_file_name("peerfs");
    let hint = "build it with the same profile: cargo build --package peerfs-cli";
    assert!(program.exists(), "no {}; {hint}", program.display());
    program
}

/// The configuration of a daemon that leaves the rest of the machine alone.
pub fn configure(root: &Path, more: &str) -> PathBuf {
    let file = root.join("peerfsd.toml");
    let text = format!(
        "root_dir = {:?}\nstate_dir = {:?}\ncontrol_socket = {:?}\ndevice = \"none\"\n[peer]\n\
         mdns = false\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n{more}",
        root.join("store"),
        root.join("state"),
        root.join("control"),
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// A daemon that is killed if the test fails.
pub struct Running {
    pub child: Child,
    pub root: TempDir,
}

impl Running {
    /// Starts a daemon and waits until it says so.
    pub fn start(arguments: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut command = peerfsd();
        command
            .arg("--config")
            .arg(configure(root.path(), ""))
            .args(arguments);
        Self::run(command, root).0
    }

    /// Starts one over this directory, with more of a configuration.
    pub fn start_over(root: TempDir, more: &str) -> (Self, String) {
        let mut command = peerfsd();
        command.arg("--config").arg(configure(root.path(), more));
        Self::run(command, root)
    }

    /// Starts one over this directory and waits until it says so; returns what it has logged until then.
    pub fn run(mut command: Command, root: TempDir) -> (Self, String) {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let mut lines = BufReader::new(stderr).lines().map(Result::unwrap);
        let mut log = String::new();
        let started = lines.by_ref().any(|line| {
            log += &line;
            line.contains("started")
        });
        assert!(started, "peerfsd ended early: {log}");
        // Somebody has to read what it logs from now on.
        std::thread::spawn(move || lines.for_each(drop));
        (Running { child, root }, log)
    }

    pub fn socket(&self) -> PathBuf {
        self.root.path().join("control")
    }

    pub fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        match ask(&self.socket(), &Request::Status, Duration::from_secs(60)) {
            Ok(Reply::Status(status)) => status,
            other => panic!("no status but {other:?}"),
        }
    }

    /// A command of `peerfs` that asks this daemon; SIGINT ends it, also where the tests were started in the background.
    pub fn client(&self, command: &str, arguments: &[&str]) -> Command {
        let mut process = Command::new("env");
        process.arg("--default-signal").arg(peerfs());
        process.arg(command).arg("--socket").arg(self.socket());
        process.args(arguments);
        process
    }

    /// What such a command prints that must succeed.
    pub fn succeed(&self, command: &str, arguments: &[&str]) -> String {
        succeed(&mut self.client(command, arguments))
    }

    /// The message of such a command that must fail.
    pub fn fail(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.client(command, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        text(&output.stderr).to_owned()
    }

    /// Signals it; returns its exit status and how long it took to end.
    pub fn stop(&mut self, signal: Signal) -> (Option<i32>, Duration) {
        let before = Instant::now();
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        let status = self.child.wait().unwrap();
        (status.code(), before.elapsed())
    }

    /// Ends it, and starts another one over the same directory, with more of a configuration.
    pub fn restart(mut self, more: &str) -> (Self, String) {
        self.stop(Signal::SIGTERM);
        self.restart_after_death(more)
    }

    /// Starts another one over the directory of one that has ended.
    pub fn restart_after_death(mut self, more: &str) -> (Self, String) {
        let elsewhere = tempfile::tempdir().unwrap();
        let root = std::mem::replace(&mut self.root, elsewhere);
        Self::start_over(root, more)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that must succeed, and returns what it prints.
pub fn succeed(process: &mut Command) -> String {
    let output: Output = process.output().unwrap();
    assert!(output.status.success(), "{process:?}: {output:?}");
    text(&output.stdout).to_owned()
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
