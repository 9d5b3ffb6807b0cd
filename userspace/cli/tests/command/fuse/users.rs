// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mounts by ordinary users, and in user namespaces.

use std::process::{Command, Output};

use super::{can_mount, is_mounted, Mounted};
use crate::fixture::Fixture;
use crate::running::{public_copy, succeed};

/// Begins in a mount namespace of its own, whose `/dev/fuse` is for everybody, and goes on as an ordinary user.
const AS_USER: &str = "set -e
mount -t tmpfs -o mode=755 none \"$4\"
mknod -m 666 \"$4/fuse\" c 10 229
mount --bind \"$4/fuse\" /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -e -c \"$0\" \"$@\"";

/// What a script of an ordinary user says: `$0` is the program, `$1` a store with an image, `$2` where to mount it.
fn output(fixture: &Fixture, script: &str) -> Output {
    let folder = fixture.folder.path();
    let program = public_copy(folder);
    let mounted = Mounted::at(&folder.join("mount"));
    let devices = Mounted::at(&folder.join("devices"));
    let mut chown = Command::new("chown");
    succeed(chown.args(["-R", "65534:65534"]).arg(folder));
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", AS_USER, script]);
    shell.arg(program).arg(fixture.store()).arg(&mounted.0);
    let output = shell.arg(&devices.0).output().unwrap();
    assert!(!is_mounted(&mounted.0));
    output
}

#[test]
fn an_ordinary_user_mounts_and_unmounts_by_the_helper() {
    if !can_mount() {
        return;
    }
    if Command::new("fusermount3").arg("-V").output().is_err() {
        eprintln!("skipped: there is no fusermount3");
        return;
    }
    let fixture = Fixture::new();
    let script = "\"$0\" mount --fuse --root-dir \"$1\" image \"$2\"
        cat \"$2/file\"
        grep -q \" $2 fuse.peerfs ro,nosuid,nodev,\" /proc/self/mounts
        \"$0\" umount \"$2\"
        ! grep -q \" $2 fuse\" /proc/self/mounts";
    let output = output(&fixture, script);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stdout == fixture.content);
}

#[test]
fn in_a_user_namespace_it_is_mounted_without_a_helper() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    let script = "unshare --user --map-root-user true || exit 77
        exec unshare --user --map-root-user --mount sh -e -c '
            PATH=/none \"$0\" mount --fuse -o noexec --root-dir \"$1\" image \"$2\"
            cat \"$2/file\"
            grep -q \" $2 fuse.peerfs ro,noexec\" /proc/self/mounts
            \"$0\" umount \"$2\"' \"$0\" \"$@\"";
    let output = output(&fixture, script);
    if output.status.code() == Some(77) {
        eprintln!("skipped: users may have no namespaces");
        return;
    }
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stdout == fixture.content);
}
