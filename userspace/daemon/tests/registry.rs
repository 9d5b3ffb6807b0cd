// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A daemon that gets an image from Debian's docker-registry: as it is told, lazily, and after it has started again.

#![forbid(unsafe_code)]

#[path = "../../cli/tests/command/docker_registry.rs"]
mod docker_registry;
mod support;

use std::fs;
use std::process::Command;

use docker_registry::Registry;
use peerfs_control::{PullState, Reply};
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
    assert!(daemon
        .fail("pull", &[&by_digest])
        .contains("an ordinary one"));
    assert_eq!(
        daemon.succeed("pull", &["--lazy", &ordinary]).trim_end(),
        converted
    );
    assert!(cat(&daemon, &ordinary).contains("1000000"));
    let trusting = "[registry]\ntrust_conversions = true\n";
    let daemon = Running::start_over(tempfile::tempdir().unwrap(), trusting).0;
    assert_eq!(daemon.succeed("pull", &[&by_digest]).trim_end(), converted);
}
