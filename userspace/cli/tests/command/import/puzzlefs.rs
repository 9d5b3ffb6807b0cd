// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of PuzzleFS, written here by Cap'n Proto's own encoder from its schema.

use std::fs;
use std::path::Path;

use super::{built, folder, has, import, import_fails, shell};
use rustix::process::geteuid;

/// Writes an image of `tree` to the layout `layout`; what is in `change.py` may change its inodes before that.
const GENERATOR: &str = r#"
import hashlib, json, os, stat, subprocess, sys

os.makedirs("layout/blobs/sha256", exist_ok=True)
def blob(data):
    digest = hashlib.sha256(data).hexdigest()
    open("layout/blobs/sha256/" + digest, "wb").write(data)
    return digest
def data(value):
    return '0x"' + value.hex() + '"' if value else '""'

inodes, numbers, stream = {}, {}, b""
def add(path):
    global stream
    status = os.lstat(path)
    number = numbers.setdefault((status.st_dev, status.st_ino), len(numbers) + 1)
    if number in inodes:
        return number
    kind, target = stat.S_IFMT(status.st_mode), b""
    inode = inodes[number] = {"ino": number, "uid": status.st_uid, "gid": status.st_gid,
        "permissions": stat.S_IMODE(status.st_mode)}
    if kind == stat.S_IFDIR:
        entries = [(os.fsencode(name), add(os.path.join(path, name))) for name in sorted(os.listdir(path))]
        inode["entries"] = entries
    elif kind == stat.S_IFREG:
        content = open(path, "rb").read()
        inode["range"] = (len(stream), len(content))
        stream += content
    elif kind == stat.S_IFLNK:
        target = os.fsencode(os.readlink(path))
        inode["mode"] = "(lnk = void)"
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        number_of = f"(major = {os.major(status.st_rdev)}, minor = {os.minor(status.st_rdev)})"
        inode["mode"] = f"({'chr' if kind == stat.S_IFCHR else 'blk'} = {number_of})"
    else:
        inode["mode"] = "(fifo = void)" if kind == stat.S_IFIFO else "(sock = void)"
    names = os.listxattr(path, follow_symlinks=False)
    xattrs = [(os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in names]
    inode["additional"] = "(xattrs = [%s], symlinkTarget = %s)" % (
        ", ".join(f"(key = {data(key)}, val = {data(value)})" for key, value in xattrs), data(target))
    return number
assert add("tree") == 1

CHUNK, chunks = 70000, []
for number, start in enumerate(range(0, len(stream), CHUNK)):
    content = stream[start:start + CHUNK]
    compressed = number % 2 == 0
    if compressed:
        # Frames, and behind them one that is to be skipped.
        run = lambda part: subprocess.run(["zstd", "-qc"], input=part, capture_output=True, check=True).stdout
        content = b"".join(run(content[at:at + 4096]) for at in range(0, len(content), 4096))
        content += b"\x5e\x2a\x4d\x18\x04\x00\x00\x00abcd"
    chunks.append((blob(content), compressed))
def pieces(start, length):
    while length:
        inside = start % CHUNK
        part = min(length, CHUNK - inside)
        digest, compressed = chunks[start // CHUNK]
        yield digest, inside, part, compressed
        start, length = start + part, length - part
for inode in inodes.values():
    if "range" in inode:
        inode["pieces"] = list(pieces(*inode["range"]))
    inode["layer"] = 0

version = 3
if os.path.exists("change.py"):
    exec(open("change.py").read())

def written(inode):
    if "entries" in inode:
        entries = ", ".join(f"(ino = {number}, name = {data(name)})" for name, number in inode["entries"])
        mode = f"(dir = (entries = [{entries}], lookBelow = false))"
    elif "pieces" in inode:
        mode = "(file = [%s])" % ", ".join(
            f"(blob = (digest = 0x\"{digest}\", offset = {offset}, compressed = {str(compressed).lower()}), len = {length})"
            for digest, offset, length, compressed in inode["pieces"])
    else:
        mode = inode["mode"]
    fields = ", ".join(f"{name} = {inode[name]}" for name in ("ino", "uid", "gid", "permissions", "additional"))
    return f"({fields}, mode = {mode})"
layers = []
for layer in range(1 + max(inode["layer"] for inode in inodes.values())):
    ordered = sorted((inode for inode in inodes.values() if inode["layer"] == layer), key=lambda inode: inode["ino"])
    layers.append("(inodes = [%s])" % ", ".join(map(written, ordered)))
text = "(metadatas = [%s], manifestVersion = %d)" % (", ".join(layers), version)
# Small segments, so that pointers lead from one to another.
rootfs = subprocess.run(["capnp", "encode", "--segment-size=300", sys.argv[1], "Rootfs"], input=text.encode(),
    capture_output=True, check=True).stdout
if os.path.exists("damage.py"):
    exec(open("damage.py").read())

def descriptor(kind, digest, **more):
    size = os.path.getsize("layout/blobs/sha256/" + digest)
    return {"mediaType": kind, "digest": "sha256:" + digest, "size": size, **more}
layers = [descriptor("application/vnd.puzzlefs.image.rootfs.v1", blob(rootfs))]
layers += [descriptor("application/vnd.puzzlefs.image.filedata.v1+zstd", digest) for digest, _ in chunks]
manifest = blob(json.dumps({"schemaVersion": 2, "config": descriptor("application/vnd.oci.empty.v1+json", blob(b"{}")),
    "layers": layers}).encode())
tag = {"org.opencontainers.image.ref.name": "name"}
index = [descriptor("application/vnd.oci.image.manifest.v1+json", manifest, annotations=tag)]
json.dump({"schemaVersion": 2, "manifests": index}, open("layout/index.json", "w"))
open("layout/oci-layout", "w").write('{"imageLayoutVersion":"1.0.0"}')
"#;

fn is_skipped() -> bool {
    let programs = ["python3", "capnp", "zstd", "setfattr"];
    let lacks = !geteuid().is_root() || !programs.iter().all(|program| has(program));
    if lacks {
        eprintln!("skipped: not root, or not there: {programs:?}");
    }
    lacks
}

fn make_tree(folder: &Path) {
    shell(
        folder,
        "mkdir -p tree/bin tree/empty tree/deep/er
        seq 50000 >tree/deep/er/text
        head -c 200000 /dev/urandom >tree/random
        : >tree/nothing
        echo setuid >tree/bin/setuid; chown 1000:1001 tree/bin/setuid; chmod 4755 tree/bin/setuid
        ln tree/bin/setuid tree/deep/hard-link
        ln -s ../bin/setuid tree/deep/link
        mknod tree/null c 1 3; mknod tree/disk b 7 300; mkfifo tree/fifo
        for number in $(seq 30); do echo $number >tree/deep/$number; done
        setfattr -n user.comment -v hello tree/random
        setfattr -n trusted.secret -v 1 tree/deep
        find tree -exec touch -h -d @0 {} +",
    );
    fs::write(folder.join("generate.py"), GENERATOR).unwrap();
}

/// Writes the layout anew, with changes to what it says.
fn generate(folder: &Path, change: &str, damage: &str) {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../build/puzzlefs.capnp");
    fs::write(folder.join("change.py"), change).unwrap();
    fs::write(folder.join("damage.py"), damage).unwrap();
    shell(
        folder,
        &format!("rm -rf layout; python3 generate.py {schema}"),
    );
}

#[test]
fn a_layout_makes_the_image_of_its_tree() {
    if is_skipped() {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    make_tree(folder);
    let expected = built(folder, "tree");
    generate(folder, "", "");
    assert_eq!(import(folder, "layout", "x", &[]), expected);
    assert_eq!(import(folder, "oci:layout:name", "x", &[]), expected);
    shell(folder, "tar -cf layout.tar -C layout .");
    assert_eq!(import(folder, "layout.tar", "x", &[]), expected);
    // What the layer above says counts, and what it removes is gone.
    generate(
        folder,
        "
import copy
for inode in inodes.values():
    inode['layer'] = 1
first = dict(inodes[1]['entries'])
removed = copy.copy(inodes[first[b'random']])
del removed['pieces']
inodes['removed'] = {**removed, 'layer': 0, 'mode': '(wht = void)'}
inodes['changed'] = {**inodes[first[b'empty']], 'layer': 0, 'permissions': 0o700}
",
        "",
    );
    shell(
        folder,
        "rm tree/random; chmod 700 tree/empty; touch -d @0 tree",
    );
    assert_eq!(import(folder, "layout", "x", &[]), built(folder, "tree"));
}

#[test]
fn whoever_made_it_is_not_trusted() {
    if is_skipped() {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    make_tree(folder);
    let entries = |change: &str| format!("inodes[1]['entries'] = {change}\n");
    // Every piece (digest, offset, length, whether it is compressed) becomes another one.
    let pieces = |change: &str| {
        format!(
            "for inode in inodes.values():
    inode.update({{k: [{change} for d, o, l, c in v] for k, v in inode.items() if k == 'pieces'}})"
        )
    };
    let deep = "dict(inodes[1]['entries'])[b'deep']";
    for (change, expected) in [
        (entries("[(b'..', 2)]"), "no file can have such a name"),
        (entries("[(b'../x', 2)]"), "a NUL or a slash"),
        (entries("[(b'x' * 256, 2)]"), "bytes in its name"),
        (
            entries("inodes[1]['entries'] * 2"),
            "two entries of one name",
        ),
        (entries("[(b'x', 77777)]"), "no inode of its number"),
        (
            entries(&format!("[(b'x', {deep}), (b'y', {deep})]")),
            "has two names",
        ),
        (entries("[(b'self', 1)]"), "has two names"),
        (
            "inodes[1].pop('entries'); inodes[1]['mode'] = '(fifo = void)'".to_owned(),
            "no directory",
        ),
        (
            "inodes[1]['permissions'] = 65535".to_owned(),
            "its permissions are none",
        ),
        ("version = 2".to_owned(), "another version of PuzzleFS"),
        (
            pieces("(d, o, l + 100000, c)"),
            "shorter than the image says",
        ),
        (
            pieces("(d, 2**64 - 2, l, c)"),
            "shorter than the image says",
        ),
        (pieces("(d, o, 2**50, c)"), "bytes of content"),
        (pieces("(d, o, l, True)"), "can't decompress"),
        (
            "for d, c in chunks:\n  open('layout/blobs/sha256/' + d, 'ab').write(b'x')".to_owned(),
            "has the digest",
        ),
        (pieces("('0' * 64, o, l, c)"), "No such file"),
    ] {
        generate(folder, &change, "");
        let message = import_fails(folder, "layout", &[]);
        assert!(message.contains(expected), "{change}: {message}");
    }
    for damage in [
        "rootfs = b''",
        "rootfs = rootfs[:len(rootfs) // 2]",
        "rootfs = b'\\xff' * 64",
        // Every other pointer leads somewhere else.
        "rootfs = bytes(byte ^ (at % 16 == 3) * 0x55 for at, byte in enumerate(rootfs))",
    ] {
        generate(folder, "", damage);
        let message = import_fails(folder, "layout", &[]);
        assert!(message.contains("layout"), "{damage}: {message}");
    }
}
