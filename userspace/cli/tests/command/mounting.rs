// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mounting, as far as it can be tried without the filesystem in the kernel.

use std::fs;

use crate::fixture::Fixture;
use crate::running::{fail, helper, peerfs, succeed};

#[test]
fn a_mount_point_is_a_directory() {
    let fixture = Fixture::new();
    let file = fixture.tree().join("file");
    let mut process = peerfs(&fixture.store(), "mount");
    let (_, message) = fail(process.arg("image").arg(&file));
    assert!(message.contains("on a directory only"), "{message}");
    let mut process = peerfs(&fixture.store(), "mount");
    let (_, message) = fail(process.arg("image").arg(file.with_file_name("none")));
    assert!(message.contains("make that directory first"), "{message}");
    let output = helper(&fixture.store())
        .args(["-f", "image"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(32));
}

#[test]
fn a_store_may_have_a_comma_in_its_path() {
    let fixture = Fixture::new();
    let store = fixture.folder.path().join("a,b");
    fs::rename(fixture.store(), &store).unwrap();
    let escaped = store.to_str().unwrap().replace(',', "\\,");
    for options in [
        format!("ro,root_dir={escaped}"),
        format!("root_dir=\"{}\"", store.display()),
    ] {
        let mut process = helper(&store);
        process
            .args(["-f", "-v", "-o", &options, "image"])
            .arg(fixture.tree());
        let told = String::from_utf8(succeed(&mut process)).unwrap();
        assert!(told.starts_with(&fixture.manifest.to_string()), "{told}");
    }
}

#[test]
fn advice_names_the_options_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    let (_, message) = fail(peerfs(&none, "ls").arg("image"));
    assert!(message.contains("; name one with --root-dir"), "{message}");
    let mut mount = helper(&none);
    let output = mount.args(["-f", "image"]).arg(folder.path()).output();
    let message = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(
        message.contains("; name one with -o root_dir="),
        "{message}"
    );
    assert!(message.starts_with("mount.peerfs: "), "{message}");
}
