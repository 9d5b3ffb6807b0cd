// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images from archives and from images for containers, against what the real tools make of them.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::running::{build, fail, peerfs, succeed};
use rustix::process::{geteuid, kill_process, Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

/// A folder in the build's own, since /tmp may be of a kind that has no user attributes.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs a script in a folder.
fn shell(folder: &Path, script: &str) -> String {
    let mut process = Command::new("bash");
    process.current_dir(folder).args(["-euc", script]);
    String::from_utf8(succeed(&mut process)).unwrap()
}

fn has(program: &str) -> bool {
    let mut process = Command::new("sh");
    process.args(["-c", &format!("command -v {program}")]);
    process.output().is_ok_and(|output| output.status.success())
}

fn import(folder: &Path, source: impl AsRef<OsStr>, tag: &str, options: &[&str]) -> String {
    let mut process = peerfs(&folder.join("store"), "import");
    process.current_dir(folder).arg(source);
    let digest = succeed(process.args(["--tag", tag]).args(options));
    String::from_utf8(digest).unwrap().trim_end().to_owned()
}

fn import_fails(folder: &Path, source: impl AsRef<OsStr>, options: &[&str]) -> String {
    let mut process = peerfs(&folder.join("store"), "import");
    process.current_dir(folder).arg(source);
    let message = fail(process.args(["--tag", "refused"]).args(options)).1;
    assert!(is_empty(&folder.join("store/tmp")));
    let images = succeed(peerfs(&folder.join("store"), "images").arg("-q"));
    assert!(images.is_empty(), "{message}");
    message
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

/// The image that `peerfs build` makes of a tree.
fn built(folder: &Path, tree: &str) -> String {
    build(&folder.join(tree), &folder.join("store"), "built", &[])
}

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

/// Layers with all that one can do to another, as archives of Python's: `add(layer, name, ...)`.
const LAYERS: &str = r#"
import io, random, tarfile

class Layer:
    def __init__(self, name):
        self.archive = tarfile.open(name, "w", format=tarfile.PAX_FORMAT)
        self.add("./", "dir")
    def add(self, name, kind="file", content=b"", **fields):
        entry = tarfile.TarInfo(name)
        entry.mtime = fields.pop("mtime", 1000000000.5)
        entry.mode = fields.pop("mode", 0o755 if kind == "dir" else 0o644)
        entry.type = {"dir": tarfile.DIRTYPE, "file": tarfile.REGTYPE, "link": tarfile.LNKTYPE,
                      "symlink": tarfile.SYMTYPE, "fifo": tarfile.FIFOTYPE}[kind]
        for field, value in fields.items():
            setattr(entry, field, value)
        entry.size = len(content)
        self.archive.addfile(entry, io.BytesIO(content))
    def close(self):
        self.archive.close()

def dirs(layer, *names):
    for name in names:
        layer.add(name, "dir")

one = Layer("1.tar")
dirs(one, "usr", "usr/lib", "etc", "opaque", "opaque/below", "gone", "gone/deep", "late", "dir-to-file", "kept", "kept/sub")
one.add("usr/lib/libc", content=random.Random(1).randbytes(100000))
one.add("lib", "symlink", linkname="usr/lib")
one.add("absolute", "symlink", linkname="/usr/lib")
one.add("up", "symlink", linkname="../../../etc")
one.add("etc/passwd", content=b"root", uid=5, gid=6)
one.add("etc/shadow", content=b"secret")
one.add("etc/hidden", content=b"never to be seen" * 10000)
one.add("opaque/lower", content=b"lower")
one.add("opaque/below/lower", content=b"lower")
one.add("gone/deep/file", content=b"gone")
one.add("late/lower", content=b"lower")
one.add("dir-to-file/inside", content=b"inside")
one.add("file-to-dir", content=b"file")
one.add("link-to-dir", "symlink", linkname="etc")
one.add("linked", content=b"linked", mode=0o600)
one.add("kept/sub/lower", content=b"lower")
one.add("name", content=b"hidden, but linked")
one.close()

two = Layer("2.tar")
# Links on the way are followed within the tree.
two.add("lib/libm", content=b"two")
two.add("absolute/libabs", content=b"two")
two.add("up/libup", content=b"two")
# A link into the lower layer, one to what is hidden in this one, and one by way of a symbolic link.
two.add("other-name", "link", linkname="linked")
two.add("from-hidden", "link", linkname="name")
two.add(".wh.name")
two.add("by-symlink", "link", linkname="lib/libc")
two.add("etc/.wh.shadow")
two.add("etc/.wh.hidden")
two.add("etc/.wh.never-there")
two.add("gone", "dir")
two.add("gone/.wh.deep")
two.add("gone/new", content=b"new")
two.add("opaque", "dir", mode=0o700)
two.add("opaque/upper", content=b"upper")
# After what it must not remove.
two.add("opaque/.wh..wh..opq")
two.add("late/upper", content=b"upper")
two.add(".wh.late")
# umoci gives directories in which it removes or makes something a new time, unless they are listed after that.
two.add("late", "dir")
two.add("dir-to-file", content=b"file")
two.add("file-to-dir", "dir")
two.add("file-to-dir/inside", content=b"inside")
two.add("link-to-dir", "dir")
two.add("link-to-dir/inside", content=b"not in etc")
two.add("etc/passwd", content=b"changed", mtime=1234567890.25)
two.add("new-fifo", "fifo")
two.close()

three = Layer("3.tar")
three.add("etc/.wh.passwd")
three.add("etc/passwd", content=b"again")
three.add("kept/.wh.sub")
three.add("kept/sub/upper", content=b"upper")
dirs(three, "kept", "kept/sub")
three.add("linked", content=b"no more what the other name is")
three.close()
"#;

/// An OCI layout in `folder`/`layout` of three layers, called `name`.
pub fn make_layout(folder: &Path) {
    fs::write(folder.join("layers.py"), LAYERS).unwrap();
    shell(
        folder,
        "python3 layers.py
        umoci init --layout layout
        umoci new --image layout:name
        for layer in 1 2 3; do umoci raw add-layer --image layout:name $layer.tar; done
        umoci config --image layout:name --config.env A=b --config.entrypoint /bin/true --config.cmd x --config.user 7:8 \
            --config.workingdir /usr --config.label some=label --architecture arm64",
    );
}

pub fn is_skipped() -> bool {
    let lacks = !geteuid().is_root() || !has("umoci") || !has("skopeo");
    if lacks {
        eprintln!("skipped: not root, or no umoci or skopeo");
    }
    lacks
}

#[test]
fn layers_make_the_image_of_what_umoci_unpacks() {
    if is_skipped() {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    make_layout(folder);
    shell(folder, "umoci unpack --image layout:name bundle");
    let expected = built(folder, "bundle/rootfs");
    assert_eq!(import(folder, "layout", "x", &[]), expected);
    // What a higher layer hides is nowhere in the store.
    let mut new = Command::new("grep");
    new.current_dir(folder)
        .args(["-rla", "never to be seen", "store"]);
    assert_eq!(new.output().unwrap().stdout, b"");
    shell(
        folder,
        "for format in gzip zstd; do
            skopeo copy -q --dest-compress --dest-compress-format $format oci:layout:name oci:$format:name
        done
        skopeo copy -q oci:layout:name oci-archive:x.oci.tar:name
        skopeo copy -q oci:layout:name docker-archive:x.docker.tar:example.org/some/image:1
        gzip <x.docker.tar >x.docker.gz; zstd -q <x.oci.tar >x.oci.zst",
    );
    for (source, options) in [
        ("gzip", &[][..]),
        ("zstd", &["--image", "name"]),
        ("oci:layout:name", &[]),
        ("oci-archive:x.oci.tar:name", &[]),
        ("x.oci.tar", &["--platform", "linux/arm64"]),
        ("x.oci.zst", &[]),
        ("docker-archive:x.docker.tar:example.org/some/image:1", &[]),
        ("x.docker.tar", &["--format", "docker-archive"]),
        ("x.docker.gz", &[]),
    ] {
        assert_eq!(import(folder, source, "x", options), expected, "{source}");
    }
    let message = fail(
        peerfs(&folder.join("store"), "import")
            .current_dir(folder)
            .args(["x.docker.tar", "--image", "other", "--tag", "x"]),
    );
    assert!(
        message.1.contains("example.org/some/image:1"),
        "{}",
        message.1
    );
    let message = fail(
        peerfs(&folder.join("store"), "import")
            .current_dir(folder)
            .args(["layout", "--platform", "linux/s390x", "--tag", "x"]),
    );
    assert!(message.1.contains("linux/arm64"), "{}", message.1);
}

#[test]
fn an_image_keeps_its_configuration() {
    if is_skipped() {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    make_layout(folder);
    shell(folder, "umoci unpack --image layout:name bundle");
    built(folder, "bundle/rootfs");
    // The same files, and another configuration.
    import(folder, "layout", "imported", &[]);
    succeed(peerfs(&folder.join("store"), "tag").args(["imported", "renamed"]));
    succeed(peerfs(&folder.join("store"), "tag").args(["built", "bare"]));
    let config = |tag: &str| -> Value {
        let script = format!("skopeo --override-arch arm64 inspect --config oci:store:{tag}");
        serde_json::from_str(&shell(folder, &script)).unwrap()
    };
    for tag in ["imported", "renamed"] {
        let found = config(tag);
        assert_eq!(found["architecture"], "arm64");
        let found = &found["config"];
        assert!(
            found["Env"].as_array().unwrap().contains(&"A=b".into()),
            "{found}"
        );
        for (key, value) in [
            ("Entrypoint", serde_json::json!(["/bin/true"])),
            ("Cmd", serde_json::json!(["x"])),
            ("User", "7:8".into()),
            ("WorkingDir", "/usr".into()),
            ("Labels", serde_json::json!({"some": "label"})),
        ] {
            assert_eq!(found[key], value, "{key}");
        }
    }
}

#[test]
fn an_index_is_resolved_by_platform() {
    if is_skipped() {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    shell(
        folder,
        "mkdir amd64 arm64; echo amd64 >amd64/is; echo arm64 >arm64/is
        umoci init --layout layout
        for name in amd64 arm64; do
            umoci new --image layout:$name; umoci config --image layout:$name --architecture $name
            tar -cf layer.tar -C $name .; umoci raw add-layer --image layout:$name layer.tar
        done
        python3 - <<'END'
import hashlib, json
index = json.load(open('layout/index.json'))
for entry in index['manifests']:
    entry['platform'] = {'os': 'linux', 'architecture': entry.pop('annotations')['org.opencontainers.image.ref.name']}
text = json.dumps(index).encode()
digest = hashlib.sha256(text).hexdigest()
open('layout/blobs/sha256/' + digest, 'wb').write(text)
outer = {'schemaVersion': 2, 'manifests': [{'mediaType': 'application/vnd.oci.image.index.v1+json',
    'digest': 'sha256:' + digest, 'size': len(text),
    'annotations': {'org.opencontainers.image.ref.name': 'both'}}]}
open('layout/index.json', 'w').write(json.dumps(outer))
END",
    );
    let is = |tag: &str| succeed(peerfs(&folder.join("store"), "cat").args([tag, "/is"]));
    for name in ["amd64", "arm64"] {
        let platform = format!("linux/{name}");
        import(folder, "oci:layout:both", name, &["--platform", &platform]);
        assert_eq!(is(name), format!("{name}\n").as_bytes());
    }
    if cfg!(target_arch = "x86_64") {
        import(folder, "layout", "here", &[]);
        assert_eq!(is("here"), b"amd64\n");
    }
    let mut other = peerfs(&folder.join("store"), "import");
    other
        .current_dir(folder)
        .args(["layout", "--tag", "x", "--platform", "linux/s390x"]);
    let message = fail(&mut other).1;
    assert!(message.contains("linux/amd64, linux/arm64"), "{message}");
}

#[test]
fn a_layer_that_is_not_what_was_promised_is_refused() {
    if is_skipped() {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    make_layout(folder);
    let largest = "cd layout/blobs/sha256; ls -S | head -1";
    let layer = folder
        .join("layout/blobs/sha256")
        .join(shell(folder, largest).trim());
    let right = fs::read(&layer).unwrap();
    let refused = |content: &[u8]| {
        fs::write(&layer, content).unwrap();
        import_fails(folder, "layout", &[])
    };
    // Gzip has a checksum of its own, which is looked at first.
    let mut wrong = right.clone();
    wrong[50_000] ^= 1;
    let message = refused(&wrong);
    let expected = "can't decompress layout/blobs/sha256/";
    assert!(message.contains(expected), "{message}");
    let message = refused(&[&right[..], b"more"].concat());
    assert!(
        message.contains("it has more, and should have"),
        "{message}"
    );
    let message = refused(&right[..2000]);
    assert!(
        message.contains("it has 2000, and should have"),
        "{message}"
    );
    fs::remove_file(&layer).unwrap();
    let message = import_fails(folder, "layout", &[]);
    assert!(message.contains("No such file"), "{message}");
}

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
