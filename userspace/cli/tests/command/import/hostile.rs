// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Archives that are not what they should be, and imports that end early.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{folder, import, import_fails, is_empty, shell};
use crate::running::{peerfs, succeed};
use rustix::process::{kill_process, Pid, Signal};

/// A tar archive of entries: header blocks with whatever is to be wrong with them.
struct Archive(Vec<u8>);

impl Archive {
    fn new() -> Self {
        Archive(Vec::new())
    }

    fn entry(mut self, kind: u8, name: &[u8], link: &[u8], size: &str, content: &[u8]) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(b"0000644");
        block[124..124 + size.len()].copy_from_slice(size.as_bytes());
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(block);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &[u8]) -> Self {
        self.entry(b'0', name, b"", "5", b"hello")
    }

    fn pax(self, record: &[u8]) -> Self {
        let size = format!("{:o}", record.len());
        self.entry(b'x', b"pax", b"", &size, record)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

#[test]
fn hostile_archives_are_refused() {
    let folder = folder();
    let folder = folder.path();
    fs::create_dir(folder.join("outside")).unwrap();
    let new = Archive::new;
    let long = [b'a'; 100];
    for (archive, expected) in [
        (
            new().file(b"../outside/file").end(),
            "x.tar/../outside/file: no file can have such a name",
        ),
        (
            new().file(b"a/../../b").end(),
            "no file can have such a name",
        ),
        (
            new()
                .entry(b'1', b"name", b"../../etc/passwd", "", b"")
                .end(),
            "x.tar/name: it links to a file that is not there",
        ),
        (
            new().entry(b'1', b"name", b"/etc/passwd", "", b"").end(),
            "it links to a file that is not there",
        ),
        (
            new()
                .entry(b'5', b"dir", b"", "", b"")
                .entry(b'1', b"name", b"dir", "", b"")
                .end(),
            "not there",
        ),
        (
            new().file(b"a").file(b"a/b").end(),
            "x.tar/a/b: something on the way to it is no directory",
        ),
        (
            new()
                .entry(b'2', b"loop", b"loop", "", b"")
                .file(b"loop/b")
                .end(),
            "too many symbolic links",
        ),
        (
            new().entry(b'2', b"empty", b"", "", b"").end(),
            "bytes in its target",
        ),
        (new().file(b"").end(), "it has no name"),
        (
            new().file(b"./").entry(b'6', b".", b"", "", b"").end(),
            "the root is a directory",
        ),
        (
            new()
                .entry(b'0', b"file", b"", "77777777777", b"hello")
                .end(),
            "ends in the middle",
        ),
        (
            new().entry(b'0', b"file", b"", "8", b"").end(),
            "its size is no number",
        ),
        (
            new().entry(b'9', b"file", b"", "", b"").end(),
            "of a type that is not known",
        ),
        (new().file(b"file").0, "ends in the middle"),
        (
            new().file(b"file").end()[..700].to_vec(),
            "ends in the middle",
        ),
        (vec![b'x'; 2048], "checksum is wrong"),
        (Vec::new(), "ends in the middle"),
        (
            new().pax(b"14 size=99999\n").file(b"file").end(),
            "ends in the middle",
        ),
        (
            new().pax(b"11 uid=xyz\n").file(b"file").end(),
            "its owner is no number",
        ),
        (
            new().pax(b"18 uid=4294967296\n").file(b"file").end(),
            "x.tar/file, at byte",
        ),
        (
            new().pax(b"9 path=a").file(b"file").end(),
            "an extended header is not",
        ),
        (
            new()
                .pax(b"9 path=a\n")
                .pax(b"9 path=b\n")
                .file(b"file")
                .end(),
            "two extended headers",
        ),
        (
            new()
                .pax(b"9 path=a\n")
                .entry(b'L', b"", b"", "2", b"b\0")
                .file(b"file")
                .end(),
            "differently",
        ),
        (
            new().pax(b"9 path=a\n").end(),
            "an extended header has no entry",
        ),
        (
            new().entry(b'x', b"pax", b"", "77777777777", b"").end(),
            "more than a mebibyte",
        ),
        (
            new().entry(b'L', b"", b"", "144", &long).file(b"x").end(),
            "",
        ),
    ] {
        fs::write(folder.join("x.tar"), archive).unwrap();
        if expected.is_empty() {
            // What is not wrong is taken.
            import(folder, "x.tar", "right", &[]);
            succeed(peerfs(&folder.join("store"), "rm").arg("right"));
            continue;
        }
        let message = import_fails(folder, "x.tar", &[]);
        assert!(
            message.contains(expected),
            "{message}, which should say {expected:?}"
        );
        assert!(
            message.lines().count() == 1 && message.contains("x.tar"),
            "{message}"
        );
    }
    assert!(is_empty(&folder.join("outside")));
}

#[test]
fn bombs_are_refused() {
    let folder = folder();
    let folder = folder.path();
    shell(folder, "mkdir tree; truncate -s 3M tree/zeros; tar -c tree | gzip -9 >x.gz; tar -c tree | zstd -q19 >x.zst");
    for name in ["x.gz", "x.zst"] {
        let message = import_fails(folder, name, &["--max-size", "2M"]);
        assert!(
            message.contains("--max-size") && message.contains("2097152"),
            "{message}"
        );
    }
    shell(
        folder,
        "head -c 2000 x.gz >short.gz; tar -c tree | xz >x.xz; (cat x.gz; echo garbage) >more.gz",
    );
    assert!(import_fails(folder, "short.gz", &[]).contains("can't decompress short.gz"));
    assert!(import_fails(folder, "more.gz", &[]).contains("can't decompress more.gz"));
    assert!(import_fails(folder, "x.xz", &[]).contains("compressed by xz"));
}

#[test]
fn an_import_that_waits_can_be_interrupted() {
    let folder = folder();
    let store = folder.path().join("store");
    let mut process = Command::new("env");
    process
        .arg("--default-signal")
        .arg(env!("CARGO_BIN_EXE_peerfs"));
    process
        .args(["import", "-", "--tag", "x", "--root-dir"])
        .arg(&store);
    let mut child = process.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&Archive::new().file(b"file").0).unwrap();
    while !store.join("index.json").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(2)
    );
    assert!(is_empty(&store.join("tmp")));
    drop(input);
}
