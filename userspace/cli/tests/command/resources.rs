// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the system refuses is an error, and never a panic (which has the status 101).

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::fixture::Fixture;
use crate::running::{
    build, drop_privileges, helper, limited, output_soon, peerfs, public_copy, succeed,
};
use rustix::fs::{mkdirat, open, openat, Mode, OFlags};

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[test]
fn threads_have_a_limit() {
    let fixture = Fixture::new();
    for number in ["0", "1025", "100000", "99999999999999999999", "x"] {
        let mut process = peerfs(&fixture.store(), "build");
        process
            .arg(fixture.tree())
            .args(["--tag", "x", "--threads", number]);
        let output = output_soon(&mut process);
        assert_eq!(output.status.code(), Some(2), "{number}");
    }
    build(
        &fixture.tree(),
        &fixture.store(),
        "x",
        &["--threads", "200"],
    );
}

#[test]
fn threads_may_be_refused() {
    let fixture = Fixture::new();
    let program = public_copy(fixture.folder.path());
    let run = |limit: u32, command: &str, arguments: &[&Path]| {
        let mut process = limited(&program, &format!("-u {limit}"));
        drop_privileges(&mut process);
        let output = output_soon(process.arg(command).args(arguments));
        let message = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), message)
    };
    let another = fixture.folder.path().join("another");
    let arguments = ["--tag", "x", "--threads", "4", "--root-dir"].map(Path::new);
    let tree = fixture.tree();
    let arguments = [&[tree.as_path()], &arguments[..], &[&another]].concat();
    // Whichever of the threads it is, the others end.
    for limit in 1..12 {
        match run(limit, "build", &arguments) {
            (Some(1), message) => assert!(message.contains("can't start a thread"), "{message}"),
            (status, message) => assert!(limit > 1 && status == Some(0), "{limit}: {message}"),
        }
    }
    let (status, message) = run(1, "verify", &["--root-dir".as_ref(), &fixture.store()]);
    assert_eq!(status, Some(0), "{message}");
}

#[test]
fn few_files_are_open_at_once() {
    let fixture = Fixture::new();
    // Whoever reads is busy with the first for a while, and the walk goes on.
    fs::write(fixture.tree().join("0"), fixture.content.repeat(30)).unwrap();
    for number in 1..1000 {
        let directory = fixture.tree().join(format!("d{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), number.to_string()).unwrap();
    }
    make_deep(&fixture.tree(), 300);
    let program = Path::new(env!("CARGO_BIN_EXE_peerfs"));
    let mut process = limited(program, "-n 200");
    process
        .arg("build")
        .arg(fixture.tree())
        .args(["--threads", "2"]);
    let store = fixture.folder.path().join("another");
    let digest = succeed(process.args(["--tag", "x", "--root-dir"]).arg(&store));
    // It is what it is without the limit, too.
    let expected = build(&fixture.tree(), &fixture.store(), "x", &[]);
    assert_eq!(String::from_utf8(digest).unwrap().trim_end(), expected);
    let listed = succeed(peerfs(&store, "ls").args(["-R", "x"]));
    let names = String::from_utf8(listed).unwrap();
    assert_eq!(names.lines().count(), 2 + 2 * 999 + 2 * 300);
    // Too deep for this process.
    succeed(Command::new("rm").arg("-rf").arg(fixture.tree()));
}

/// Makes directories in each other, with a file in each.
fn make_deep(tree: &Path, depth: usize) {
    let mut directory = open(tree, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&directory, "deep", Mode::RWXU).unwrap();
        directory = openat(&directory, "deep", OFlags::DIRECTORY, Mode::empty()).unwrap();
        let flags = OFlags::CREATE | OFlags::WRONLY;
        openat(&directory, "file", flags, Mode::RUSR).unwrap();
    }
}

#[test]
fn nobody_need_listen() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let mut process = peerfs(&store, "build");
    process
        .arg(fixture.tree())
        .args(["--tag", "x"])
        .stderr(full());
    assert_eq!(succeed(&mut process).len(), 65);
    let mut helper = helper(&store);
    helper.args(["-v", "-f", "none"]).arg(fixture.tree());
    for (process, status) in [
        (peerfs(&store, "ls").arg("none"), 1),
        (&mut peerfs(&store, "ls"), 2),
        (peerfs(&store, "status").args(["--socket", "/none"]), 1),
        (&mut helper, 32),
    ] {
        let child = process.stderr(full()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{process:?}");
    }
}

#[test]
fn what_can_not_be_printed_is_an_error() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let mut helper = helper(&store);
    helper.args(["-v", "-f", "image"]).arg(fixture.tree());
    for (process, status) in [
        (peerfs(&store, "ls").arg("image"), 1),
        (peerfs(&store, "cat").args(["image", "file"]), 1),
        (&mut peerfs(&store, "verify"), 1),
        (
            peerfs(&store, "build")
                .arg(fixture.tree())
                .args(["--tag", "x"]),
            1,
        ),
        (peerfs(&store, "build").arg("--help"), 1),
        (&mut helper, 32),
    ] {
        let process = process.stdout(full()).stderr(Stdio::piped());
        let output = process.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{process:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("can't write the output"), "{message}");
    }
    // It was built nevertheless.
    succeed(peerfs(&store, "ls").arg("x"));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let fixture = Fixture::new();
    let mut process = peerfs(&fixture.store(), "cat");
    process
        .args(["image", "file"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = process.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
