// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What other tools need of a store, and what they leave out of it.

use std::fs;
use std::process::Command;

use crate::fixture::Fixture;
use crate::running::{build, fail, peerfs, succeed};
use serde_json::Value;

/// The digest of the OCI image manifest, and that of its configuration.
fn oci_blobs(fixture: &Fixture) -> [String; 2] {
    let read = |path: std::path::PathBuf| -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let name = |digest: &Value| digest.as_str().unwrap().replace("sha256:", "");
    let index = read(fixture.store().join("index.json"));
    let manifest = name(&index["manifests"][0]["digest"]);
    let content = read(fixture.store().join("blobs/sha256").join(&manifest));
    let config = name(&content["config"]["digest"]);
    [manifest, config]
}

#[test]
fn what_leads_to_an_image_is_missed() {
    let fixture = Fixture::new();
    for blob in oci_blobs(&fixture) {
        let path = fixture.store().join("blobs/sha256").join(&blob);
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let damages = fixture.verify_fails()["damages"].clone();
        assert_eq!(damages.as_array().unwrap().len(), 1, "{damages}");
        assert_eq!(damages[0]["blob"], blob);
        assert_eq!(damages[0]["images"][0], "image");
        assert!(damages[0]["problem"].as_str().unwrap().contains("missing"));
        fs::write(path, content).unwrap();
    }
    succeed(peerfs(&fixture.store(), "verify").arg("--complete"));
    let [manifest, _] = oci_blobs(&fixture);
    fs::remove_file(fixture.store().join("blobs/sha256").join(manifest)).unwrap();
    let (_, message) = fail(peerfs(&fixture.store(), "ls").arg("image"));
    assert!(message.contains("leads nowhere"), "{message}");
    succeed(peerfs(&fixture.store(), "ls").arg(fixture.manifest.to_string()));
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
