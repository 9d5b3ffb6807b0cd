// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images for containers, against what umoci and skopeo make of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{built, folder, has, import, import_fails, shell};
use crate::running::{fail, peerfs, succeed};
use rustix::process::geteuid;
use serde_json::Value;

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
