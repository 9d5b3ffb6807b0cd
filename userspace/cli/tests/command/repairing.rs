// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A damaged store that a daemon mends.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::{change, Fixture};
use crate::running::{build, fail, peerfs, succeed, Daemon};
use peerfs_format::Digest;

/// Starts a daemon over the store of a fixture, which has another one as its source.
fn daemon(fixture: &Fixture, copy: &Path) -> Daemon {
    let source = format!("[[source]]\ndirectory = {copy:?}\n");
    Daemon::start(fixture.folder.path(), &fixture.store(), &source, "")
}

fn repair(fixture: &Fixture) -> Command {
    let mut process = peerfs(&fixture.store(), "verify");
    process
        .arg("--repair")
        .arg("--socket")
        .arg(fixture.folder.path().join("socket"));
    process
}

#[test]
fn what_is_damaged_is_fetched_again() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path();
    let copy = folder.join("copy");
    succeed(Command::new("cp").arg("-a").arg(fixture.store()).arg(&copy));
    let manifest = fixture.read_manifest().1;
    let (pack, _) = fixture.pack();
    let damage = |digest: &Digest| {
        change(&fixture.blob(digest), |bytes| bytes[100] ^= 1);
    };
    damage(&pack.digest);
    let (_, message) = fail(&mut repair(&fixture));
    assert!(message.contains("can't reach peerfsd"), "{message}");

    let _daemon = daemon(&fixture, &copy);
    succeed(&mut repair(&fixture));
    for digest in [pack.index_digest, manifest.blob_table, pack.digest] {
        damage(&digest);
        succeed(&mut repair(&fixture));
        succeed(peerfs(&fixture.store(), "verify").arg("--complete"));
    }
}

#[test]
fn a_pack_that_lies_in_several_files_is_mended() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path();
    let mut content = fixture.content.clone();
    content[400_000..400_010].copy_from_slice(b"ten bytes!");
    fs::write(fixture.tree().join("file"), &content).unwrap();
    build(&fixture.tree(), &fixture.store(), "edited", &[]);
    // Its pack has chunks in that of the other image, and in a file beside it.
    let mut files = fs::read_dir(fixture.store().join("loose")).unwrap();
    let loose = files.next().unwrap().unwrap().path();
    let copy = folder.join("copy");
    succeed(Command::new("cp").arg("-a").arg(fixture.store()).arg(&copy));
    succeed(peerfs(&copy, "tag").args(["--whole", "edited", "edited"]));
    let _daemon = daemon(&fixture, &copy);
    // The daemon has seen once that it is right.
    let mut pull = Command::new(env!("CARGO_BIN_EXE_peerfs"));
    pull.args(["pull", "edited", "--socket"]);
    succeed(pull.arg(folder.join("socket")));
    change(&loose, |bytes| bytes[100] ^= 1);
    fail(&mut peerfs(&fixture.store(), "verify"));
    succeed(&mut repair(&fixture));
    succeed(peerfs(&fixture.store(), "verify").arg("--complete"));
}
