// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keys of private swarms.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::running::{fail, peerfs, succeed};

fn key(arguments: &[&str], file: &Path) -> Command {
    let mut process = peerfs(Path::new("/nonexistent"), "key");
    process.arg("swarm").args(arguments).arg(file);
    process
}

#[test]
fn a_key_is_made_once_and_shown_by_its_fingerprint_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("swarm.key");
    let output = key(&[], &file).output().unwrap();
    let fingerprint = String::from_utf8(output.stdout).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("swarm.key has the new key"));
    assert_eq!(fingerprint.trim_end().len(), 32, "{fingerprint}");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);

    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [kind, encoding, digits] = lines[..] else {
        panic!("{} lines", lines.len());
    };
    assert_eq!((kind, encoding), ("/key/swarm/psk/1.0.0/", "/base16/"));
    assert!(digits.len() == 64 && !told.contains(digits) && !fingerprint.contains(digits));

    let shown = succeed(&mut key(&["--show"], &file));
    assert_eq!(shown, fingerprint.as_bytes());
    let (_, message) = fail(&mut key(&[], &file));
    assert!(message.contains("never written over"), "{message}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_is_no_key_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("swarm.key");
    let (_, message) = fail(&mut key(&["--show"], &file));
    assert!(message.contains("`peerfs key swarm`"), "{message}");
    succeed(&mut key(&[], &file));
    fs::write(&file, "/key/swarm/psk/1.0.0/\n/base16/\nsecret\n").unwrap();
    let (_, message) = fail(&mut key(&["--show"], &file));
    assert!(
        message.contains("64 hexadecimal digits") && !message.contains("secret"),
        "{message}"
    );
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let (_, message) = fail(&mut key(&["--show"], &file));
    assert!(message.contains("chmod 600"), "{message}");
    let (_, message) = fail(&mut key(&[], &folder.path().join("none/swarm.key")));
    assert!(message.contains("can't write the swarm key"), "{message}");
}
