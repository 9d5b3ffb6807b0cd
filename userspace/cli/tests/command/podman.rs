// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Debian's podman, with an image that peerfsd brings.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::geteuid;

use crate::docker_registry::Registry;

const PEERFS: &str = env!("CARGO_BIN_EXE_peerfs");

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(process: &mut Command) -> String {
    let output = process.output().unwrap();
    assert!(output.status.success(), "{process:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a container needs to run a shell, in a folder of its own.
fn container_tree(folder: &Path) -> PathBuf {
    let tree = folder.join("tree");
    for directory in ["bin", "etc", "proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    symlink("busybox", tree.join("bin/sh")).unwrap();
    fs::write(tree.join("etc/motd"), "hello\n").unwrap();
    tree
}

#[test]
fn what_podman_says_does_nothing_to_a_terminal() {
    if !geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let podman = folder.path().join("podman");
    let script = "#!/bin/sh\nprintf 'no \\033]0;x\\007\\npeerfs: all is well\\n' >&2\nexit 125\n";
    fs::write(&podman, script).unwrap();
    fs::set_permissions(&podman, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new(PEERFS)
        .args(["podman", "--image-store"])
        .arg(folder.path().join("images"))
        .args(["add", "registry.example/x:1"])
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains(r"podman says: no \u{1b}]0;x\u{7} peerfs: all"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn podman_runs_an_image_that_comes_when_it_is_read() {
    let peerfsd = Path::new(PEERFS).with_file_name("peerfsd");
    if !geteuid().is_root() || !peerfsd.exists() {
        eprintln!("skipped: not root, or no peerfsd beside peerfs");
        return;
    }
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let folder = registry.folder.path().to_owned();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let tree = container_tree(&folder);
    let reference = format!("{}/team/a:1", registry.address);
    let peerfs = |arguments: &[&str]| text(Command::new(PEERFS).args(arguments));
    // It looks as if it stood for another image.
    let other = path("other");
    let manifest = peerfs(&[
        "build",
        tree.to_str().unwrap(),
        "--tag",
        "x",
        "--root-dir",
        &other,
    ]);
    fs::create_dir(tree.join(".peerfs")).unwrap();
    fs::copy(
        folder.join("other/blobs/sha256").join(manifest.trim()),
        tree.join(".peerfs/manifest"),
    )
    .unwrap();
    peerfs(&[
        "build",
        tree.to_str().unwrap(),
        "--tag",
        &reference,
        "--root-dir",
        &path("publisher"),
    ]);
    peerfs(&["push", &reference, "--root-dir", &path("publisher")]);
    let config = format!(
        "root_dir = {:?}\nstate_dir = {:?}\ncontrol_socket = {:?}\ndevice = \"none\"\n[peer]\nmdns = false\n\
         listen = [\"/ip4/127.0.0.1/tcp/0\"]\n",
        path("store"),
        path("state"),
        path("control"),
    );
    fs::write(folder.join("peerfsd.toml"), config).unwrap();
    let daemon = Command::new(peerfsd)
        .args(["--config", &path("peerfsd.toml")])
        .stderr(Stdio::null())
        .spawn();
    let _daemon = Daemon(daemon.unwrap());
    while !folder.join("control").exists() {
        thread::sleep(Duration::from_millis(50));
    }
    let (store, socket, images) = (path("store"), path("control"), path("images"));
    let podman_of_peerfs = |arguments: &[&str]| {
        let mut process = Command::new(PEERFS);
        process.args([
            "podman",
            "--root-dir",
            &store,
            "--socket",
            &socket,
            "--image-store",
            &images,
        ]);
        process.args(arguments);
        process
    };
    let id = text(&mut podman_of_peerfs(&["add", "--plain-http", &reference]));
    assert_eq!(id.trim().len(), 64);
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\nrunroot = {:?}\ngraphroot = {:?}\n[storage.options]\nadditionalimagestores = [{images:?}]\n",
        path("runroot"),
        path("graphroot"),
    );
    fs::write(folder.join("storage.conf"), storage).unwrap();
    let podman = |arguments: &[&str]| {
        let mut process = Command::new("podman");
        process.env("CONTAINERS_STORAGE_CONF", path("storage.conf"));
        process.args([
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
            "--runtime",
            "runc",
        ]);
        text(process.args(arguments))
    };
    let run = |script: &str| {
        let limits = [
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
            "--network",
            "none",
        ];
        podman(
            &[
                &["run", "--rm"],
                &limits[..],
                &[&reference, "/bin/sh", "-c", script],
            ]
            .concat(),
        )
    };
    assert_eq!(
        run("cat /etc/motd; echo mine >/etc/motd; cat /etc/motd"),
        "hello\nmine\n"
    );
    assert_eq!(run("cat /etc/motd"), "hello\n");
    // As after a start of the machine.
    let mount = || {
        fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .lines()
            .find(|line| line.contains(&format!("{images}/overlay/")))
            .map(|line| line.split(' ').nth(1).unwrap().to_owned())
    };
    text(Command::new("umount").arg(mount().unwrap()));
    assert_eq!(mount(), None);
    text(&mut podman_of_peerfs(&["mount"]));
    assert_eq!(run("cat /etc/motd"), "hello\n");
    // So when what serves it was killed, which it need not have noticed.
    let serving = text(Command::new("pgrep").args(["-f", &format!("mount --fuse.*{images}/")]));
    text(Command::new("kill").args(["-KILL", serving.trim()]));
    // All of its threads, which may answer until then.
    let process = Path::new("/proc").join(serving.trim());
    let is_gone = || {
        let state = fs::read_to_string(process.join("stat"));
        let tasks = fs::read_dir(process.join("task")).map_or(0, Iterator::count);
        tasks <= 1 && state.map_or(true, |state| state.contains(") Z "))
    };
    while !is_gone() {
        thread::sleep(Duration::from_millis(5));
    }
    text(&mut podman_of_peerfs(&["mount"]));
    assert_eq!(run("cat /etc/motd"), "hello\n");
    // What the image has of its own is not taken for what stands for it; of two at a time one waits.
    let two: Vec<Child> = (0..2)
        .map(|_| podman_of_peerfs(&["mount"]).spawn().unwrap())
        .collect();
    for mut one in two {
        assert!(one.wait().unwrap().success());
    }
    let length = fs::metadata(tree.join(".peerfs/manifest")).unwrap().len();
    assert_eq!(
        run("busybox wc -c </.peerfs/manifest"),
        format!("{length}\n")
    );
    // What podman does not remove goes on being what it was.
    let second = reference.replace("/a:1", "/b:1");
    text(Command::new("podman").args(["--root", &images]).args([
        "--runroot",
        "/run/peerfs-podman",
        "--storage-driver",
        "overlay",
        "--storage-opt",
        "",
        "tag",
        id.trim(),
        &second,
    ]));
    let refused = podman_of_peerfs(&["rm", id.trim()]).output().unwrap();
    assert!(!refused.status.success());
    assert_eq!(run("cat /etc/motd"), "hello\n");
    text(&mut podman_of_peerfs(&["rm", &second]));
    assert_eq!(run("cat /etc/motd"), "hello\n");
    // An ordinary image is told from it, and leaves nothing behind.
    let layout = path("layout:a");
    peerfs(&[
        "export",
        "oci",
        &reference,
        &layout,
        "--root-dir",
        &path("publisher"),
    ]);
    let plain = format!("docker://{}/team/plain:1", registry.address);
    text(Command::new("skopeo").args([
        "copy",
        "--dest-tls-verify=false",
        &format!("oci:{layout}"),
        &plain,
    ]));
    let plain = podman_of_peerfs(&["add", "--plain-http", &plain["docker://".len()..]])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&plain.stderr).into_owned();
    assert!(
        !plain.status.success() && said.contains("is an ordinary image"),
        "{said}"
    );
    text(&mut podman_of_peerfs(&["rm", &reference]));
    assert_eq!(mount(), None);
    assert!(!podman(&["images"]).contains("team/"));
    assert!(!peerfs(&["images", "--root-dir", &store]).contains("peerfs-podman"));
}

/// A user's own store, daemon and podman, in a user namespace that podman makes.
#[test]
fn an_ordinary_users_podman_runs_one_too() {
    let peerfsd = Path::new(PEERFS).with_file_name("peerfsd");
    let has_ids = Command::new("newuidmap").output().is_ok();
    if !geteuid().is_root() || !peerfsd.exists() || !has_ids {
        eprintln!("skipped: not root, no peerfsd beside peerfs, or no newuidmap");
        return;
    }
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let folder = registry.folder.path().to_owned();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let tree = container_tree(&folder);
    let reference = format!("{}/team/a:1", registry.address);
    let publisher = path("publisher");
    let peerfs = |arguments: &[&str]| {
        let mut process = Command::new(PEERFS);
        text(process.args(arguments).args(["--root-dir", &publisher]))
    };
    peerfs(&["build", tree.to_str().unwrap(), "--tag", &reference]);
    peerfs(&["push", &reference]);
    let program = crate::running::public_copy(&folder);
    fs::copy(peerfsd, path("peerfsd")).unwrap();
    let config = format!(
        "root_dir = {:?}\nstate_dir = {:?}\ncontrol_socket = {:?}\ndevice = \"none\"\n[peer]\nmdns = false\n\
         listen = [\"/ip4/127.0.0.1/tcp/0\"]\n",
        path("run/store"),
        path("run/state"),
        path("run/control"),
    );
    fs::write(folder.join("peerfsd.toml"), config).unwrap();
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\n[storage.options]\nadditionalimagestores = [{:?}]\n",
        path("run/peerfs-podman"),
    );
    fs::create_dir_all(folder.join(".config/containers")).unwrap();
    fs::write(folder.join(".config/containers/storage.conf"), storage).unwrap();
    let script = "unshare --user --map-root-user --map-auto true || exit 77
        \"$0/peerfsd\" --config \"$0/peerfsd.toml\" 2>/dev/null &
        until [ -S \"$0/run/control\" ]; do sleep 0.1; done
        mkdir \"$0/run/peerfs-podman\"
        of_peerfs() { \"$1\" podman --root-dir run/store --socket run/control -o fuse \"$2\" $4 \"$3\"; }
        of_peerfs \"$1\" add \"$2\" --plain-http
        for script in 'cat /etc/motd; echo mine >/etc/motd; cat /etc/motd' 'cat /etc/motd'; do
            podman --cgroup-manager cgroupfs --events-backend file --runtime runc run --rm --network none \\
                --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 \"$2\" /bin/sh -c \"$script\"
        done
        of_peerfs \"$1\" rm \"$2\"
        podman images --quiet";
    let mut shell = Command::new("unshare");
    // Whatever stays behind ends with it.
    shell.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    shell.args(["sh", "-c", crate::running::AS_USER, script]);
    shell.arg(&folder).arg(program).arg(&reference);
    let output = shell.output().unwrap();
    if output.status.code() == Some(77) {
        eprintln!("skipped: users may have no namespaces");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let (id, rest) = said.split_once('\n').unwrap();
    assert_eq!((id.len(), rest), (64, "hello\nmine\nhello\n"));
}
