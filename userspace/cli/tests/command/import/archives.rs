// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tar archives, against what the real tools unpack of them.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{built, folder, import, import_fails, shell};
use crate::running::{peerfs, succeed};
use rustix::process::geteuid;

/// All that an archive can have: also times, numbers and names that old formats have no room for.
const TREE: &str = r#"
    mkdir -p tree/etc tree/empty tree/usr/bin
    long=$(printf 'n%.0s' {1..120})
    mkdir -p "tree/$long/$long"
    echo long >"tree/$long/$long/$long"
    printf 'root:x:0:0::/:/bin/sh\n' >tree/etc/passwd
    head -c 300000 /dev/urandom >tree/usr/bin/program
    : >tree/none
    truncate -s 9M tree/sparse
    for place in 1 3 5 7 100 200 300 400 500 600 700 800 900 1000 1100 1200 1300 1400 1500 1600 1700 1800; do
        printf %04d $place | dd of=tree/sparse bs=4096 seek=$place conv=notrunc status=none
    done
    truncate -s 3M tree/hole
    ln tree/usr/bin/program tree/usr/bin/again
    ln -s /etc/passwd tree/absolute
    ln -s "$long/$long/$long" tree/relative
    ln tree/relative tree/another
    chmod 4711 tree/usr/bin/program
    chmod 1777 tree/empty
    chmod 600 tree/etc/passwd
    touch -d '2001-02-03 04:05:06.123456789' tree/etc/passwd
    touch -d '1901-12-13 20:45:52' tree/none
    touch -hd '1999-01-01 00:00:00' tree/relative
    setfattr -n user.comment -v 'a value' tree/etc/passwd
    setfattr -n user.directory -v '' tree/etc
"#;
const TREE_OF_ROOT: &str = r#"
    mkfifo tree/fifo
    mknod tree/null c 1 3
    mknod tree/disk b 259 70000
    chown 3000000:4000000 tree/empty
    chown -h 1000:1001 tree/relative
    setfacl -m u:1000:rx,g:5:- tree/etc/passwd
    setfacl -d -m u:1000:rwx tree/etc
"#;

fn make_tree(folder: &Path) {
    shell(folder, TREE);
    if geteuid().is_root() {
        shell(folder, TREE_OF_ROOT);
    }
    shell(folder, "touch -d @1000000000 tree");
}

#[test]
fn an_archive_of_all_there_is_makes_the_image_of_its_tree() {
    let folder = folder();
    let folder = folder.path();
    make_tree(folder);
    let expected = built(folder, "tree");
    let all = "--numeric-owner --xattrs --xattrs-include=* --acls -C tree .";
    for version in ["0.0", "0.1", "1.0"] {
        let script =
            format!("tar -c --format=posix --sparse --sparse-version={version} {all} >x.tar");
        shell(folder, &script);
        assert_eq!(
            import(folder, "x.tar", "x", &[]),
            expected,
            "sparse {version}"
        );
    }
    for (command, name) in [
        ("gzip -1 <x.tar", "x.gz"),
        ("zstd -q <x.tar", "x.zst"),
        // Several members make one, and so do frames.
        (
            "(head -c 100000 x.tar | gzip; tail -c +100001 x.tar | gzip)",
            "x2.gz",
        ),
        (
            "(head -c 100000 x.tar | zstd -q; tail -c +100001 x.tar | zstd -q)",
            "x2.zst",
        ),
    ] {
        shell(folder, &format!("{command} >{name}"));
        assert_eq!(import(folder, name, "x", &[]), expected, "{name}");
        let mut process = peerfs(&folder.join("store"), "import");
        process.args(["-", "--tag", "x"]);
        process.stdin(fs::File::open(folder.join(name)).unwrap());
        let piped = String::from_utf8(succeed(&mut process)).unwrap();
        assert_eq!(piped.trim_end(), expected, "{name} from the standard input");
    }
    let store = folder.join("store");
    shell(
        folder,
        &format!(
            "cat x.tar | {} import - --tag piped --root-dir store",
            env!("CARGO_BIN_EXE_peerfs")
        ),
    );
    let images = String::from_utf8(succeed(&mut peerfs(&store, "images"))).unwrap();
    let piped = images
        .lines()
        .find(|line| line.starts_with("piped "))
        .unwrap();
    assert!(piped.ends_with(&expected), "{images}");
    succeed(&mut peerfs(&store, "verify"));
}

#[test]
fn an_archive_makes_the_image_of_what_is_unpacked() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can unpack all of it");
        return;
    }
    let folder = folder();
    let folder = folder.path();
    make_tree(folder);
    let python = "python3 -c 'import sys, tarfile
with tarfile.open(sys.argv[2], \"w\", format=getattr(tarfile, sys.argv[1])) as archive:
    archive.add(\"tree\", \".\")'";
    // The oldest has no room for some of it.
    let old = "rm -rf tree/n* tree/another tree/relative && chown 1:1 tree/empty && touch -d @0 tree/none tree";
    for (make, unpack) in [
        ("tar -c --format=gnu --sparse --numeric-owner -C tree . >x.tar", "tar -x"),
        ("tar -c --format=oldgnu --sparse --numeric-owner -C tree . >x.tar", "tar -x"),
        ("bsdtar -c --format=pax --numeric-owner -f x.tar -C tree .", "bsdtar -x"),
        ("bsdtar -c --format=gnutar --numeric-owner -f x.tar -C tree .", "bsdtar -x"),
        (&*format!("{python} PAX_FORMAT x.tar"), "tar -x"),
        (&format!("{python} GNU_FORMAT x.tar"), "tar -x"),
        (&format!("{old}; tar -c --format=ustar --numeric-owner -C tree . >x.tar"), "tar -x"),
        ("tar -c --format=v7 --numeric-owner --exclude=./fifo --exclude=./null --exclude=./disk -C tree . >x.tar", "tar -x"),
    ] {
        shell(folder, make);
        let script = format!(
            "rm -rf unpacked; mkdir unpacked
            {unpack} -p --numeric-owner --xattrs --acls -C unpacked -f x.tar
            # bsdtar leaves the root's time.
            touch -r tree unpacked"
        );
        let script = match unpack {
            "tar -x" => script.replace("--xattrs", "--xattrs --xattrs-include=*"),
            _ => script,
        };
        shell(folder, &script);
        let expected = built(folder, "unpacked");
        assert_eq!(import(folder, "x.tar", "x", &[]), expected, "{make}");
    }
}

#[test]
fn the_format_can_be_said() {
    let folder = folder();
    let folder: PathBuf = folder.path().to_owned();
    shell(
        &folder,
        "mkdir -p tree/blobs; echo '{\"imageLayoutVersion\":\"1.0.0\"}' >tree/oci-layout
        echo '{\"schemaVersion\":2,\"manifests\":[]}' >tree/index.json; tar -cf x.tar --format=posix -C tree .",
    );
    let message = import_fails(&folder, "x.tar", &[]);
    assert!(message.contains("there is no image"), "{message}");
    let message = import_fails(&folder, "x.tar", &["--format", "tar", "--image", "x"]);
    assert!(message.contains("choose nothing"), "{message}");
    let message = import_fails(&folder, "tree", &["--format", "tar"]);
    assert!(message.contains("it is a directory"), "{message}");
    assert_eq!(
        import(&folder, "x.tar", "x", &["--format", "tar"]),
        built(&folder, "tree")
    );
}

#[test]
fn the_standard_input_is_read_from_where_it_is() {
    let folder = folder();
    let script = "mkdir tree && echo content > tree/file && tar -C tree -cf tree.tar . \
                  && (head -c 1000 /dev/zero; cat tree.tar) > later.tar";
    shell(folder.path(), script);
    let expected = import(folder.path(), "tree.tar", "tree", &[]);
    let mut file = File::open(folder.path().join("later.tar")).unwrap();
    file.seek(SeekFrom::Start(1000)).unwrap();
    let mut process = peerfs(&folder.path().join("store"), "import");
    let digest = succeed(process.args(["-", "--tag", "later"]).stdin(file));
    assert_eq!(String::from_utf8(digest).unwrap().trim_end(), expected);
}

#[test]
fn who_waits_for_a_pipe_is_ended_by_a_signal() {
    let folder = folder();
    shell(folder.path(), "mkfifo pipe");
    let mut process = peerfs(&folder.path().join("store"), "import");
    process
        .arg(folder.path().join("pipe"))
        .args(["--tag", "pipe"]);
    let mut shell = Command::new("timeout");
    // A second signal would end it in any case.
    shell
        .args(["--signal=INT", "--kill-after=10", "2"])
        .arg(process.get_program())
        .args(process.get_args());
    let envs = process.get_envs();
    shell.envs(envs.filter_map(|(name, value)| Some((name, value?))));
    // 124 if the signal ended it, 137 if nothing else did.
    let status = shell.status().unwrap();
    assert_eq!(status.code(), Some(124), "{status:?}");
}
