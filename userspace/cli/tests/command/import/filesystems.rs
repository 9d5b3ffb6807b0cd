// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of filesystems, against what they were made of.

use std::fs;
use std::path::Path;

use super::{built, folder, has, import, import_fails, shell};
use crate::running::{peerfs, succeed};
use rustix::process::geteuid;

/// A tree with all that both formats can hold, in `folder`/`tree`.
fn make_tree(folder: &Path) {
    shell(
        folder,
        "mkdir -p tree/bin tree/empty tree/deep/er
        seq 100000 >tree/deep/er/text
        head -c 300000 /dev/urandom >tree/random
        : >tree/nothing
        truncate -s 3M tree/holes; echo end >>tree/holes
        echo setuid >tree/bin/setuid; chown 1000:1001 tree/bin/setuid; chmod 4755 tree/bin/setuid
        ln tree/bin/setuid tree/deep/hard-link
        ln -s ../bin/setuid tree/deep/link; ln -s /nowhere tree/dangling
        mknod tree/null c 1 3; mknod tree/disk b 7 300; mkfifo tree/fifo
        printf 'odd name' >$'tree/a\\nb'
        for number in $(seq 300); do echo $number >tree/deep/$number; done
        setfattr -n user.comment -v hello tree/random
        setfattr -n trusted.secret -v 1 tree/deep
        setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 tree/bin/setuid
        chmod 700 tree/empty; chmod 1777 tree
        find tree -exec touch -h -d @1234567890 {} +",
    );
}

fn is_skipped(programs: &[&str]) -> bool {
    let lacks = !geteuid().is_root() || !programs.iter().all(|program| has(program));
    if lacks {
        eprintln!("skipped: not root, or not there: {programs:?}");
    }
    lacks
}

#[test]
fn squashfs_makes_the_image_of_what_is_in_it() {
    if is_skipped(&["mksquashfs", "unsquashfs", "sqfs2tar"]) {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    make_tree(folder);
    let expected = built(folder, "tree");
    for compression in ["gzip", "xz", "lz4", "zstd"] {
        let file = format!("{compression}.img");
        shell(
            folder,
            &format!("mksquashfs tree {file} -quiet -no-progress -comp {compression} >&2"),
        );
        assert_eq!(import(folder, &file, "x", &[]), expected, "{compression}");
    }
    shell(
        folder,
        "unsquashfs -quiet -no-progress -d unpacked zstd.img >&2",
    );
    assert_eq!(built(folder, "unpacked"), expected);
    // As a file that is open already, and by what somebody says that it is.
    let mut process = peerfs(&folder.join("store"), "import");
    let image = fs::File::open(folder.join("zstd.img")).unwrap();
    let process = process.args(["-", "--tag", "x", "--format", "squashfs"]);
    let digest = succeed(process.stdin(image));
    assert_eq!(String::from_utf8(digest).unwrap().trim(), expected);
}

#[test]
fn squashfs_that_is_damaged_leaves_nothing_behind() {
    if is_skipped(&["mksquashfs", "sqfs2tar"]) {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    make_tree(folder);
    shell(folder, "mksquashfs tree whole -quiet -no-progress >&2");
    let whole = fs::read(folder.join("whole")).unwrap();
    let refused = |content: &[u8]| {
        fs::write(folder.join("image"), content).unwrap();
        import_fails(folder, "image", &[])
    };
    for length in [4, 96, 1000, whole.len() / 2, whole.len() - 4096] {
        let message = refused(&whole[..length]);
        assert!(message.contains("sqfs2tar says"), "{length}: {message}");
    }
    // The place of the table of inodes, and the size of a block.
    for place in [64, 12] {
        let mut wrong = whole.clone();
        wrong[place..place + 4].fill(0xfe);
        let message = refused(&wrong);
        assert!(message.contains("sqfs2tar says"), "{place}: {message}");
    }
    let message = import_fails(folder, "whole", &["--max-size", "100k"]);
    assert!(message.contains("102400 bytes"), "{message}");
    let message = import_fails(folder, "whole", &["--image", "x"]);
    assert!(message.contains("choose nothing"), "{message}");
}

#[test]
fn erofs_makes_the_image_of_what_is_in_it() {
    let loops = Path::new("/dev/loop-control").exists();
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if is_skipped(&["mkfs.erofs"]) || !loops || !filesystems.contains("\terofs\n") {
        eprintln!("skipped: no loop devices, or no EROFS in the kernel");
        return;
    }
    let folder = folder();
    let folder = folder.path();
    make_tree(folder);
    let expected = built(folder, "tree");
    for (file, options) in [
        ("plain", ""),
        ("lz4", "-zlz4hc -C65536 -Eztailpacking,fragments"),
    ] {
        shell(folder, &format!("mkfs.erofs {options} {file} tree >&2"));
        assert_eq!(import(folder, file, "x", &[]), expected, "{file}");
    }
    fs::remove_dir_all(folder.join("store")).unwrap();
    let whole = fs::read(folder.join("lz4")).unwrap();
    let refused = |content: &[u8]| {
        fs::write(folder.join("image"), content).unwrap();
        import_fails(folder, "image", &[])
    };
    for length in [1100, whole.len() / 2] {
        let message = refused(&whole[..length]);
        assert!(message.contains("image"), "{length}: {message}");
    }
    // The size of a block.
    let mut wrong = whole.clone();
    wrong[1024 + 12] = 63;
    let message = refused(&wrong);
    assert!(message.contains("can't import image"), "{message}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(" - erofs /dev/loop"), "{mounts}");
}
