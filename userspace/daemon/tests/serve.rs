// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A daemon that gives out its store by HTTP, and one that has no other source.

#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use peerfs_format::Digest;
use peerfs_store::{sha256, BlobKind, Store};
use support::process::{peerfs, succeed, Running};

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 56) as u8
    });
    noise.take(bytes).collect()
}

/// Builds an image with files of this content; returns its manifest.
fn build(root: &Path, tag: &str, files: &[&[u8]]) -> String {
    let tree = root.join(format!("{tag}-tree"));
    fs::create_dir(&tree).unwrap();
    for (number, content) in files.iter().enumerate() {
        fs::write(tree.join(number.to_string()), content).unwrap();
    }
    let mut build = Command::new(peerfs());
    build.args(["build", "--tag", tag, "--root-dir"]);
    let manifest = succeed(build.arg(root.join("store")).arg(tree));
    manifest.trim_end().to_owned()
}

/// A daemon over the store of a folder that gives it out, and where.
fn start(root: tempfile::TempDir) -> (Running, String) {
    let (daemon, log) = Running::start_over(root, "[serve]\nlisten = \"127.0.0.1:0\"\n");
    let (_, address) = log.split_once("http://").expect(&log);
    let (address, _) = address.split_once('/').unwrap();
    (daemon, address.to_owned())
}

/// A daemon that has this source alone.
fn start_client(address: &str) -> Running {
    let source = format!("[[source]]\nurl = \"http://{address}\"\n");
    Running::start_over(tempfile::tempdir().unwrap(), &source).0
}

fn verify(daemon: &Running) {
    let mut verify = Command::new(peerfs());
    succeed(verify.args(["verify", "--root-dir"]).arg(daemon.store()));
}

/// The packs of an image, with the file that each would be.
fn packs(store: &Path, manifest: &str) -> Vec<(Digest, PathBuf)> {
    let store = Store::open(store).unwrap();
    let inventory = store.inventory(&manifest.parse().unwrap()).unwrap();
    let blobs = inventory.blobs.iter();
    let packs = blobs.filter(|blob| blob.kind == BlobKind::Pack);
    let packs = packs.map(|pack| (pack.digest, store.blob_path(&pack.digest)));
    packs.collect()
}

/// The status of an answer, and its body as far as it comes.
fn ask(address: &str, path: &str, more: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).unwrap();
    let header =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(header.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.unwrap() + 4);
    let status = std::str::from_utf8(&answer[9..12]).unwrap();
    (status.parse().unwrap(), body)
}

/// Waits until the daemon knows which packs its images have.
fn wait_for(address: &str, pack: &Digest) {
    for _ in 0..200 {
        if ask(address, &format!("/blobs/sha256/{pack}"), "").0 == 200 {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{pack} is not given out");
}

#[test]
fn images_that_share_chunks_come_from_a_daemon_as_from_a_plain_server() {
    let root = tempfile::tempdir().unwrap();
    let (shared, first, second) = (
        noise(1, 3_000_000),
        noise(2, 1_000_000),
        noise(3, 1_000_000),
    );
    let one = build(root.path(), "one", &[&shared, &first]);
    let two = build(root.path(), "two", &[&shared, &second]);
    let (daemon, address) = start(root);
    let packs = packs(&daemon.store(), &two);
    // What the second one has in common with the first lies in the first one's files.
    let (pack, file) = &packs[0];
    assert!(packs.len() == 1 && !file.exists(), "{packs:?}");
    wait_for(&address, pack);

    let path = format!("/blobs/sha256/{pack}");
    let (_, whole) = ask(&address, &path, "");
    assert_eq!(sha256(&whole), *pack);
    let part = 2_500_000..3_700_000;
    let more = format!("Range: bytes={}-{}\r\n", part.start, part.end - 1);
    let (status, body) = ask(&address, &path, &more);
    assert!(status == 206 && body == whole[part]);
    for path in ["/index.json", "/", "/blobs/sha256/../../index.json", "/tmp"] {
        assert_eq!(ask(&address, path, "").0, 404, "{path}");
    }

    let client = start_client(&address);
    for manifest in [&one, &two] {
        assert_eq!(client.succeed("pull", &[manifest]).trim_end(), manifest);
    }
    verify(&client);
    let status = client.status();
    let came = status.bytes_by_source[&format!("http://{address}")];
    assert!(came > 5_000_000, "{came}");
    assert_eq!(status.lying_sources, 0);
}

#[test]
fn what_is_damaged_or_gone_is_not_given_out() {
    let root = tempfile::tempdir().unwrap();
    let whole = build(root.path(), "whole", &[&noise(1, 1_000_000)]);
    let damaged = build(root.path(), "damaged", &[&noise(2, 1_000_000)]);
    let gone = build(root.path(), "gone", &[&noise(3, 1_000_000)]);
    let store = root.path().join("store");
    let pack_of = |manifest: &str| packs(&store, manifest).remove(0);
    let (sound, _) = pack_of(&whole);
    let (wrong, file) = pack_of(&damaged);
    let mut bytes = fs::read(&file).unwrap();
    bytes[700_000] ^= 1;
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let (missing, file) = pack_of(&gone);
    fs::remove_file(file).unwrap();
    let (_daemon, address) = start(root);
    wait_for(&address, &sound);
    for pack in [&wrong, &missing] {
        let path = format!("/blobs/sha256/{pack}");
        for more in ["", "Range: bytes=699000-700100\r\n", "Range: bytes=0-9\r\n"] {
            let (status, body) = ask(&address, &path, more);
            assert!(status == 404 && body.len() < 100, "{path} {more}");
        }
    }
    let client = start_client(&address);
    client.succeed("pull", &[&whole]);
    for manifest in [&damaged, &gone] {
        let failed = client.fail("pull", &["--timeout", "2", manifest]);
        assert!(failed.contains("nobody that can be reached"), "{failed}");
    }
    assert_eq!(client.status().lying_sources, 0);
}
