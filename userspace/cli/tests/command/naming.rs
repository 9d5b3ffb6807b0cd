// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What images are called, and how names that somebody else chose are shown.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::fixture::{change, replace, Fixture};
use crate::running::{build, fail, helper, peerfs, succeed};
use rustix::fs::{setxattr, XattrFlags};
use serde_json::{json, Value};

#[test]
fn no_tag_looks_like_a_digest() {
    let fixture = Fixture::new();
    let digest = fixture.manifest.to_string();
    for tag in [&digest, &format!("sha256:{digest}"), &digest.to_uppercase()] {
        let mut process = peerfs(&fixture.store(), "build");
        let output = process.arg(fixture.tree()).arg("--tag").arg(tag).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{tag}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("a digest is no tag"), "{message}");
    }
}

#[test]
fn a_tag_does_not_hide_a_digest() {
    let fixture = Fixture::new();
    let digest = fixture.manifest.to_string();
    let other = fixture.build_other();
    let tags = [digest.clone(), format!("sha256:{digest}")];
    let index = fixture.store().join("index.json");
    for tag in &tags {
        // The store's owner may write anything.
        let mut content: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
        let entries = content["manifests"].as_array_mut().unwrap();
        let annotations = &mut entries.last_mut().unwrap()["annotations"];
        annotations["org.opencontainers.image.ref.name"] = json!(tag);
        fs::write(&index, content.to_string()).unwrap();
        for name in &tags {
            let content = succeed(peerfs(&fixture.store(), "cat").args([name, "/file"]));
            assert!(content == fixture.content, "{name}");
            let listed = succeed(peerfs(&fixture.store(), "ls").args(["-l", name]));
            assert!(String::from_utf8(listed).unwrap().contains("1000000"));
            let options = ["--compression", "none", "--base", name];
            // All is taken from the base, whatever the compression.
            assert_eq!(
                build(&fixture.tree(), &fixture.store(), "again", &options),
                digest
            );
            let mut mount = helper(&fixture.store());
            mount.args(["-f", "-v", name]).arg(fixture.tree());
            assert!(String::from_utf8(succeed(&mut mount))
                .unwrap()
                .starts_with(&digest));
        }
    }
    let content = succeed(peerfs(&fixture.store(), "cat").args([&other, "/file"]));
    assert_eq!(content, b"other");
    // Nor does an entry that calls the manifest something else.
    let mut content: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    content["manifests"][0]["digest"] = json!(format!("sha256:{digest}"));
    fs::write(&index, content.to_string()).unwrap();
    let listed = succeed(peerfs(&fixture.store(), "ls").arg(&digest));
    assert_eq!(listed, b"file\n");
}

#[test]
fn an_image_of_another_kind_is_called_so() {
    let fixture = Fixture::new();
    fixture.build_other();
    // The same OCI index, of an image that is no peerfs image.
    let index = fixture.store().join("index.json");
    change(&index, |bytes| {
        let place = bytes.windows(10).position(|found| found == b"\"manifests");
        let kind = b"application/vnd.oci.image.index.v1+json";
        replace(
            &mut bytes[place.unwrap()..],
            kind,
            b"application/vnd.oci.image.index.v2+json",
        );
    });
    let (_, message) = fail(peerfs(&fixture.store(), "ls").arg("image"));
    assert!(message.contains("no peerfs image"), "{message}");
    let (_, message) = fail(peerfs(&fixture.store(), "ls").arg("none"));
    assert!(
        message.contains("there are: \"image\", \"other\"\n"),
        "{message}"
    );
}

#[test]
fn names_do_not_control_the_terminal() {
    let fixture = Fixture::new();
    let index = fixture.store().join("index.json");
    change(&index, |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text
            .replace("\"image\"", r#""a\u001b]0;owned\u0007b ""#)
            .into();
    });
    let (_, message) = fail(peerfs(&fixture.store(), "ls").arg("none"));
    assert!(message.contains(r#""a\u{1b}]0;owned\u{7}b ""#), "{message}");
    fs::remove_file(fixture.blob(&fixture.pack().0.digest)).unwrap();
    let listed = succeed(&mut peerfs(&fixture.store(), "verify"));
    assert!(!listed.iter().any(|byte| b"\x1b\x07".contains(byte)));

    let digest = fixture.manifest.to_string();
    let path = OsStr::from_bytes(b"/\x1b]0;\xff\n");
    let (_, message) = fail(peerfs(&fixture.store(), "cat").arg(digest).arg(path));
    assert!(message.contains(r"/\u{1b}]0;\xff\n: no such"), "{message}");
    let tree = fixture.folder.path().join(OsStr::from_bytes(b"\x1b[2J"));
    let mut process = peerfs(&fixture.store(), "build");
    let (_, message) = fail(process.arg(tree).args(["--tag", "x"]));
    assert!(message.contains(r"\u{1b}[2J"), "{message}");
    let mut process = peerfs(&fixture.store(), "build");
    let output = process.args([".", "--tag", "\x1b[2J"]).output().unwrap();
    assert!(!output.stderr.contains(&0x1b));
    let mut process = peerfs(&fixture.store().join("\x1b"), "ls");
    let (_, message) = fail(process.arg("x"));
    assert!(
        message.contains(r"\u{1b} is not a peerfs store"),
        "{message}"
    );
}

#[test]
fn attributes_whose_names_are_no_text_stay_apart() {
    let fixture = Fixture::new();
    // In the build's own folder: /tmp may be of a kind that has no user attributes.
    let tree = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (name, value) in [
        (&b"user.\xff"[..], b"1"),
        (b"user.\xfe", b"2"),
        (b"user.x", b"3"),
    ] {
        setxattr(tree.path(), name, value, XattrFlags::empty()).unwrap();
    }
    let digest = build(tree.path(), &fixture.store(), "attributes", &[]);
    let line = succeed(peerfs(&fixture.store(), "ls").args(["-d", "--json", &digest]));
    let info: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(info["xattrs"], json!({"user.x": "33"}));
    let others = json!({"757365722eff": "31", "757365722efe": "32"});
    assert_eq!(info["xattrs_hex"], others);
}

#[test]
fn an_index_that_could_not_be_read_is_not_written() {
    let fixture = Fixture::new();
    let index = fixture.store().join("index.json");
    let mut content: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let entry = content["manifests"][0].clone();
    let name = |number| format!("{number:06}{}", "x".repeat(240));
    let mut add = |number| {
        let mut entry = entry.clone();
        entry["annotations"]["org.opencontainers.image.ref.name"] = json!(name(number));
        content["manifests"].as_array_mut().unwrap().push(entry);
    };
    // As many as fit, but for a few. In the list each of its 8 lines is indented, and has a longer name.
    let entry_length = serde_json::to_string_pretty(&entry).unwrap().len() + 8 * 4 + 2 + 241;
    for number in 0..16 * 1024 * 1024 / entry_length - 2 {
        add(number);
    }
    fs::write(&index, serde_json::to_vec_pretty(&content).unwrap()).unwrap();
    let attempts = 900_000..900_020;
    let message = attempts.map(name).find_map(|tag| {
        let mut process = peerfs(&fixture.store(), "build");
        process.arg(fixture.tree()).args(["--tag", &tag]);
        let output = process.output().unwrap();
        (!output.status.success()).then(|| String::from_utf8(output.stderr).unwrap())
    });
    let message = message.expect("at some time it is too long");
    assert!(message.contains("too many images and tags"), "{message}");
    succeed(peerfs(&fixture.store(), "ls").arg("image"));
    // No message is as long as the list of them.
    let (_, message) = fail(peerfs(&fixture.store(), "ls").arg("none"));
    assert!(
        message.contains(" more\n") && message.len() < 10_000,
        "{}",
        message.len()
    );
}

#[test]
fn the_shell_sees_what_the_library_does() {
    // What a script gets is not escaped.
    let fixture = Fixture::new();
    let name = OsStr::from_bytes(b"a\x1b\xff\\");
    fs::write(fixture.tree().join(name), "").unwrap();
    build(&fixture.tree(), &fixture.store(), "image", &[]);
    let mut process: Command = peerfs(&fixture.store(), "ls");
    assert_eq!(succeed(process.arg("image")), b"a\x1b\xff\\\nfile\n");
}

#[test]
fn an_image_of_elsewhere_is_not_fetched_unasked() {
    let fixture = Fixture::new();
    let published = format!("{}/base", "a".repeat(52));
    let in_registry = "`peerfs pull` fetches it from its registry";
    for (name, expected, by_mount) in [
        ("registry.example/base:1", in_registry, in_registry),
        // A store does not know what these stand for.
        (
            &published,
            "`peerfs history` asks peerfsd",
            "can't reach peerfsd",
        ),
        (
            "peerfs:base",
            "`peerfs history` asks peerfsd",
            "can't reach peerfsd",
        ),
    ] {
        let (_, message) = fail(peerfs(&fixture.store(), "ls").arg(name));
        assert!(message.contains(expected), "{message}");
        // The same grammar in an option, whatever the source.
        let manifest = format!("manifest={name},socket=/nowhere/socket");
        let mut mount = helper(&fixture.store());
        mount
            .args(["-f", "-o", &manifest, "none"])
            .arg(fixture.tree());
        let output = mount.output().unwrap();
        assert_eq!(output.status.code(), Some(32));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(by_mount), "{message}");
    }
    let pinned = format!("registry.example/base@sha256:{}", fixture.manifest);
    let listed = succeed(peerfs(&fixture.store(), "ls").arg(&pinned));
    assert_eq!(listed, b"file\n");
    for name in ["a b", "image@", "image\u{7}"] {
        let output = peerfs(&fixture.store(), "ls").arg(name).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        let is_name = name == "image@";
        assert_eq!(output.status.code(), Some(if is_name { 1 } else { 2 }));
        assert!(!message.contains('\u{7}'), "{message}");
    }
}
