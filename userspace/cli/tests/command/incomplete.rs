// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What other tools need of a store, and what they leave out of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::Fixture;
use crate::running::{build, fail, peerfs, succeed};
use peerfs_store::Store;
use serde_json::Value;

/// The blobs of an image's OCI form: without the first two its tag leads nowhere.
struct OciBlobs {
    index: String,
    artifact: String,
    others: [String; 4],
}

fn oci_blobs(fixture: &Fixture) -> OciBlobs {
    let read = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(fixture.store().join(path)).unwrap()).unwrap()
    };
    let name = |entry: &Value| entry["digest"].as_str().unwrap().replace("sha256:", "");
    let blob = |name: &str| read(&format!("blobs/sha256/{name}"));
    let index = name(&read("index.json")["manifests"][0]);
    let children = blob(&index)["manifests"].clone();
    let [runnable, artifact] = [0, 1].map(|child| name(&children[child]));
    let manifest = blob(&runnable);
    let config = name(&manifest["config"]);
    let layer = name(&manifest["layers"][0]);
    let no_config = name(&blob(&artifact)["config"]);
    OciBlobs {
        index,
        artifact,
        others: [runnable, config, layer, no_config],
    }
}

#[test]
fn what_leads_to_an_image_is_missed() {
    let fixture = Fixture::new();
    let blobs = oci_blobs(&fixture);
    let leading = [&blobs.index, &blobs.artifact];
    for blob in blobs.others.iter().chain(leading) {
        let path = fixture.store().join("blobs/sha256").join(blob);
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let damages = fixture.verify_fails()["damages"].clone();
        assert_eq!(damages.as_array().unwrap().len(), 1, "{damages}");
        assert_eq!(damages[0]["blob"], **blob);
        assert_eq!(damages[0]["images"][0], "image");
        assert!(damages[0]["problem"].as_str().unwrap().contains("missing"));
        let mut list = peerfs(&fixture.store(), "ls");
        if leading.contains(&blob) {
            let (_, message) = fail(list.arg("image"));
            assert!(message.contains("leads nowhere"), "{message}");
        } else {
            succeed(list.arg("image"));
        }
        succeed(peerfs(&fixture.store(), "ls").arg(fixture.manifest.to_string()));
        fs::write(path, content).unwrap();
    }
    succeed(peerfs(&fixture.store(), "verify").arg("--complete"));
    fs::remove_file(fixture.store().join("blobs/sha256").join(&blobs.index)).unwrap();
    build(&fixture.tree(), &fixture.store(), "image", &[]);
    succeed(peerfs(&fixture.store(), "verify").arg("--complete"));
}

#[test]
fn without_an_index_everybody_says_what_to_do() {
    for content in [None, Some("")] {
        let fixture = Fixture::new();
        let index = fixture.store().join("index.json");
        match content {
            Some(content) => fs::write(index, content).unwrap(),
            None => fs::remove_file(index).unwrap(),
        }
        let digest = fixture.manifest.to_string();
        let commands: [(&str, &[&str]); 4] = [
            ("ls", &["image"]),
            ("cat", &["image", "file"]),
            ("verify", &[]),
            ("build", &["/", "--tag", "x", "--base", "image"]),
        ];
        for (command, arguments) in commands {
            let (_, message) = fail(peerfs(&fixture.store(), command).args(arguments));
            assert!(message.contains("by their digests"), "{command}: {message}");
        }
        succeed(peerfs(&fixture.store(), "ls").arg(&digest));
        assert_eq!(
            build(&fixture.tree(), &fixture.store(), "image", &[]),
            digest
        );
        succeed(peerfs(&fixture.store(), "verify").arg("--complete"));
    }
}

#[test]
fn tools_for_images_copy_all_of_one() {
    let skopeo = |arguments: &[&str]| {
        let mut skopeo = Command::new("skopeo");
        skopeo.arg("--insecure-policy").args(arguments).output()
    };
    if skopeo(&["--version"]).is_err() {
        eprintln!("skipped: skopeo is not installed");
        return;
    }
    let fixture = Fixture::new();
    let copy = fixture.folder.path().join("copy");
    let name = |store: &Path| format!("oci:{}:image", store.display());
    let (from, to) = (name(&fixture.store()), name(&copy));
    let output = skopeo(&["copy", "--all", &from, &to]).unwrap();
    assert!(output.status.success(), "{output:?}");
    succeed(peerfs(&copy, "verify").arg("--complete"));
    let content = succeed(peerfs(&copy, "cat").args(["image", "file"]));
    assert!(content == fixture.content);
    // Nothing was written anew, so that it is called the same everywhere.
    let digests = |store: &Path| {
        let mut digests = Store::open(store).unwrap().blobs().unwrap();
        digests.sort();
        digests
    };
    assert_eq!(digests(&copy), digests(&fixture.store()));
    let config = skopeo(&["inspect", "--override-arch", "unknown", "--config", &from]).unwrap();
    let config: Value = serde_json::from_slice(&config.stdout).unwrap();
    assert_eq!(config["os"], "linux");
}

#[test]
fn a_layout_that_another_tool_copied_is_a_store() {
    let fixture = Fixture::new();
    let copy = fixture.folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["oci-layout", "index.json", "blobs"] {
        let mut process = Command::new("cp");
        succeed(process.arg("-r").arg(fixture.store().join(name)).arg(&copy));
    }
    succeed(peerfs(&copy, "verify").arg("--complete"));
    let content = succeed(peerfs(&copy, "cat").args(["image", "file"]));
    assert!(content == fixture.content);
    build(&fixture.tree(), &copy, "again", &["--base", "image"]);
}
