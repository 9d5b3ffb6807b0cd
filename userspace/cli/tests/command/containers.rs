// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Containers, by runc.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::geteuid;
use tempfile::TempDir;

/// The program.
const PEERFS: &str = env!("CARGO_BIN_EXE_peerfs");

struct World {
    folder: TempDir,
}

impl World {
    /// A store with an image that has a user, a program and a configuration.
    fn new() -> Self {
        let world = World {
            folder: tempfile::tempdir().unwrap(),
        };
        let root = world.folder.path().join("tree");
        for directory in ["bin", "etc", "proc", "sys", "dev", "srv"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::set_permissions(root.join("srv"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:\nweb:x:33:34::/srv:\n",
        )
        .unwrap();
        fs::write(root.join("etc/motd"), "hello\n").unwrap();
        // As an image of a container, so that it has a configuration.
        let layout = world.folder.path().join("layout");
        let image = format!("{}:a", layout.display());
        let bundle = world.folder.path().join("bundle");
        let umoci = |arguments: &[&str]| {
            let status = Command::new("umoci").args(arguments).status().unwrap();
            assert!(status.success());
        };
        umoci(&["init", "--layout", layout.to_str().unwrap()]);
        umoci(&["new", "--image", &image]);
        umoci(&["unpack", "--image", &image, bundle.to_str().unwrap()]);
        let copied = Command::new("cp")
            .arg("-a")
            .arg(root.join("."))
            .arg(bundle.join("rootfs"))
            .status();
        assert!(copied.unwrap().success());
        umoci(&["repack", "--image", &image, bundle.to_str().unwrap()]);
        umoci(&[
            "config",
            "--image",
            &image,
            "--config.entrypoint",
            "/bin/sh",
            "--config.entrypoint",
            "-c",
            "--config.cmd",
            "echo $GREETING $(/bin/busybox id -u):$(/bin/busybox id -g) $PWD $HOME",
            "--config.env",
            "GREETING=hi",
            "--config.user",
            "web",
            "--config.workingdir",
            "/srv",
        ]);
        world.succeed("import", &[&format!("oci:{image}"), "--tag", "a"]);
        world
    }

    fn store(&self) -> String {
        self.folder
            .path()
            .join("store")
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn containers(&self) -> String {
        self.folder
            .path()
            .join("containers")
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn peerfs(&self, command: &str, arguments: &[&str]) -> Output {
        let mut process = Command::new(PEERFS);
        process.arg(command);
        if !matches!(command, "containers") {
            process.args(["--root-dir", &self.store()]);
        }
        if matches!(command, "run" | "commit" | "containers") {
            process.args(["--containers", &self.containers()]);
        }
        process.args(arguments).output().unwrap()
    }

    fn succeed(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.peerfs(command, arguments);
        assert!(
            output.status.success(),
            "{command} {arguments:?}: {output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.peerfs("run", arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    /// What is left mounted.
    fn mounts(&self) -> usize {
        let folder = self.folder.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().filter(|line| line.contains(folder)).count()
    }
}

fn can_run() -> bool {
    let can = geteuid().is_root() && Path::new("/usr/sbin/runc").exists();
    if !can {
        eprintln!("only root may run containers, by runc");
    }
    can
}

#[test]
fn a_container_runs_as_its_image_says_and_otherwise() {
    if !can_run() {
        return;
    }
    let world = World::new();
    assert_eq!(
        world.run(&["--rm", "a"]),
        (0, "hi 33:34 /srv /srv\n".to_owned(), String::new())
    );
    let otherwise = ["--rm", "-u", "0", "-w", "/", "-e", "GREETING=oh", "a"];
    assert_eq!(world.run(&otherwise).1, "oh 0:0 / /root\n");
    let (status, said, _) = world.run(&[
        "--rm",
        "--entrypoint",
        "/bin/busybox",
        "a",
        "cat",
        "/etc/motd",
    ]);
    assert_eq!((status, said.as_str()), (0, "hello\n"));
    // The status is the program's; one that can't be made has another one.
    assert_eq!(world.run(&["--rm", "a", "exit 7"]).0, 7);
    let (status, _, problem) = world.run(&["--rm", "-u", "nobody", "a"]);
    assert!(
        status == 125 && problem.contains("no user nobody"),
        "{problem}"
    );
    assert_eq!(
        world.run(&["--rm", "--socket", "/nowhere", "missing"]).0,
        125
    );
    // A volume, and what is read-only.
    let volume = format!("{}:/srv:ro", world.folder.path().join("tree/etc").display());
    let (status, said, _) = world.run(&[
        "--rm",
        "-v",
        &volume,
        "a",
        "/bin/busybox cat motd; echo x >new",
    ]);
    assert!(status != 0 && said == "hello\n");
    let (status, _, _) = world.run(&["--rm", "--read-only", "-u", "0", "a", "echo x >/etc/new"]);
    assert_ne!(status, 0);
    // Of the machine nothing can be written, whichever network it has.
    for network in ["host", "none"] {
        let (_, mounts, _) = world.run(&[
            "--rm",
            "--network",
            network,
            "-u",
            "0",
            "a",
            "/bin/busybox cat /proc/mounts",
        ]);
        let of_machine = |line: &&str| line.contains(" /sys") || line.contains(" /proc/");
        let lines: Vec<&str> = mounts.lines().filter(of_machine).collect();
        assert!(lines.iter().any(|line| line.contains(" /sys ")), "{mounts}");
        for line in lines {
            let options = line.split(' ').nth(3).unwrap();
            // What is masked shows the container's own /dev/null, or an empty directory.
            let is_masked = line.starts_with("tmpfs /proc/");
            let is_read_only = options.split(',').any(|option| option == "ro");
            assert!(is_read_only || is_masked, "{network}: {line}");
        }
    }
    // Its own processes, and no network but a loopback.
    let (_, said, _) = world.run(&[
        "--rm",
        "--network",
        "none",
        "a",
        "echo $$; /bin/busybox ls /sys/class/net",
    ]);
    assert_eq!(said, "1\nlo\n");
    assert_eq!(world.mounts(), 0);
    assert_eq!(world.succeed("containers", &[]), "");
}

#[test]
fn what_two_containers_wrote_becomes_two_images() {
    if !can_run() {
        return;
    }
    let world = World::new();
    for name in ["one", "two"] {
        let write = format!("echo {name} >/srv/{name}; /bin/busybox rm /etc/motd");
        let (status, _, problem) = world.run(&["--name", name, "-u", "0", "a", &write]);
        assert_eq!(status, 0, "{problem}");
    }
    let (status, _, problem) = world.run(&["--name", "one", "a"]);
    assert!(status == 125 && problem.contains("already"), "{problem}");
    let listed = world.succeed("containers", &[]);
    assert!(
        listed.contains("one  ended    a\n") && listed.contains("two  ended    a\n"),
        "{listed}"
    );
    // The image stays as long as a container does.
    world.succeed("untag", &["a"]);
    world.succeed("gc", &[]);
    world.succeed("commit", &["one", "--tag", "first"]);
    world.succeed("containers", &["rm", "one"]);
    world.succeed("commit", &["two", "--tag", "second"]);
    world.succeed("containers", &["rm", "two"]);
    // As they were left, with the configuration; and nothing of one in the other.
    assert_eq!(world.run(&["--rm", "first"]).1, "hi 33:34 /srv /srv\n");
    for (image, own, other) in [("first", "one", "two"), ("second", "two", "one")] {
        let script =
            format!("echo $(/bin/busybox ls /srv /etc); /bin/busybox cat /srv/{own}; echo /srv/*");
        let (_, said, _) = world.run(&["--rm", image, &script]);
        assert!(
            said.contains(own) && !said.contains(other) && !said.contains("motd"),
            "{said}"
        );
    }
    assert_eq!(world.mounts(), 0);
    let (status, _, problem) = world.run(&["--rm", "a"]);
    assert!(status == 125, "{problem}");
    let missing = world.peerfs("commit", &["one", "--tag", "x"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("there is no container one"));
}

#[test]
fn of_two_containers_with_one_name_each_keeps_its_image() {
    if !can_run() {
        return;
    }
    let world = World::new();
    let other = world.folder.path().join("other");
    let other = other.to_str().unwrap();
    for containers in [other, &world.containers()] {
        let mut run = Command::new(PEERFS);
        run.args(["run", "--root-dir", &world.store()]);
        run.args(["--containers", containers, "--name", "c", "a", "exit 0"]);
        assert!(run.status().unwrap().success());
    }
    let mut remove = Command::new(PEERFS);
    remove.args(["containers", "--containers", other, "rm", "c"]);
    assert!(remove.status().unwrap().success());
    world.succeed("untag", &["a"]);
    world.succeed("gc", &[]);
    world.succeed("commit", &["c", "--tag", "kept"]);
    assert_eq!(world.run(&["--rm", "kept"]).1, "hi 33:34 /srv /srv\n");
}

#[test]
fn a_running_container_is_left_alone_and_one_that_was_killed_is_cleaned_up() {
    if !can_run() {
        return;
    }
    let world = World::new();
    let mut process = Command::new(PEERFS);
    process.args([
        "run",
        "--root-dir",
        &world.store(),
        "--containers",
        &world.containers(),
    ]);
    let mut running = process
        .args(["--name", "r", "a", "/bin/busybox sleep 1000"])
        .spawn()
        .unwrap();
    let state = || {
        String::from_utf8(
            Command::new("runc")
                .args(["state", "peerfs-r"])
                .output()
                .unwrap()
                .stdout,
        )
        .unwrap()
    };
    while !state().contains("\"running\"") {
        assert!(running.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(world.succeed("containers", &[]).contains("r  running  a"));
    for attempt in [
        world.peerfs("containers", &["rm", "r"]),
        world.peerfs("commit", &["r", "--tag", "x"]),
    ] {
        let problem = String::from_utf8_lossy(&attempt.stderr).into_owned();
        assert!(
            !attempt.status.success() && problem.contains("in use"),
            "{problem}"
        );
    }
    running.kill().unwrap();
    running.wait().unwrap();
    // Its program runs on, over what it has written.
    assert!(world.succeed("containers", &[]).contains("r  running  a"));
    assert!(!world.peerfs("containers", &["rm", "r"]).status.success());
    assert!(!world
        .peerfs("commit", &["r", "--tag", "x"])
        .status
        .success());
    let killed = Command::new("runc")
        .args(["kill", "peerfs-r", "KILL"])
        .status();
    assert!(killed.unwrap().success());
    while state().contains("\"running\"") {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    world.succeed("containers", &["rm", "r"]);
    assert_eq!(state(), "");
    assert_eq!(world.mounts(), 0);
}

#[test]
fn a_container_that_cannot_be_made_is_told_from_a_program_that_fails() {
    if !can_run() {
        return;
    }
    let world = World::new();
    for wrong in [
        &["--name", "w", "--entrypoint", "/missing", "a"][..],
        &["--name", "w", "-v", "/missing:/srv", "a"],
        &["--name", "w", "--runtime", "/missing", "a"],
    ] {
        let (status, _, problem) = world.run(wrong);
        assert!(status == 125 && problem.contains("missing"), "{problem}");
    }
    assert_eq!(world.succeed("containers", &[]), "");
    assert_eq!(world.run(&["--name", "w", "a", "exit 1"]).0, 1);
    assert!(world.succeed("containers", &[]).contains("w  ended    a\n"));
}

#[test]
fn what_is_told_to_end_ends_and_keeps_what_it_wrote() {
    if !can_run() {
        return;
    }
    let world = World::new();
    let script = "trap 'echo told >/srv/file; exit 3' TERM; echo here >/srv/file; while :; do /bin/busybox sleep 0.1; done";
    let mut running = Command::new(PEERFS)
        .args(["run", "--root-dir", &world.store(), "--containers"])
        .args([&world.containers(), "--name", "r", "a", script])
        .spawn()
        .unwrap();
    let root = world.folder.path().join("containers/r/rootfs");
    let written = world.folder.path().join("containers/r/upper/srv/file");
    while !fs::read_to_string(&written).is_ok_and(|text| text == "here\n") {
        assert!(running.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // Somebody has unmounted it meanwhile: no reason to lose anything.
    let unmounted = Command::new("umount").arg("-l").arg(root).status();
    assert!(unmounted.unwrap().success());
    let process = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(3));
    assert_eq!(fs::read_to_string(written).unwrap(), "told\n");
    world.succeed("containers", &["rm", "r"]);
    assert_eq!(world.mounts(), 0);
}

#[test]
fn an_ordinary_user_has_containers_in_a_user_namespace() {
    if !can_run() {
        return;
    }
    if Command::new("newuidmap").output().is_err() {
        eprintln!("skipped: there is no newuidmap");
        return;
    }
    let world = World::new();
    let program = crate::running::public_copy(world.folder.path());
    let script = "unshare --user --map-root-user --map-auto true || exit 77
        peerfs=$1
        \"$peerfs\" run --rm a
        \"$peerfs\" run --rm --network none -u root a 'echo $(/bin/busybox id -u) >/made; cat /made; ls /sys | head -n 1'
        \"$peerfs\" run --name one -u root a 'rm /etc/motd; rm -r /srv; mkdir /srv; echo one >/srv/new'
        \"$peerfs\" run --name two -u root a 'exit 3' || test $? = 3
        \"$peerfs\" containers
        \"$peerfs\" commit one --tag changed
        \"$peerfs\" containers rm one two
        \"$peerfs\" containers
        \"$peerfs\" ls changed /etc
        \"$peerfs\" cat changed /srv/new
        ls \"$XDG_DATA_HOME/peerfs-containers\"";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", crate::running::AS_USER, script]);
    let output = shell
        .arg(world.folder.path())
        .arg(program)
        .output()
        .unwrap();
    if output.status.code() == Some(77) {
        eprintln!("skipped: users may have no namespaces");
        return;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = "hi 33:34 /srv /srv\n0\nblock\none  ended    a\ntwo  ended    a\n";
    let rest = said.strip_prefix(expected);
    let rest = rest.unwrap_or_else(|| panic!("{output:?}"));
    assert!(output.status.success(), "{output:?}");
    let (digest, rest) = rest.split_once('\n').unwrap();
    assert_eq!(
        (digest.len(), rest),
        (64, "hosts\npasswd\nresolv.conf\none\n"),
        "{output:?}"
    );
    assert_eq!(world.mounts(), 0);
}
