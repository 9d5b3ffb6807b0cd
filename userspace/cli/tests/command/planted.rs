// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A store in which somebody has put something else in the place of its files: no command waits for it, and
//! none follows it out of the store.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::Fixture;
use crate::running::{output_soon, peerfs};
use rustix::fs::{mkfifoat, Mode, CWD};

/// The files and directories of the fixture's store.
fn places(fixture: &Fixture) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = [
        "oci-layout",
        "index.json",
        "blobs",
        "blobs/sha256",
        "partial",
        "tmp",
    ]
    .map(|name| fixture.store().join(name))
    .to_vec();
    places.extend(fixture.blobs().iter().map(|blob| fixture.blob(blob)));
    places
}

fn commands(fixture: &Fixture) -> Vec<Command> {
    let store = fixture.store();
    let digest = fixture.manifest.to_string();
    let process = |command: &str, arguments: &[&str]| {
        let mut process = peerfs(&store, command);
        process.args(arguments);
        process
    };
    let tree = fixture.tree();
    let tree = tree.to_str().unwrap();
    vec![
        process("ls", &["-lR", "image"]),
        process("cat", &[&digest, "/file"]),
        process("verify", &["--complete"]),
        process("build", &[tree, "--tag", "x", "--base", &digest]),
    ]
}

/// Puts something in a place, runs all commands, and puts back what was there.
fn with_planted(fixture: &Fixture, place: &Path, plant: impl Fn(&Path)) {
    let aside = fixture.folder.path().join("aside");
    for mut process in commands(fixture) {
        fs::rename(place, &aside).unwrap();
        plant(place);
        let output = output_soon(&mut process);
        let status = output.status.code();
        assert!(matches!(status, Some(0 | 1)), "{process:?}: {output:?}");
        // A build may have replaced it.
        if fs::symlink_metadata(place).is_ok_and(|metadata| metadata.is_dir()) {
            fs::remove_dir_all(place).unwrap();
        } else {
            let _ = fs::remove_file(place);
        }
        fs::rename(&aside, place).unwrap();
    }
}

#[test]
fn nobody_waits_for_what_is_planted() {
    let fixture = Fixture::new();
    for place in places(&fixture) {
        with_planted(&fixture, &place, |place| {
            mkfifoat(CWD, place, Mode::from_raw_mode(0o666)).unwrap();
        });
        with_planted(&fixture, &place, |place| {
            drop(UnixListener::bind(place));
        });
        with_planted(&fixture, &place, |place| fs::create_dir(place).unwrap());
    }
}

#[test]
fn nobody_follows_what_is_planted() {
    let fixture = Fixture::new();
    let outside = fixture.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let file = outside.join("file");
    for place in places(&fixture) {
        let is_directory = place.is_dir();
        fs::write(&file, "outside").unwrap();
        with_planted(&fixture, &place, |place| {
            symlink(if is_directory { &outside } else { &file }, place).unwrap();
        });
        assert_eq!(fs::read(&file).unwrap(), b"outside", "{}", place.display());
        assert_eq!(
            fs::read_dir(&outside).unwrap().count(),
            1,
            "{}",
            place.display()
        );
    }
}
