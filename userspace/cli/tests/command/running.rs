// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Running the command line.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

/// `peerfs` with a store.
pub fn peerfs(root_dir: &Path, command: &str) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_peerfs"));
    // What builds note of trees is the user's of these tests.
    process
        .arg(command)
        .env("PEERFS_ROOT_DIR", root_dir)
        .env("XDG_CACHE_HOME", "/dev/null");
    process
}

/// Runs a command that must succeed, and returns its standard output.
pub fn succeed(process: &mut Command) -> Vec<u8> {
    let output = process.output().expect("the command can be started");
    assert!(
        output.status.success(),
        "{process:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Builds an image and returns the digest of its manifest.
pub fn build(tree: &Path, root_dir: &Path, tag: &str, options: &[&str]) -> String {
    let mut process = peerfs(root_dir, "build");
    process
        .arg(tree)
        .args([OsStr::new("--tag"), OsStr::new(tag)])
        .args(options);
    let digest = String::from_utf8(succeed(&mut process)).unwrap();
    digest.trim_end().to_owned()
}

/// Runs a command that must fail with status 1 and one line on stderr that begins with `peerfs: `;
/// returns its standard output and that line.
pub fn fail(process: &mut Command) -> (Vec<u8>, String) {
    let output = process.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{process:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("peerfs: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    (output.stdout, message)
}

/// A program of another package, which is built first if need be.
pub fn program_of(package: &str, name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_peerfs")).with_file_name(name);
    if !program.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "-p", package])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        // Into the folder that this test itself was built into.
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        succeed(&mut cargo);
    }
    program
}

/// A daemon, until it is dropped.
pub struct Daemon(Child);

impl Daemon {
    /// Starts one that has its files in a folder, on the loopback interface, with more in its configuration and in the part of
    /// that that is about peers. Its control socket is `socket` in the folder.
    pub fn start(folder: &Path, store: &Path, more: &str, peer: &str) -> Self {
        let address = "/ip4/127.0.0.1/tcp/0";
        let config = format!("{more}[peer]\nmdns = false\nlisten = [\"{address}\"]\n{peer}");
        fs::write(folder.join("config"), config).unwrap();
        let mut daemon = Command::new(program_of("peerfs-daemon", "peerfsd"));
        daemon.args(["--device", "none", "--root-dir"]).arg(store);
        daemon.arg("--config").arg(folder.join("config"));
        daemon.arg("--state-dir").arg(folder.join("state"));
        daemon.arg("--control-socket").arg(folder.join("socket"));
        let daemon = Daemon(daemon.stderr(Stdio::null()).spawn().unwrap());
        let begin = Instant::now();
        while !folder.join("socket").exists() && begin.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(10));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The helper of mount(8), with a store.
pub fn helper(root_dir: &Path) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_peerfs"));
    process.arg0("mount.peerfs");
    let escaped = root_dir.to_str().unwrap().replace(',', "\\,");
    process.arg("-o").arg(format!("root_dir={escaped}"));
    process
}

/// The output of a process, which must end within a time that is long for what it does.
pub fn output_soon(process: &mut Command) -> Output {
    const PATIENCE: Duration = Duration::from_secs(20);
    let child = process
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let (done, is_done) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let in_time = is_done.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout);
        if !in_time {
            kill_process(pid, Signal::KILL).unwrap();
        }
        in_time
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    assert!(watchdog.join().unwrap(), "{process:?} does not end");
    output
}

/// A shell with limits (`ulimit` with these options) that runs `peerfs`.
pub fn limited(program: &Path, limits: &str) -> Command {
    let mut shell = Command::new("bash");
    let script = format!("ulimit {limits} && exec \"$0\" \"$@\"");
    shell.arg("-c").arg(script).arg(program);
    shell
}

/// A copy of `peerfs` in a folder that is opened to everybody.
pub fn public_copy(folder: &Path) -> PathBuf {
    let program = folder.join("peerfs");
    fs::copy(env!("CARGO_BIN_EXE_peerfs"), &program).unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
    program
}

/// Begins in a mount namespace of its own, in which an ordinary user has further ids and may open `/dev/fuse`, and goes on as
/// that user. `$0` is what that runs, `$1` a folder of theirs.
pub const AS_USER: &str = "set -e
mkdir \"$1/devices\" \"$1/run\"
mount -t tmpfs -o mode=755 none \"$1/devices\"
mknod -m 666 \"$1/devices/fuse\" c 10 229
mount --bind \"$1/devices/fuse\" /dev/fuse
echo 65534:500000:65536 >\"$1/devices/ids\"
for file in subuid subgid; do
    mount --bind \"$1/devices/ids\" /etc/$file
done
chown -R 65534:65534 \"$1\"
cd \"$1\"
export HOME=\"$1\" XDG_RUNTIME_DIR=\"$1/run\" XDG_DATA_HOME=\"$1/run\" PEERFS_ROOT_DIR=\"$1/store\"
exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -e -c \"$0\" \"$@\"";

/// Has a process run by a user who is not root.
pub fn drop_privileges(process: &mut Command) -> &mut Command {
    const NOBODY: u32 = 65534;
    if rustix::process::geteuid().is_root() {
        process.uid(NOBODY).gid(NOBODY);
    }
    process
}
