// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which images a store has, what of them is there, and giving them names.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{json, Value};

use crate::fixture::{change, Fixture};
use crate::running::{fail, peerfs, succeed};

fn run(store: &Path, arguments: &[&str]) -> String {
    let mut process = peerfs(store, arguments[0]);
    String::from_utf8(succeed(process.args(&arguments[1..]))).unwrap()
}

fn output(store: &Path, arguments: &[&str]) -> Output {
    let mut process = peerfs(store, arguments[0]);
    process.args(&arguments[1..]).output().unwrap()
}

/// Tags of the listed images, with the digests.
fn listed(store: &Path) -> Vec<(String, String)> {
    let table = run(store, &["images"]);
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["TAG", "CONTENT", "HERE", "MANIFEST"]);
    lines
        .map(|line| {
            let (tag, digest) = (line.split("  ").next(), line.rsplit("  ").next());
            (tag.unwrap().trim().to_owned(), digest.unwrap().to_owned())
        })
        .collect()
}

#[test]
fn images_say_how_much_of_them_is_here() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let manifest = fixture.manifest.to_string();
    fixture.build_other();
    let whole: Value = serde_json::from_str(&run(&store, &["inspect", "image", "--json"])).unwrap();
    assert_eq!(whole["manifest"], json!(manifest));
    assert_eq!(whole["tags"], json!(["image"]));
    assert_eq!(
        (&whole["complete"], &whole["content_bytes"]),
        (&json!(true), &json!(1_000_000))
    );
    let blobs = whole["blobs"].as_array().unwrap();
    for blob in blobs {
        let digest = blob["digest"].as_str().unwrap();
        let length = fs::metadata(store.join("blobs/sha256").join(digest))
            .unwrap()
            .len();
        assert_eq!(
            (&blob["bytes"], &blob["present_bytes"]),
            (&json!(length), &json!(length))
        );
    }
    let kinds: Vec<&str> = blobs
        .iter()
        .map(|blob| blob["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "manifest",
            "blob_table",
            "inode_shard",
            "pack_index",
            "pack",
            "pack_contents"
        ]
    );

    let pack = fixture.make_partial(0);
    let missing = pack.chunk(0).unwrap().stored_length;
    let partial: Value =
        serde_json::from_str(&run(&store, &["inspect", "image", "--json"])).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!(partial["complete"], json!(false));
    assert_eq!(
        number(&partial["present_bytes"]) + u64::from(missing),
        number(&whole["bytes"])
    );
    let chunks = &partial["blobs"][4];
    assert_eq!(
        number(&chunks["present_chunks"]) + 1,
        number(&chunks["chunks"])
    );
    let text = run(&store, &["inspect", &manifest]);
    assert!(text.contains("packs that are not all here:"), "{text}");
    let table = run(&store, &["images"]);
    let line = |tag: &str| table.lines().find(|line| line.starts_with(tag)).unwrap();
    assert!(line("image").contains(" %"), "{table}");
    assert!(line("other").contains(" all "), "{table}");

    // Without its blob table hardly anything is here, and without its manifest nothing; other images are listed.
    let (_, parsed) = fixture.read_manifest();
    fs::remove_file(fixture.blob(&parsed.blob_table)).unwrap();
    let text = run(&store, &["inspect", "image"]);
    assert!(text.contains("here:         0 %"), "{text}");
    fs::remove_file(fixture.blob(&fixture.manifest)).unwrap();
    let table = run(&store, &["images"]);
    assert!(
        table.contains("nothing") && table.contains(" all "),
        "{table}"
    );
    let lines = run(&store, &["images", "--json"]);
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert!(first["problem"].as_str().unwrap().contains(&manifest));
    let (_, message) = fail(peerfs(&store, "inspect").arg("image"));
    assert!(message.contains(&manifest), "{message}");
}

#[test]
fn tags_come_and_go() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let manifest = fixture.manifest.to_string();
    let other = fixture.build_other();
    let pair = |tag: &str, digest: &str| (tag.to_owned(), digest.to_owned());
    assert_eq!(
        run(&store, &["tag", &manifest, "registry.example/base:1"]),
        ""
    );
    let all = [
        pair("image", &manifest),
        pair("registry.example/base:1", &manifest),
        pair("other", &other),
    ];
    assert_eq!(listed(&store), all);
    assert_eq!(
        run(&store, &["images", "-q"]),
        format!("{manifest}\n{other}\n")
    );
    let content = succeed(peerfs(&store, "cat").args(["registry.example/base:1", "/file"]));
    assert!(content == fixture.content);
    // A second time it changes nothing.
    run(&store, &["tag", "image", "registry.example/base:1"]);
    assert_eq!(listed(&store), all);
    // Who loses the last name stays.
    run(&store, &["tag", "image", "other"]);
    run(&store, &["untag", "registry.example/base:1"]);
    let moved = [
        pair("image", &manifest),
        pair("other", &manifest),
        pair("<none>", &other),
    ];
    assert_eq!(listed(&store), moved);
    run(&store, &["untag", "image"]);
    run(&store, &["untag", "other"]);
    assert_eq!(listed(&store).len(), 2);
    assert_eq!(run(&store, &["cat", &other, "/file"]), "other");
    run(&store, &["tag", &other, "again"]);
    let summary: Value =
        serde_json::from_str(run(&store, &["images", "--json"]).lines().next().unwrap()).unwrap();
    assert_eq!(summary["tags"], json!(["again"]));
    // By its OCI index, which other tools can copy.
    assert!(summary["oci_index"].is_string());
    run(&store, &["verify", "--complete"]);
}

#[test]
fn nobody_who_names_images_at_once_loses_a_name() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let names: Vec<String> = (0..16).map(|number| format!("name{number}")).collect();
    let all_at_once = |command: &str, arguments: &[&str]| {
        let start = |name| peerfs(&store, command).args(arguments).arg(name).spawn();
        let started: Vec<_> = names.iter().map(start).collect();
        for child in started {
            assert!(child.unwrap().wait().unwrap().success(), "{command}");
        }
    };
    all_at_once("tag", &["image"]);
    assert_eq!(listed(&store).len(), 17);
    all_at_once("untag", &[]);
    let left = [("image".to_owned(), fixture.manifest.to_string())];
    assert_eq!(listed(&store), left);
}

#[test]
fn what_can_not_be_tagged_changes_nothing() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let index = fs::read(store.join("index.json")).unwrap();
    let missing = "1".repeat(64);
    for (arguments, status, expected) in [
        (["untag", "none", ""], 1, "there are: \"image\""),
        (["tag", "none", "new"], 1, "there are: \"image\""),
        (["tag", &missing, "new"], 1, &missing),
        (["tag", "image", &missing], 2, "a digest is no tag"),
        (["tag", "image", "a b"], 2, "are allowed"),
    ] {
        let arguments: Vec<&str> = arguments
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect();
        let output = output(&store, &arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {message}"
        );
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    assert_eq!(fs::read(store.join("index.json")).unwrap(), index);
    // What somebody else has called an image is shown so that it does not control the terminal, and can be taken away.
    let hostile = "a\u{1b}]0;owned\u{7}\n b";
    change(&store.join("index.json"), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text
            .replace("\"image\"", &json!(hostile).to_string())
            .into();
    });
    let table = run(&store, &["images"]);
    assert!(
        table.lines().count() == 2 && !table.contains('\u{1b}'),
        "{table:?}"
    );
    run(&store, &["untag", hostile]);
    assert_eq!(
        listed(&store),
        [("<none>".to_owned(), fixture.manifest.to_string())]
    );
}

#[test]
fn warnings_are_told_and_are_no_output() {
    let fixture = Fixture::new();
    let store = fixture.store();
    fixture.build_other();
    let listed: Value =
        serde_json::from_str(run(&store, &["images", "--json"]).lines().next().unwrap()).unwrap();
    let damaged = listed["oci_index"].as_str().unwrap();
    fs::write(store.join("blobs/sha256").join(damaged), "{}").unwrap();
    let output = output(&store, &["images", "-q"]);
    assert!(output.status.success());
    assert_eq!(output.stdout.len(), 65);
    let warning = String::from_utf8(output.stderr).unwrap();
    let expected = format!("peerfs: warning: index.json names sha256:{damaged}, which");
    assert!(warning.starts_with(&expected), "{warning}");
    assert_eq!(warning.lines().count(), 1, "{warning}");
}
