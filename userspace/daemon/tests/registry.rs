// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A daemon that gets an image from Debian's docker-registry: as it is told, lazily, and after it has started again.

#![forbid(unsafe_code)]

#[path = "../../cli/tests/command/docker_registry.rs"]
mod docker_registry;
mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use docker_registry::Registry;
use peerfs_control::{ask, Conversion, PullState, Reply, Request};
use peerfs_names::Name;
use support::process::{peerfs, succeed, Running};

impl Registry {
    /// Pushes an image with a file of this content, and returns its manifest and reference.
    fn push(&self, name: &str, content: &[u8]) -> (String, String) {
        let tree = self.folder.path().join(name);
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), content).unwrap();
        let store = self.folder.path().join(format!("{name}-store"));
        let reference = format!("{}/team/{name}:1", self.address);
        let mut build = Command::new(peerfs());
        build.args(["build", "--tag", &reference, "--root-dir"]);
        let manifest = succeed(build.arg(&store).arg(tree));
        let mut push = Command::new(peerfs());
        succeed(push.args(["push", &reference, "--root-dir"]).arg(&store));
        (manifest.trim_end().to_owned(), reference)
    }
}

fn content(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 56) as u8
    });
    bytes.take(1_000_000).collect()
}

fn cat(daemon: &Running, image: &str) -> String {
    let mut process = Command::new(peerfs());
    process.args(["ls", "-l", "--root-dir"]).arg(daemon.store());
    succeed(process.arg(image))
}

#[test]
fn an_image_of_a_registry_is_pulled_lazily_or_not() {
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let (manifest, reference) = registry.push("one", &content(1));
    let (second, second_reference) = registry.push("two", &content(2));
    let daemon = Running::start_over(tempfile::tempdir().unwrap(), "").0;
    let lazy = daemon.succeed("pull", &["--lazy", "--json", &reference]);
    let Ok(Reply::Done(status)) =
        serde_json::from_str(lazy.lines().next_back().unwrap_or_default())
    else {
        panic!("{lazy}");
    };
    assert_eq!(
        (status.image, status.state),
        (manifest.clone(), PullState::Mountable)
    );
    assert!(cat(&daemon, &reference).contains("1000000"));
    let fetched = |daemon: &Running| daemon.status().bytes_by_source.values().sum::<u64>();
    assert!(fetched(&daemon) < 100_000);
    // Who starts again, and is told nothing but a digest, knows where the rest is.
    let (daemon, _) = daemon.restart("");
    assert_eq!(daemon.succeed("pull", &[&manifest]).trim_end(), manifest);
    assert!(fetched(&daemon) > 1_000_000);
    let by_source = daemon.status().bytes_by_source;
    let origin = format!("{}/team/one", registry.address);
    assert!(by_source[&origin] > 1_000_000, "{by_source:?}");
    assert_eq!(
        daemon.succeed("pull", &[&second_reference]).trim_end(),
        second
    );
    assert!(cat(&daemon, &second_reference).contains("1000000"));
}

#[test]
fn a_repository_of_the_configuration_is_a_source() {
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let (manifest, _) = registry.push("one", &content(1));
    let source = format!("[[source]]\noci = \"{}/team/one\"\n", registry.address);
    let daemon = Running::start_over(tempfile::tempdir().unwrap(), &source).0;
    assert_eq!(daemon.succeed("pull", &[&manifest]).trim_end(), manifest);
}

/// An ordinary image, and its conversion beside it.
#[test]
fn a_conversion_is_taken_for_an_original_by_whoever_is_told_to() {
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let (manifest, _) = registry.push("one", &content(1));
    let folder = registry.folder.path();
    let layout = format!("{}:one", folder.join("layout").display());
    let reference = format!("{}/team/one:1", registry.address);
    let mut export = Command::new(peerfs());
    export.args(["export", "oci", &reference, &layout, "--root-dir"]);
    succeed(export.arg(folder.join("one-store")));
    let ordinary = format!("{}/team/ordinary:1", registry.address);
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", "--dest-tls-verify=false"]);
    succeed(copy.args([format!("oci:{layout}"), format!("docker://{ordinary}")]));
    let converted = succeed(Command::new(peerfs()).args(["convert", &ordinary]));
    let converted = converted.lines().next().unwrap();
    assert_eq!(converted, manifest);
    let mut inspect = Command::new("skopeo");
    inspect.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
    let digest = succeed(inspect.arg(format!("docker://{ordinary}")));
    let by_digest = format!("{}/team/ordinary@{}", registry.address, digest.trim_end());

    let daemon = Running::start_over(tempfile::tempdir().unwrap(), "").0;
    let conversion = |daemon: &Running, image: &str| {
        let said = daemon.succeed("pull", &["--json", image]);
        match serde_json::from_str(said.lines().next_back().unwrap_or_default()) {
            Ok(Reply::Done(status)) => (status.image, status.conversion),
            _ => panic!("{said}"),
        }
    };
    // A digest is not the registry's to explain: what is here is made here, once, and in the same way.
    for expected in [Conversion::Made, Conversion::Known] {
        let (image, made) = conversion(&daemon, &by_digest);
        assert_eq!((image.as_str(), made), (converted, Some(expected)));
    }
    // Programs that do not ask for it get none.
    let request = Request::Pull {
        image: by_digest.clone(),
        tag: None,
        timeout: None,
        lazy: true,
        used_as: None,
        convert: false,
        platform: None,
    };
    let refused = ask(&daemon.socket(), &request, Duration::from_secs(60)).unwrap();
    assert!(
        matches!(&refused, Reply::Error(problem) if problem.contains("an ordinary one")),
        "{refused:?}"
    );
    let daemon = Running::start_over(tempfile::tempdir().unwrap(), "").0;
    assert_eq!(
        daemon.succeed("pull", &["--lazy", &ordinary]).trim_end(),
        converted
    );
    assert!(cat(&daemon, &ordinary).contains("1000000"));
    let trusting = "[registry]\ntrust_conversions = true\n";
    let daemon = Running::start_over(tempfile::tempdir().unwrap(), trusting).0;
    assert_eq!(
        conversion(&daemon, &by_digest),
        (converted.to_owned(), None)
    );
}

#[test]
fn a_name_is_found_in_a_registry_and_what_else_is_there_is_passed_over() {
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let repository = format!("{}/team/names", registry.address);
    let publisher = Running::start_over(tempfile::tempdir().unwrap(), "").0;
    let tree = publisher.root.path().join("tree");
    let images = ["one", "two"].map(|content| {
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("file"), content).unwrap();
        let mut build = Command::new(peerfs());
        build.args(["build", "--tag", content, "--root-dir"]);
        succeed(build.arg(publisher.store()).arg(&tree))
    });
    let run = |arguments: &[&str]| {
        let mut process = Command::new(peerfs());
        process.env("PEERFS_KEYS", publisher.root.path().join("keys"));
        process.env("PEERFS_ROOT_DIR", publisher.store());
        succeed(process.args(arguments)).trim_end().to_owned()
    };
    run(&["key", "new"]);
    let socket = publisher.socket();
    let publish = |image: &str| {
        let asked = ["publish", "--socket", socket.to_str().unwrap()];
        run(&[&asked[..], &["--registry", &repository, "base", image]].concat())
    };
    let name = publish("one");
    // A second registry, which nobody answers for.
    let config = format!("[names]\nregistries = ['{repository}', '127.0.0.1:1/names']\n");
    let other = Running::start_over(tempfile::tempdir().unwrap(), &config).0;
    let image = |daemon: &Running| {
        let request = Request::Name {
            name: name.clone(),
            search: true,
        };
        match ask(&daemon.socket(), &request, Duration::from_secs(60)) {
            Ok(Reply::Name(status)) => status.image,
            other => panic!("{other:?}"),
        }
    };
    let trimmed = images.map(|image| Some(image.trim_end().to_owned()));
    assert_eq!(image(&other), trimmed[0]);
    publish("two");
    assert_eq!(image(&other), trimmed[1]);

    // Something else by that tag: an image, for whoever can write to the repository.
    let topic = name.parse::<Name>().unwrap().topic();
    let mut push = Command::new(peerfs());
    push.args(["push", "one", "--root-dir"])
        .arg(publisher.store());
    succeed(push.arg(format!("{repository}:peerfs-name-{topic}")));
    assert_eq!(image(&other), trimmed[1]);
    let (fresh, _) = Running::start_over(tempfile::tempdir().unwrap(), &config);
    assert_eq!(image(&fresh), None);
}
