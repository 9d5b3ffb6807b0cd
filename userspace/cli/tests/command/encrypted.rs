// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Encrypted images: who has the key reads them, and nobody else does.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use peerfs_format::{Digest, Manifest, PackIndex, Record, METADATA_MAX};
use peerfs_store::{Image, Store};
use serde_json::Value;

use crate::docker_registry::Registry;
use crate::fixture::Fixture;
use crate::round_trip::make_tree;
use crate::running::{build, fail, peerfs, succeed, Daemon};

/// Makes a key beside the store of a fixture, and returns its file and its id.
fn make_key(folder: &Path, name: &str) -> (PathBuf, String) {
    let file = folder.join(name);
    let mut process = peerfs(Path::new("/nonexistent"), "key");
    let id = succeed(process.arg("realm").arg(&file));
    let id = String::from_utf8(id).unwrap().trim_end().to_owned();
    assert_eq!(id.len(), 32);
    let mut process = peerfs(Path::new("/nonexistent"), "key");
    let shown = succeed(process.args(["realm", "--show"]).arg(&file));
    assert_eq!(shown, format!("{id}\n").as_bytes());
    (file, id)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The digests of all stored chunks of an image, in the order of its packs.
fn chunks(store: &Path, manifest: &str) -> Vec<Digest> {
    let store = Arc::new(Store::open(store).unwrap());
    let image = Image::open(store.clone(), &manifest.parse().unwrap()).unwrap();
    let mut digests = Vec::new();
    for record in image.blob_table().packs.iter() {
        let index = store.read_metadata(&record.index_digest, METADATA_MAX);
        let index = index.unwrap();
        let index = PackIndex::parse(&index, &record).unwrap();
        digests.extend(index.chunks.iter().map(|chunk| chunk.digest));
    }
    digests
}

fn extract(store: &Path, image: &str, to: &Path, key: &[&str]) -> Command {
    let mut process = peerfs(store, "extract");
    process.args(key).arg(image).arg(to);
    process
}

#[test]
fn a_realm_shares_everything_and_others_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let tree = path("tree");
    make_tree(&tree, &["--small"]);
    let [(one, _), (other, _)] = ["one.key", "other.key"].map(|name| make_key(folder.path(), name));
    let with = |key: &Path| ["--encrypt".to_owned(), text(key).to_owned()];
    let build_with = |store: &str, key: &Path, more: &[&str]| {
        let with = with(key);
        let options: Vec<&str> = with
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        build(&tree, &path(store), "image", &options)
    };
    // Two publishers with one key, each on a store of its own.
    let first = build_with("first", &one, &[]);
    assert_eq!(build_with("second", &one, &["--threads", "1"]), first);
    let foreign = build_with("foreign", &other, &[]);
    let plain = build(&tree, &path("plain"), "image", &[]);
    let sets: Vec<HashSet<Digest>> = [("first", &first), ("foreign", &foreign), ("plain", &plain)]
        .map(|(store, manifest)| chunks(&path(store), manifest).into_iter().collect())
        .into();
    assert!(sets.iter().all(|set| set.len() == sets[0].len()));
    for (number, set) in sets.iter().enumerate() {
        assert!(sets[number + 1..]
            .iter()
            .all(|other| set.is_disjoint(other)));
    }
    // The same in one store, one beside the other: none is made of another one's chunks.
    let shared = path("shared");
    for (tag, options, expected) in [
        ("plain", [].as_slice(), &plain),
        ("first", &["--encrypt", text(&one)], &first),
        ("foreign", &["--encrypt", text(&other)], &foreign),
        ("again", &["--encrypt", text(&one)], &first),
    ] {
        assert_eq!(&build(&tree, &shared, tag, options), expected, "{tag}");
    }
    // What the tree has is nowhere in the store of an encrypted one.
    let all = fs::read_dir(path("first").join("blobs/sha256")).unwrap();
    let bytes: Vec<u8> = all
        .flat_map(|blob| fs::read(blob.unwrap().path()).unwrap())
        .collect();
    let names = fs::read_dir(tree.join("content")).unwrap();
    for name in names.map(|entry| entry.unwrap().file_name()) {
        let name = name.as_encoded_bytes();
        assert!(name.len() < 6 || !bytes.windows(name.len()).any(|window| window == name));
    }
}

#[test]
fn only_who_has_the_key_reads() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path();
    let ((key, id), (other, _)) = (make_key(folder, "realm.key"), make_key(folder, "other.key"));
    build(
        &fixture.tree(),
        &fixture.store(),
        "secret",
        &["--encrypt", text(&key)],
    );
    let store = fixture.store();
    let right = ["--key", text(&key)];
    // Of several keys the right one is taken; a plain image needs none.
    let several = ["--key", text(&other), "--key", text(&key)];
    for (image, keys) in [
        ("secret", &right[..]),
        ("secret", &several),
        ("image", &right),
        ("image", &[]),
    ] {
        let found = succeed(peerfs(&store, "cat").args(keys).args([image, "/file"]));
        assert!(found == fixture.content, "{image}");
    }
    let to = folder.join("extracted");
    succeed(&mut extract(&store, "secret", &to, &right));
    assert!(fs::read(to.join("file")).unwrap() == fixture.content);
    let tar = |image: &str, keys: &[&str]| {
        succeed(peerfs(&store, "export").arg("tar").args(keys).arg(image))
    };
    assert_eq!(tar("secret", &right), tar("image", &[]));
    // They differ in nothing, and share nothing.
    let output = succeed(
        peerfs(&store, "diff")
            .args(right)
            .args(["--json", "image", "secret"]),
    );
    let summary: Value = serde_json::from_slice(&output).unwrap();
    assert!(
        summary["added"] == 0 && summary["changed"] == 0,
        "{summary}"
    );
    assert!(
        summary["fetch_bytes"].as_u64().unwrap() > 900_000,
        "{summary}"
    );

    let nowhere = folder.join("nowhere");
    for keys in [&[][..], &["--key", text(&other)]] {
        let run = |command: &str, arguments: &[&str]| {
            let mut process = peerfs(&store, command);
            process.args(arguments).args(keys);
            process
        };
        for mut process in [
            extract(&store, "secret", &nowhere, keys),
            run("ls", &["secret"]),
            run("cat", &["secret", "/file"]),
            run("export", &["tar", "secret"]),
        ] {
            let (output, message) = fail(&mut process);
            assert!(output.is_empty(), "{process:?}");
            assert!(
                message.contains(&id) && message.contains("--key FILE"),
                "{message}"
            );
        }
        let output = run("diff", &["image", "secret"]).output().unwrap();
        assert!(output.status.code() == Some(2) && output.stdout.is_empty());
    }
    assert!(!nowhere.exists() || fs::read_dir(&nowhere).unwrap().next().is_none());
    let (_, message) = fail(peerfs(&store, "ls").args(["--key", "/nonexistent", "secret"]));
    assert!(message.contains("peerfs key realm"), "{message}");
}

/// Three nodes: who made the image, who keeps it and has no key, and who has the key and knows only the second one.
#[test]
fn nodes_without_the_key_pass_it_on() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path();
    let (key, _) = make_key(folder, "realm.key");
    let secret = ["--encrypt", text(&key)];
    let manifest = build(&fixture.tree(), &fixture.store(), "secret", &secret);
    let mut nodes = vec![Daemon::start(folder, &fixture.store(), "", "")];
    let mut known = folder.join("socket");
    let mut store = fixture.store();
    for name in ["keeper", "reader"] {
        let mut status = Command::new(env!("CARGO_BIN_EXE_peerfs"));
        let status = succeed(status.args(["status", "--json", "--socket"]).arg(&known));
        let status: Value = serde_json::from_slice(&status).unwrap();
        let (address, id) = (&status["listen_addresses"][0], &status["node_id"]);
        let (address, id) = (address.as_str().unwrap(), id.as_str().unwrap());
        let is_named = address.contains(id);
        let end = if is_named {
            String::new()
        } else {
            format!("/p2p/{id}")
        };
        let bootstrap = format!("bootstrap = [\"{address}{end}\"]\n");

        let home = folder.join(name);
        fs::create_dir(&home).unwrap();
        store = home.join("store");
        nodes.push(Daemon::start(&home, &store, "", &bootstrap));
        known = home.join("socket");
        let mut pull = peerfs(&store, "pull");
        pull.args([&manifest, "--socket"]).arg(&known);
        succeed(&mut pull);
        // The one before is gone: what comes next comes of this one.
        drop(nodes.remove(0));
        succeed(peerfs(&store, "verify").arg("--complete"));
        let (_, message) = fail(peerfs(&store, "cat").args([&manifest, "/file"]));
        assert!(message.contains("--key FILE"), "{message}");
    }
    let with = ["--key", text(&key), &manifest, "/file"];
    let found = succeed(peerfs(&store, "cat").args(with));
    assert!(found == fixture.content);
}

#[test]
fn without_the_key_it_is_kept_checked_and_collected_as_any_other() {
    let fixture = Fixture::new();
    let (key, id) = make_key(fixture.folder.path(), "realm.key");
    let store = fixture.store();
    succeed(peerfs(&store, "rm").arg("image"));
    succeed(&mut peerfs(&store, "gc"));
    let manifest = build(
        &fixture.tree(),
        &store,
        "secret",
        &["--encrypt", text(&key)],
    );
    let verify = |options: &[&str]| {
        let mut process = peerfs(&store, "verify");
        let output = process.arg("--json").args(options).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let with_key = ["--key", text(&key)];
    let without = verify(&[]);
    assert_eq!(without["damages"], serde_json::json!([]));
    assert_eq!(without["encrypted"]["secret"], id.as_str());
    let with = verify(&with_key);
    assert!(
        with["damages"] == serde_json::json!([]) && with["encrypted"] == serde_json::json!({}),
        "{with}"
    );
    let inspected = succeed(peerfs(&store, "inspect").args(["--json", "secret"]));
    let inspected: Value = serde_json::from_slice(&inspected).unwrap();
    assert_eq!(inspected["key"], id.as_str());
    // To others by a registry, who have it without the key, and read it with the key: given as others decrypt it.
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let reference = format!("{}/t/secret:1", registry.address);
    succeed(peerfs(&store, "push").args(["secret", &reference]));
    let elsewhere = fixture.folder.path().join("elsewhere");
    let mut pull = peerfs(Path::new("/nowhere"), "pull");
    succeed(pull.arg("--root-dir").arg(&elsewhere).arg(&reference));
    succeed(&mut peerfs(&elsewhere, "verify"));
    let mut cat = peerfs(&elsewhere, "cat");
    cat.args(["--key", "-", &reference, "/file"]);
    let content = succeed(cat.stdin(fs::File::open(&key).unwrap()));
    assert!(content == fixture.content);
    succeed(peerfs(&store, "du").arg("secret"));
    succeed(&mut peerfs(&store, "gc"));
    // One bit, and both find it; nobody reads it.
    let chunk = {
        let store = Arc::new(Store::open(&store).unwrap());
        let image = Image::open(store, &manifest.parse().unwrap()).unwrap();
        let pack = image.blob_table().pack(0).unwrap();
        fixture.blob(&pack.digest)
    };
    let mut bytes = fs::read(&chunk).unwrap();
    bytes[1000] ^= 1;
    fs::write(&chunk, &bytes).unwrap();
    for options in [&[][..], &with_key] {
        assert_ne!(verify(options)["damages"], serde_json::json!([]));
    }
    let (_, message) = fail(
        peerfs(&store, "cat")
            .args(with_key)
            .args(["secret", "/file"]),
    );
    assert!(message.contains("damaged"), "{message}");
}

#[test]
fn what_is_built_upon_has_the_same_key() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path();
    let [(key, _), (other, _)] = ["realm.key", "other.key"].map(|name| make_key(folder, name));
    let (tree, store) = (fixture.tree(), fixture.store());
    build(&tree, &store, "secret", &["--encrypt", text(&key)]);
    fs::write(tree.join("more"), "more").unwrap();
    let next = build(
        &tree,
        &store,
        "next",
        &["--encrypt", text(&key), "--base", "secret"],
    );
    let before: HashSet<_> = chunks(&store, &fixture_manifest(&store, "secret"))
        .into_iter()
        .collect();
    let new = chunks(&store, &next);
    assert!(new.iter().filter(|chunk| !before.contains(*chunk)).count() == 1);
    let listed = succeed(peerfs(&store, "ls").args(["--key", text(&key), "next"]));
    assert_eq!(listed, b"file\nmore\n");
    for options in [
        &["--base", "secret"][..],
        &["--base", "image", "--encrypt", text(&key)],
        &["--base", "secret", "--encrypt", text(&other)],
    ] {
        let mut process = peerfs(&store, "build");
        let (_, message) = fail(process.arg(&tree).args(["--tag", "wrong"]).args(options));
        assert!(message.contains("not encrypted with the key"), "{message}");
    }
    // What was noted of the files is of one realm, too.
    let cache = folder.join("cache");
    let update = |options: &[&str]| {
        let mut process = peerfs(&store, "build");
        process
            .env("XDG_CACHE_HOME", &cache)
            .arg(&tree)
            .args(["--tag", "updated"]);
        String::from_utf8(succeed(process.args(options))).unwrap()
    };
    let first = update(&["--encrypt", text(&key)]);
    assert_eq!(
        update(&["--encrypt", text(&key), "--update", "updated"]),
        first
    );
    let plain = update(&["--update", "updated"]);
    assert_eq!(plain, update(&[]));
}

fn fixture_manifest(store: &Path, tag: &str) -> String {
    let store = Store::open(store).unwrap();
    store.resolve(&tag.parse().unwrap()).unwrap().to_string()
}

/// An image that says that it is encrypted, and is not; and the other way round. Each of its blobs hashes right.
#[test]
fn a_downgrade_is_refused() {
    let fixture = Fixture::new();
    let (key, _) = make_key(fixture.folder.path(), "realm.key");
    let root_dir = fixture.store();
    build(
        &fixture.tree(),
        &root_dir,
        "secret",
        &["--encrypt", text(&key)],
    );
    let manifests = ["image", "secret"].map(|tag| fixture_manifest(&root_dir, tag));
    let store = Store::open(&root_dir).unwrap();
    let read = |digest: &str| {
        let digest: Digest = digest.parse().unwrap();
        let bytes = store.read_metadata(&digest, METADATA_MAX).unwrap();
        let manifest = Manifest::parse(&bytes).unwrap();
        let table = store
            .read_metadata(&manifest.blob_table, METADATA_MAX)
            .unwrap();
        (bytes, manifest, table)
    };
    let [plain, secret] = [&manifests[0], &manifests[1]].map(|manifest| read(manifest));
    for (bytes, manifest, table, from) in [
        (&plain.0, &plain.1, &plain.2, &secret),
        (&secret.0, &secret.1, &secret.2, &plain),
    ] {
        // With its own shards, and the packs of the other one.
        let packs = |table: &[u8], manifest: &Manifest| {
            let table = peerfs_format::BlobTable::parse(table, manifest.inode_count).unwrap();
            table.packs.get(0).unwrap()
        };
        let (own, other) = (packs(table, manifest), packs(&from.2, &from.1));
        let replace = |bytes: &[u8], old: &[u8], new: &[u8]| {
            let at = bytes
                .windows(old.len())
                .position(|window| window == old)
                .unwrap();
            [&bytes[..at], new, &bytes[at + old.len()..]].concat()
        };
        let encode = |record: &peerfs_format::PackRecord| {
            let mut bytes = Vec::new();
            record.write_to(|part| bytes.extend_from_slice(part));
            bytes
        };
        let forged = store
            .add_blob(&replace(table, &encode(&own), &encode(&other)))
            .unwrap();
        let forged = replace(bytes, &manifest.blob_table.0, &forged.0);
        let forged = store.add_blob(&forged).unwrap().to_string();
        let keys = ["--key", text(&key)];
        let (output, message) = fail(peerfs(&root_dir, "cat").args(keys).args([&forged, "/file"]));
        assert!(
            output.is_empty() && message.contains("pack index: its chunks are"),
            "{message}"
        );
    }
}
