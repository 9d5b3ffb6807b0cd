// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A machine with containerd whose images come by peerfsd, and a registry.

pub mod converter;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::docker_registry::Registry;

/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program of this build.
pub fn program(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_peerfs-snapshotter")).with_file_name(name);
    let hint = "build the whole workspace with the same profile";
    assert!(program.exists(), "no {}; {hint}", program.display());
    program
}

/// A process that is killed at the latest when the test ends.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Process(command.stdin(Stdio::null()).spawn().unwrap())
    }

    pub fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine.
pub struct Machine {
    pub folder: TempDir,
    pub registry: Registry,
    pub peerfsd: Process,
    pub snapshotter: Process,
    /// More options of the snapshotter, from its next start on.
    pub options: Vec<String>,
    _containerd: Process,
}

impl Machine {
    /// Starts everything. The daemon asks these repositories for what nobody says where it is.
    pub fn start(repositories: &[&str]) -> Self {
        let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let sources = repositories
            .iter()
            .map(|name| format!("[[source]]\noci = \"{}/{name}\"\n", registry.address));
        let sources: String = sources.collect();
        let config = format!(
            "root_dir = {:?}\nstate_dir = {:?}\ncontrol_socket = {:?}\ndevice = \"none\"\n[peer]\n\
             mdns = false\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n{sources}",
            path("store"),
            path("state"),
            path("control"),
        );
        fs::write(path("peerfsd.toml"), config).unwrap();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
             [proxy_plugins.peerfs]\ntype = \"snapshot\"\naddress = {:?}\n\
             [plugins.'io.containerd.grpc.v1.cri']\ndisable_tcp_service = true\n\
             [plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'peerfs'\n\
             disable_snapshot_annotations = false\n",
            path("containerd"),
            path("run"),
            path("containerd.sock"),
            path("snapshotter.sock"),
        );
        fs::write(path("containerd.toml"), config).unwrap();
        let peerfsd = start_peerfsd(folder.path());
        let snapshotter = start_snapshotter(folder.path(), &[]);
        let log = fs::File::create(path("containerd.log")).unwrap();
        let containerd = Process::start(
            Command::new("containerd")
                .arg("--config")
                .arg(path("containerd.toml"))
                .stderr(log),
        );
        let machine = Machine {
            folder,
            registry,
            peerfsd,
            snapshotter,
            options: Vec::new(),
            _containerd: containerd,
        };
        until("containerd answers", || {
            machine.ctr(&["version"]).status.success()
        });
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn restart_snapshotter(&mut self) {
        self.snapshotter = start_snapshotter(self.folder.path(), &self.options);
        // It connects again within some seconds; where systemd has the socket it need not.
        let list = ["snapshots", "--snapshotter", "peerfs", "ls"];
        // Only in a namespace that has snapshots is it asked.
        until("containerd has found it again", || {
            let of_kubelet = [&Self::KUBELET[..], &list].concat();
            self.ctr(&list).status.success() && self.ctr(&of_kubelet).status.success()
        });
    }

    pub fn restart_peerfsd(&mut self) {
        self.peerfsd = start_peerfsd(self.folder.path());
    }

    /// Makes an image in peerfs form of a tree, and pushes it; returns its reference.
    pub fn publish(&self, name: &str, tree: &Path) -> String {
        let reference = format!("{}/{name}:1", self.registry.address);
        let store = self.registry.folder.path().join("publisher");
        let mut build = Command::new(program("peerfs"));
        build.args(["build", "--tag", &reference, "--root-dir"]);
        succeed(build.arg(&store).arg(tree));
        let mut push = Command::new(program("peerfs"));
        succeed(push.args(["push", &reference, "--root-dir"]).arg(store));
        reference
    }

    /// Puts a layer with another message over the ordinary image `plain:1`; returns the new one's reference.
    pub fn over(&self, motd: &str) -> String {
        let image = format!("{}:plain", self.path("layout").display());
        let bundle = self.path("bundle");
        fs::write(bundle.join("rootfs/etc/motd"), motd).unwrap();
        let mut repack = Command::new("umoci");
        repack.args(["repack", "--image", &image]);
        succeed(repack.arg(&bundle));
        let reference = format!("{}/plain:2", self.registry.address);
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--dest-tls-verify=false", &format!("oci:{image}")]);
        succeed(copy.arg(format!("docker://{reference}")));
        reference
    }

    /// The manifest of an image that was published.
    pub fn published(&self, reference: &str) -> String {
        let store = self.registry.folder.path().join("publisher");
        let mut inspect = Command::new(program("peerfs"));
        inspect.args(["images", "--json", "--root-dir"]).arg(store);
        let listed = succeed(&mut inspect);
        let line = listed
            .lines()
            .find(|line| line.contains(reference))
            .unwrap();
        let image: serde_json::Value = serde_json::from_str(line).unwrap();
        image["manifest"].as_str().unwrap().to_owned()
    }

    /// What containerd calls the layer of an image that was published.
    pub fn published_layer(&self, name: &str) -> String {
        let config = succeed(Command::new("skopeo").args([
            "inspect",
            "--config",
            "--tls-verify=false",
            &format!("docker://{}/{name}:1", self.registry.address),
        ]));
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned()
    }

    /// Runs `ctr`.
    pub fn ctr(&self, arguments: &[&str]) -> Output {
        self.ctr_command(arguments).output().unwrap()
    }

    /// `ctr`, in a namespace of its own: runc knows containers of all containerds of a machine by it and their names.
    pub fn ctr_command(&self, arguments: &[&str]) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.path("containerd.sock"));
        let own = self.folder.path().file_name().unwrap().to_str().unwrap();
        let own = own.trim_start_matches('.');
        ctr.args([
            "--namespace",
            &format!("peerfs-{}-{own}", std::process::id()),
        ]);
        ctr.args(arguments);
        ctr
    }

    /// Runs `ctr`, which must succeed; returns what it prints.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.ctr(arguments);
        let log = || fs::read_to_string(self.path("containerd.log")).unwrap_or_default();
        assert!(
            output.status.success(),
            "ctr {arguments:?}: {output:?}\n{}",
            log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn pull(&self, reference: &str) {
        self.succeed(&[
            "image",
            "pull",
            "--plain-http",
            "--snapshotter",
            "peerfs",
            reference,
        ]);
    }

    /// Has containerd pull an image as a kubelet does, by `runtime.v1.ImageService/PullImage` of the Container Runtime Interface.
    /// `ctr` of containerd 1.6 fetches all layers whatever the snapshotter says.
    pub fn pull_as_kubelet(&self, reference: &str) {
        // A message of one field, the image, which has one field, its reference.
        let field =
            |content: &[u8]| [&[0x0a, u8::try_from(content.len()).unwrap()], content].concat();
        let message = field(&field(reference.as_bytes()));
        assert!(message.len() < 128);
        let request = [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat();
        let body = self.path("request");
        fs::write(&body, request).unwrap();
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--http2-prior-knowledge",
            "--output",
            "/dev/null",
        ]);
        curl.args([
            "--dump-header",
            "-",
            "--header",
            "content-type: application/grpc",
        ]);
        curl.args(["--header", "te: trailers", "--unix-socket"]);
        curl.arg(self.path("containerd.sock"));
        curl.arg("--data-binary")
            .arg(format!("@{}", body.display()));
        curl.arg("http://localhost/runtime.v1.ImageService/PullImage");
        // It tries again, too, while containerd has not found a snapshotter again that was started anew.
        until("a kubelet's pull has gone well", || {
            let said = succeed(&mut curl);
            assert!(
                said.contains("grpc-status: 0\r") || said.contains("snapshotter.sock"),
                "{said}"
            );
            said.contains("grpc-status: 0\r")
        });
    }

    /// The namespace of images that a kubelet has pulled.
    pub const KUBELET: [&str; 2] = ["--namespace", "k8s.io"];

    /// Runs a command in a container of an image, and returns what it prints: to a file, since `ctr` at times ends before it
    /// has read all.
    pub fn run(&self, reference: &str, container: &str, command: &[&str]) -> String {
        self.run_in(&[], reference, container, command)
    }

    /// The same in a namespace.
    pub fn run_in(
        &self,
        namespace: &[&str],
        reference: &str,
        container: &str,
        command: &[&str],
    ) -> String {
        let log = self.path("output");
        let _ = fs::remove_file(&log);
        let uri = format!("file://{}", log.display());
        let mut arguments = namespace.to_vec();
        arguments.extend(["run", "--rm", "--snapshotter", "peerfs", "--log-uri", &uri]);
        arguments.extend([reference, container]);
        arguments.extend(command);
        self.succeed(&arguments);
        fs::read_to_string(log).unwrap()
    }

    /// The names of the snapshots that there are.
    pub fn snapshots(&self) -> Vec<String> {
        self.snapshots_in(&[])
    }

    /// The same in a namespace.
    pub fn snapshots_in(&self, namespace: &[&str]) -> Vec<String> {
        let list = ["snapshots", "--snapshotter", "peerfs", "ls"];
        let listed = self.succeed(&[namespace, &list].concat());
        let names = listed
            .lines()
            .skip(1)
            .filter_map(|line| line.split(' ').next());
        names.map(str::to_owned).collect()
    }

    /// What `peerfs` says of the daemon's store.
    pub fn peerfs(&self, arguments: &[&str]) -> String {
        let mut peerfs = Command::new(program("peerfs"));
        succeed(
            peerfs
                .args(arguments)
                .arg("--root-dir")
                .arg(self.path("store")),
        )
    }

    /// Mounts of this machine's processes that are left on it.
    pub fn mounts(&self) -> Vec<String> {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let ours = mounts.lines().filter(|line| line.contains(&folder));
        ours.map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What a test that failed has left: containers, then what is mounted.
        for container in String::from_utf8_lossy(&self.ctr(&["task", "ls", "-q"]).stdout).lines() {
            let _ = self.ctr(&["task", "kill", "--signal", "SIGKILL", container]);
            let _ = self.ctr(&["task", "rm", "--force", container]);
        }
        for line in self.mounts().iter().rev() {
            if let Some(target) = line.split(' ').nth(1) {
                let _ = Command::new("umount").args(["-l", target]).status();
            }
        }
    }
}

fn start_peerfsd(folder: &Path) -> Process {
    let mut command = Command::new(program("peerfsd"));
    command.arg("--config").arg(folder.join("peerfsd.toml"));
    let process = Process::start(command.stderr(Stdio::null()));
    until("peerfsd answers", || {
        let mut status = Command::new(program("peerfs"));
        status
            .args(["status", "--socket"])
            .arg(folder.join("control"));
        status.output().unwrap().status.success()
    });
    process
}

fn start_snapshotter(folder: &Path, options: &[String]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerfs-snapshotter"));
    command
        .arg("--address")
        .arg(folder.join("snapshotter.sock"));
    command.arg("--root").arg(folder.join("snapshots"));
    command.arg("--root-dir").arg(folder.join("store"));
    command.arg("--socket").arg(folder.join("control"));
    command.args(options);
    let process = Process::start(&mut command);
    until("the snapshotter listens", || {
        UnixStream::connect(folder.join("snapshotter.sock")).is_ok()
    });
    process
}

/// Waits until something has come about.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a command that must succeed, and returns what it prints.
pub fn succeed(process: &mut Command) -> String {
    let output = process.output().unwrap();
    assert!(output.status.success(), "{process:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A tree that a container can run in, with a large file.
pub fn tree(motd: &str) -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    let path = |name: &str| tree.path().join(name);
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir(path(directory)).unwrap();
    }
    fs::copy("/bin/busybox", path("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", path("bin/sh")).unwrap();
    fs::write(path("etc/motd"), motd).unwrap();
    let mut state = motd.len() as u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 56) as u8
    });
    fs::write(
        path("etc/large"),
        noise.take(20_000_000).collect::<Vec<u8>>(),
    )
    .unwrap();
    tree
}
