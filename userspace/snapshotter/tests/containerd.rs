// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Debian's containerd, told by nothing but its `ctr`, over the snapshotter.

#![forbid(unsafe_code)]

#[path = "../../cli/tests/command/docker_registry.rs"]
mod docker_registry;
mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use peerfs_snapshotter::{
    Error, ImageConfig, Images, Kind, Labels, Overlay, Snapshots, Snapshotter,
};
use support::converter::Converter;
use support::{succeed, tree, until, Machine};

/// Whether this machine can run containers.
fn can_run() -> bool {
    let can = geteuid().is_root();
    if !can {
        eprintln!("only root may run containers");
    }
    can
}

#[test]
fn images_of_two_publishers_run_while_they_come() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(&["team/one", "team/two"]);
    let one = machine.publish("team/one", tree("one\n").path());
    let two = machine.publish("team/two", tree("two!\n").path());
    for (reference, motd) in [(&one, "one\n"), (&two, "two!\n")] {
        machine.pull(reference);
        assert_eq!(
            machine.run(reference, "c", &["/bin/busybox", "cat", "/etc/motd"]),
            motd
        );
    }
    // Lazily: the large files are not here, and are when they are read.
    let here = || -> u64 {
        let listed = machine.peerfs(&["images", "--json"]);
        let images: Vec<serde_json::Value> = listed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(images.len(), 2, "{listed}");
        images
            .iter()
            .map(|image| image["present_bytes"].as_u64().unwrap())
            .sum()
    };
    assert!(here() < 10_000_000, "{}", here());
    let sum = succeed(Command::new("sha256sum").arg(tree("one\n").path().join("etc/large")));
    let read = machine.run(&one, "c", &["/bin/busybox", "sha256sum", "/etc/large"]);
    assert_eq!(read.split(' ').next(), sum.split(' ').next());
    assert!(here() > 20_000_000);
    // What a container writes is its own.
    let write = "echo other >/etc/motd && rm /etc/large && cat /etc/motd";
    assert_eq!(machine.run(&one, "c", &["/bin/sh", "-c", write]), "other\n");
    assert_eq!(
        machine.run(&one, "c", &["/bin/busybox", "cat", "/etc/motd"]),
        "one\n"
    );
    // Nothing of an image is among the snapshots' own files, and both that there are have other contents.
    assert_eq!(machine.snapshots().len(), 2);
    let usage = machine.succeed(&["snapshots", "--snapshotter", "peerfs", "usage", "-b"]);
    let sizes: Vec<u64> = usage
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
        .collect();
    assert!(
        sizes.len() == 2 && sizes.iter().sum::<u64>() > 20_000_000,
        "{usage}"
    );
    // Let go, they leave nothing behind.
    machine.succeed(&["image", "rm", "--sync", &one, &two]);
    until("all snapshots are gone", || machine.snapshots().is_empty());
    assert_eq!(machine.mounts(), Vec::<String>::new());
    assert_eq!(
        fs::read_dir(machine.path("snapshots/snapshots"))
            .unwrap()
            .count(),
        0
    );
    let gone = machine.peerfs(&["images", "--json"]);
    assert_eq!(gone, "");
}

#[test]
fn containers_outlive_the_snapshotter_and_the_daemon() {
    if !can_run() {
        return;
    }
    let mut machine = Machine::start(&["team/one"]);
    let one = machine.publish("team/one", tree("one\n").path());
    machine.pull(&one);
    machine.succeed(&[
        "run",
        "--detach",
        "--snapshotter",
        "peerfs",
        &one,
        "stays",
        "/bin/busybox",
        "sleep",
        "1000",
    ]);
    let exec = |machine: &Machine, name: &str, command: &[&str]| {
        let mut arguments = vec!["task", "exec", "--exec-id", name, "stays", "/bin/busybox"];
        arguments.extend(command);
        machine.succeed(&arguments)
    };
    machine.snapshotter.signal(Signal::SIGKILL);
    assert_eq!(exec(&machine, "a", &["cat", "/etc/motd"]), "one\n");
    machine.peerfsd.signal(Signal::SIGKILL);
    assert_eq!(exec(&machine, "b", &["cat", "/etc/motd"]), "one\n");
    // What is missing is waited for until there is a daemon again.
    let sum = thread_of(&machine, &["sha256sum", "/etc/large"]);
    machine.restart_peerfsd();
    let sum = sum.wait_with_output().unwrap();
    assert!(sum.status.success(), "{sum:?}");
    machine.restart_snapshotter();
    assert_eq!(machine.snapshots().len(), 2);
    assert_eq!(exec(&machine, "c", &["cat", "/etc/motd"]), "one\n");
    assert_eq!(
        machine.run(&one, "other", &["/bin/busybox", "cat", "/etc/motd"]),
        "one\n"
    );
    // What serves a mount may be killed, too, as for want of memory: whoever comes later has a new one.
    let folder = machine.folder.path().to_str().unwrap();
    let serving = succeed(Command::new("pgrep").args(["-f", &format!("mount --fuse.*{folder}")]));
    for process in serving.split_whitespace() {
        succeed(Command::new("kill").args(["-KILL", process]));
    }
    assert_eq!(
        machine.run(&one, "other", &["/bin/busybox", "cat", "/etc/motd"]),
        "one\n"
    );
    // In order, too.
    machine.snapshotter.signal(Signal::SIGTERM);
    machine.restart_snapshotter();
    assert_eq!(
        machine.run(&one, "other", &["/bin/busybox", "cat", "/etc/motd"]),
        "one\n"
    );
    machine.succeed(&["task", "kill", "--signal", "SIGKILL", "stays"]);
    until("the task is gone", || {
        machine.ctr(&["task", "rm", "stays"]).status.success()
    });
    machine.succeed(&["container", "rm", "stays"]);
}

/// A command in the container, which goes on meanwhile.
fn thread_of(machine: &Machine, command: &[&str]) -> std::process::Child {
    let exec = [
        "task",
        "exec",
        "--exec-id",
        "reads",
        "stays",
        "/bin/busybox",
    ];
    let mut ctr = machine.ctr_command(&[&exec[..], command].concat());
    ctr.stdout(std::process::Stdio::piped()).spawn().unwrap()
}

/// Publishes an image of two layers that other tools have made; returns its reference.
fn ordinary(machine: &Machine) -> String {
    let layout = machine.path("layout");
    let image = format!("{}:plain", layout.display());
    let bundle = machine.path("bundle");
    let umoci = |arguments: &[&str]| succeed(Command::new("umoci").args(arguments));
    umoci(&["init", "--layout", layout.to_str().unwrap()]);
    umoci(&["new", "--image", &image]);
    umoci(&["unpack", "--image", &image, bundle.to_str().unwrap()]);
    let first = tree("plain\n");
    let root = bundle.join("rootfs");
    succeed(
        Command::new("cp")
            .arg("-a")
            .arg(first.path().join("."))
            .arg(&root),
    );
    // Looks like the sign of an image, and is none of a layer with other files.
    fs::create_dir(root.join(".peerfs")).unwrap();
    fs::write(root.join(".peerfs/manifest"), "no").unwrap();
    let repack = ["repack", "--refresh-bundle", "--image", &image];
    umoci(&[&repack[..], &[bundle.to_str().unwrap()]].concat());
    fs::remove_file(root.join("etc/large")).unwrap();
    fs::write(root.join("etc/motd"), "second\n").unwrap();
    umoci(&["repack", "--image", &image, bundle.to_str().unwrap()]);
    let reference = format!("{}/plain:1", machine.registry.address);
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--dest-tls-verify=false", &format!("oci:{image}")]);
    succeed(copy.arg(format!("docker://{reference}")));
    reference
}

#[test]
fn ordinary_images_run_beside_them() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(&["lazy"]);
    let reference = ordinary(&machine);
    machine.pull(&reference);
    let script = "cat /etc/motd /.peerfs/manifest; ls /etc";
    let said = machine.run(&reference, "c", &["/bin/sh", "-c", script]);
    assert_eq!(said, "second\nnomotd\n");
    assert_eq!(machine.snapshots().len(), 2);
    // Converted, it is the same, and no layer of it is here.
    let lazy = format!("{}/lazy:1", machine.registry.address);
    let mut convert = Command::new(support::program("peerfs"));
    succeed(convert.args(["convert", &reference, &lazy]));
    machine.pull(&lazy);
    assert_eq!(machine.run(&lazy, "c", &["/bin/sh", "-c", script]), said);
    assert_eq!(machine.snapshots().len(), 3);
    machine.succeed(&["image", "rm", "--sync", &reference, &lazy]);
    until("all snapshots are gone", || machine.snapshots().is_empty());
}

/// What Kubernetes does with images that nobody has made for peerfs: what their layers unpack to is there once somebody has published
/// that whom this machine trusts.
#[test]
fn ordinary_images_come_lazily_once_somebody_has_published_their_layers() {
    if !can_run() {
        return;
    }
    let mut machine = Machine::start(&[]);
    let reference = ordinary(&machine);
    let converter = Converter::start(&machine);
    let name = converter.publish(&reference);
    // What is there is not made again, and the list stays the same.
    let listed = converter.listed();
    assert_eq!(converter.publish(&reference), name);
    assert_eq!(converter.listed(), listed);
    assert_eq!(listed.len(), 2);

    machine.options = vec!["--layers".to_owned(), name];
    machine.snapshotter.signal(Signal::SIGTERM);
    machine.restart_snapshotter();
    machine.pull_as_kubelet(&reference);
    let mut snapshots = machine.snapshots_in(&Machine::KUBELET);
    snapshots.sort();
    let ids: Vec<String> = listed.iter().map(|id| format!("sha256:{id}")).collect();
    assert_eq!(snapshots, ids);
    let content = |machine: &Machine| {
        let kinds = machine.succeed(&[&Machine::KUBELET[..], &["content", "ls"]].concat());
        kinds
            .lines()
            .filter(|line| line.contains("distribution.source"))
            .count()
    };
    // The manifest and the configuration, and no layer.
    assert_eq!(content(&machine), 2);
    let script = "cat /etc/motd /.peerfs/manifest; ls /etc";
    let container = machine.folder.path().file_name().unwrap().to_str().unwrap();
    let container = container.trim_start_matches('.').to_owned();
    let run = |machine: &Machine, reference: &str| {
        let command = ["/bin/sh", "-c", script];
        machine.run_in(&Machine::KUBELET, reference, &container, &command)
    };
    assert_eq!(run(&machine, &reference), "second\nnomotd\n");

    // An image that nobody has published, over the same layers: what is new of it alone is fetched and unpacked.
    let next = machine.over("third\n");
    machine.pull_as_kubelet(&next);
    assert_eq!(machine.snapshots_in(&Machine::KUBELET).len(), 3);
    assert_eq!(content(&machine), 5);
    assert_eq!(run(&machine, &next), "third\nnomotd\n");
    machine.snapshotter.signal(Signal::SIGKILL);
    machine.restart_snapshotter();
    for (reference, said) in [(&reference, "second"), (&next, "third")] {
        assert_eq!(run(&machine, reference), format!("{said}\nnomotd\n"));
    }
    // For a kubelet an image has three names.
    let names = machine.succeed(&[&Machine::KUBELET[..], &["image", "ls", "-q"]].concat());
    let mut remove = vec!["image", "rm", "--sync"];
    remove.extend(names.lines());
    machine.succeed(&[&Machine::KUBELET[..], &remove].concat());
    until("all snapshots are gone", || {
        machine.snapshots_in(&Machine::KUBELET).is_empty()
    });
}

/// What Kubernetes does: the layer is named before it is fetched.
#[test]
fn a_layer_that_is_an_image_need_not_be_fetched() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(&[]);
    let one = machine.publish("team/one", tree("one\n").path());
    let two = machine.publish("team/two", tree("two!\n").path());
    let manifest = |reference: &str| machine.published(reference);
    let layer: &'static str = machine.published_layer("team/one").leak();
    let root = machine.path("own-snapshots");
    let images = Images::new(ImageConfig {
        root_dir: machine.path("store"),
        socket: machine.path("control"),
        program: support::program("peerfs"),
        mount_options: None,
        policy: None,
        timeout: Duration::from_secs(3),
        catalogues: Vec::new(),
    });
    let snapshots = Snapshots::open(&root).unwrap();
    let snapshotter = Snapshotter::new(snapshots, images, Overlay::of_this_machine());
    let labels = |target: &str, manifest: &str, reference: &str| -> Labels {
        [
            ("containerd.io/snapshot.ref", target),
            ("containerd.io/snapshot/peerfs.manifest", manifest),
            ("containerd.io/snapshot/cri.image-ref", reference),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let prepare = |key: &'static str, parent: Option<&'static str>, labels| {
            snapshotter.prepare(Kind::Active, key, parent, labels)
        };
        // The registry is known by the reference alone.
        let there = prepare("a", None, labels(layer, &manifest(&one), &one)).await;
        assert!(matches!(there, Err(Error::AlreadyExists(_))), "{there:?}");
        let wanted = format!(r#"labels."containerd.io/snapshot.ref"=={layer},parent=="""#);
        let found = snapshotter.list(&[wanted]).await.unwrap();
        assert_eq!(found.len(), 1);
        let mounts = prepare("container", Some(layer), Labels::new())
            .await
            .unwrap();
        let lower = mounts[0]
            .options
            .iter()
            .find_map(|option| option.strip_prefix("lowerdir="));
        let motd = fs::read_to_string(std::path::Path::new(lower.unwrap()).join("etc/motd"));
        assert_eq!(motd.unwrap(), "one\n");
        // A reference to another image does not make that one of it; nor is one that nobody has an error: the layer is unpacked then.
        let there = prepare("b", None, labels("other", &manifest(&two), &one)).await;
        assert!(there.is_ok(), "{there:?}");
        let there = prepare("c", None, labels("other", &"0a".repeat(32), &one)).await;
        assert!(there.is_ok(), "{there:?}");
        // Nor does an image become the layer of another one, which others may have, by saying so.
        let base = format!("sha256:{}", "0b".repeat(32));
        let there = prepare("d", None, labels(&base, &manifest(&two), &two)).await;
        assert!(there.is_ok(), "{there:?}");
        assert!(snapshotter.stat(&base).await.is_err());
        let tags = machine.peerfs(&["images"]);
        assert!(tags.contains(&format!("peerfs-snapshotter/{}", manifest(&one))));
        assert!(
            !tags.contains(&format!("peerfs-snapshotter/{}", manifest(&two))),
            "{tags}"
        );
        for key in ["container", layer, "b", "c", "d"] {
            snapshotter.remove(key).await.unwrap();
        }
        assert!(snapshotter.list(&[]).await.unwrap().is_empty());
    });
    assert_eq!(machine.mounts(), Vec::<String>::new());
}

#[test]
fn an_image_that_nobody_has_is_told() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(&[]);
    let reference = machine.publish("team/one", tree("one\n").path());
    // containerd has the sign, and nobody has told the daemon of a repository.
    machine.pull(&reference);
    let output = machine.ctr(&[
        "run",
        "--rm",
        "--snapshotter",
        "peerfs",
        &reference,
        "c",
        "/bin/sh",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("cannot be had"),
        "{said}"
    );
}
