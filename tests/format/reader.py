# SPDX-License-Identifier: GPL-2.0 OR MIT
"""A second reader of images, written from Documentation/format.md and the schema alone.

    reader.py STORE IMAGE          prints the lines of `peerfs-testing manifest` for all paths
    reader.py STORE IMAGE PATH     writes a file's content
"""

import ctypes
import hashlib
import json
import os
import re
import stat
import sys

import capnp
import realm
from records import (CHUNK_MAX, LZ4, LZ4_FEATURE, METADATA_MAX, NO_XATTRS, PACK_MAX, RAW, ROOT, ZSTD, Chunk, Digest, Entry, Extent, Inode,
                     Pack, Shard, Span, Xattr, XattrSet)

MANIFEST_TYPE = "application/vnd.peerfs.manifest.v1"
OCI_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
TAG = "org.opencontainers.image.ref.name"
TYPES = {stat.S_IFIFO: "p", stat.S_IFCHR: "c", stat.S_IFDIR: "d", stat.S_IFBLK: "b", stat.S_IFREG: "f",
         stat.S_IFLNK: "l", stat.S_IFSOCK: "s"}
XATTR_PREFIXES = (b"user.", b"trusted.", b"security.")
XATTR_NAMES = (b"system.posix_acl_access", b"system.posix_acl_default")
WHOLE_MAX = 64 << 20
ENCRYPTION_FEATURE = 1
ENCRYPTED = 0x80


class Refused(Exception):
    """The document says that a reader refuses this."""


def check(holds, rule):
    if not holds:
        raise Refused(rule)


class Store:
    """A directory with complete blobs."""

    def __init__(self, path):
        self.path = path

    def open(self, digest):
        return open(os.path.join(self.path, "blobs/sha256", digest.hex()), "rb")

    def metadata(self, digest, length=None):
        """A blob of at most 16 MiB, verified; of a manifest nobody says the length."""
        with self.open(digest) as file:
            size = os.fstat(file.fileno()).st_size
            check(size <= METADATA_MAX, "a blob is too long")
            check(length is None or size == length, "a blob has another length than its record says")
            blob = file.read()
        check(hashlib.sha256(blob).digest() == digest, "a blob has not its digest")
        return blob

    def resolve(self, name):
        """The digest of the manifest of an image that is named by a tag or a digest."""
        is_digest = re.fullmatch("(sha256:)?[0-9a-f]{64}", name) is not None
        digest = name.removeprefix("sha256:")
        with open(os.path.join(self.path, "index.json"), encoding="utf-8") as file:
            entries = json.load(file)["manifests"]
        for entry in entries:
            of_entry = entry["digest"].removeprefix("sha256:")
            if of_entry == digest if is_digest else entry.get("annotations", {}).get(TAG) == name:
                found = self._manifest_of(entry)
                if found is not None:
                    return found
        check(is_digest, "no image has this name")
        return bytes.fromhex(digest)

    def _manifest_of(self, entry):
        """The digest of the manifest that an entry or layer leads to, or is; None if it is another kind."""
        digest = bytes.fromhex(entry["digest"].removeprefix("sha256:"))
        if entry["mediaType"] == MANIFEST_TYPE:
            return digest
        lists = {OCI_INDEX_TYPE: "manifests", OCI_MANIFEST_TYPE: "layers"}
        if entry["mediaType"] not in lists:
            return None
        found = map(self._manifest_of, json.loads(self.metadata(digest))[lists[entry["mediaType"]]])
        return next(filter(None, found), None)


def message(blob):
    try:
        return capnp.Struct(blob)
    except capnp.Malformed as error:
        raise Refused(str(error)) from error


def field(root, number):
    try:
        return root.bytes(number)
    except capnp.Malformed as error:
        raise Refused(str(error)) from error


def table(root, number, kind):
    data = field(root, number)
    check(len(data) % kind.layout.size == 0, "a table's length is no multiple of its record's")
    return kind.table(data)


def part(values, first, count, rule):
    check(first + count <= len(values), rule)
    return values[first:first + count]


class ShardBlob:
    """An inode shard."""

    def __init__(self, blob, expected):
        root = message(blob)
        self.first = root.unsigned(0, 8)
        self.inodes, self.extents, self.spans, self.entries, self.xattr_sets, self.xattrs, self.digests = (
            table(root, number, kind)
            for number, kind in enumerate((Inode, Extent, Span, Entry, XattrSet, Xattr, Digest)))
        self.heap = field(root, 7)
        check((self.first, len(self.inodes)) == (expected.first, expected.inodes),
              "a shard has other inodes than its record says")

        for kind, records in (stat.S_ISREG, self.extents), (stat.S_ISDIR, self.spans):
            used = sum(inode.count for inode in self.inodes if kind(inode.mode))
            check(used <= len(records), "inodes have more extents or spans than are in their shard")

    def heap_bytes(self, offset, length):
        return part(self.heap, offset, length, "an offset into the heap is out of range")


class Image:
    """An image, verified as it is read."""

    def __init__(self, store, manifest, key=None):
        self.store = store
        self.realm = key
        root = message(store.metadata(manifest))
        check(root.unsigned(0, 4) == 1, "the format version is not 1")
        features = root.unsigned(8, 8)
        check(features & ~(LZ4_FEATURE | ENCRYPTION_FEATURE) == 0, "an incompatible feature")
        self.is_encrypted = features & ENCRYPTION_FEATURE != 0
        if self.is_encrypted:
            check(len(field(root, 2)) == realm.IV_SIZE and len(field(root, 3)) in (0, 32), "a key id or an envelope's digest")
            check(key is not None and field(root, 2) == key.id, "another key")
        else:
            check(not field(root, 2) and not field(root, 3), "what only an encrypted image has")
        check(len(field(root, 4)) in (0, 32), "the trace's digest has another length")
        self.inode_count = root.unsigned(24, 8)
        length = root.unsigned(4, 4)
        check(self.inode_count >= 1, "no inodes")
        check(1 <= length <= METADATA_MAX, "the blob table's length")
        record, digest = self.decrypted(realm.ROOT_RECORD, field(root, 0)), field(root, 1)
        check(len(record) == Inode.layout.size, "the root's record has another length")
        check(len(digest) == 32, "the blob table's digest has another length")
        self.root = Inode._make(Inode.layout.unpack(record))
        self._read_blob_table(store.metadata(digest, length))
        self.shards = {}
        self.indexes = {}
        self.vectors = {}
        shard = self.shard(0)
        self.check_inode(shard, self.root)
        check(stat.S_ISDIR(self.root.mode) and self.root.link == ROOT, "the root is no directory or has another parent")

    def decrypted(self, kind, data):
        """A shard or root record, of an encrypted image what it decrypts to."""
        if not self.is_encrypted:
            return data
        check(len(data) >= realm.IV_SIZE, "no initialization vector")
        plain = self.realm.apply(data[:realm.IV_SIZE], data[realm.IV_SIZE:])
        # A rule of builders.
        check(self.realm.vector(kind, 0, plain) == data[:realm.IV_SIZE], "another initialization vector")
        return plain

    def _read_blob_table(self, blob):
        root = message(blob)
        self.packs = table(root, 0, Pack)
        self.shard_records = table(root, 1, Shard)
        for pack in self.packs:
            check(1 <= pack.stored <= PACK_MAX and 1 <= pack.logical <= PACK_MAX, "a pack's lengths")
            check(pack.index_length <= METADATA_MAX, "a pack index is too long")
            check(pack.chunks >= 1 and pack.chunks * Chunk.layout.size < pack.index_length, "a pack's number of chunks")
        following = ROOT
        for shard in self.shard_records:
            check(shard.first == following, "the shards' inodes do not follow each other")
            check(1 <= shard.length <= METADATA_MAX, "a shard's length")
            check(following > ROOT or shard.inodes >= 1, "the first shard has no inodes")
            following += shard.inodes
        check(following == self.inode_count + 1, "the shards have more or fewer inodes than the image")

    def shard(self, number):
        check(number < len(self.shard_records), "there is no such shard")
        if number not in self.shards:
            record = self.shard_records[number]
            blob = self.decrypted(realm.SHARD, self.store.metadata(record.digest, record.length))
            self.shards[number] = ShardBlob(blob, record)
        return self.shards[number]

    def inode(self, number):
        """The shard and the record of an inode."""
        check(1 <= number <= self.inode_count, "there is no such inode")
        which = max(index for index, shard in enumerate(self.shard_records) if shard.first <= number)
        shard = self.shard(which)
        record = self.root if number == ROOT else shard.inodes[number - shard.first]
        self.check_inode(shard, record)
        return shard, record

    def check_inode(self, shard, record):
        check(record.mode < 1 << 16 and stat.S_IFMT(record.mode) in TYPES, "a mode")
        check(record.nlink >= 1, "no links")
        check(record.size < 1 << 63, "a size")
        check(record.nanoseconds < 10**9, "nanoseconds")
        self.xattrs(shard, record)
        if stat.S_ISLNK(record.mode):
            target = shard.heap_bytes(record.first, record.count)
            check(1 <= len(target) <= 4095 and b"\0" not in target and len(target) == record.size, "a link's target")
        elif stat.S_ISREG(record.mode):
            self.extents(shard, record)
        elif stat.S_ISDIR(record.mode):
            part(shard.spans, record.first, record.count, "a directory's spans are out of range")

    def extents(self, shard, record):
        """A file's extents."""
        extents = part(shard.extents, record.first, record.count, "a file's extents are out of range")
        end = 0
        for extent in extents:
            check(extent.length >= 1 and extent.offset >= end, "extents are empty, overlap or do not ascend")
            end = extent.offset + extent.length
            check(end <= record.size, "an extent ends behind the file")
            check(extent.pack < len(self.packs), "an extent names no pack")
            check(extent.pack_offset + extent.length <= self.packs[extent.pack].logical, "an extent leaves its pack")
        return extents

    def xattrs(self, shard, record):
        """Names and values, in order."""
        if record.xattrs == NO_XATTRS:
            return []
        check(record.xattrs < len(shard.xattr_sets), "there is no such set of xattrs")
        found = []
        for xattr in part(shard.xattrs, *shard.xattr_sets[record.xattrs], "a set's xattrs are out of range"):
            name = shard.heap_bytes(xattr.name, xattr.name_length)
            value = shard.heap_bytes(xattr.value, xattr.value_length)
            known = name in XATTR_NAMES or any(
                name.startswith(prefix) and name != prefix for prefix in XATTR_PREFIXES)
            check(known and len(name) <= 255 and b"\0" not in name, "an xattr's name")
            check(len(value) <= 64 << 10, "an xattr's value is too long")
            check(not found or found[-1][0] < name, "xattrs are not sorted")
            found.append((name, value))
        check(sum(len(name) + 1 for name, _ in found) <= 64 << 10, "a set has too long a list of names")
        return found

    def entries(self, number):
        """A directory's names and entries, all checked."""
        shard, directory = self.inode(number)
        found = []
        for span in part(shard.spans, directory.first, directory.count, "a directory's spans are out of range"):
            check(span.count >= 1 and span.before == len(found), "spans are empty or do not follow each other")
            of_span = self.shard(span.shard)
            before = len(found)
            for entry in part(of_span.entries, span.first, span.count, "a span's entries are out of range"):
                name = of_span.heap_bytes(entry.name, entry.name_length)
                check(name not in (b"", b".", b"..") and not set(b"/\0") & set(name), "a name that is none")
                check(not found or found[-1][0] < name, "names are not sorted")
                check(entry.inode != ROOT, "an entry names the root")
                found.append((name, entry))
            check(shard.heap_bytes(span.name, span.name_length) == found[before][0], "a span's name is not its first")
        return found

    def child(self, directory, entry):
        """The shard and the record of the inode that an entry of the directory names."""
        shard, record = self.inode(entry.inode)
        check(entry.type == record.mode >> 12, "an entry's type is not its inode's")
        check(not stat.S_ISDIR(record.mode) or record.link == directory, "a directory is in another than its link says")
        return shard, record

    def walk(self):
        """All paths but the root's, in order, with the shard and the record of each."""
        return ((path, shard, record) for path, _, shard, record in self.walk_numbers())

    def walk_numbers(self, number=ROOT, path=b""):
        """All paths below a directory, with the inode's number, its shard and its record."""
        names = set()
        for name, entry in self.entries(number):
            shard, record = self.child(number, entry)
            found = path + b"/" + name if path else name
            yield found, entry.inode, shard, record
            if stat.S_ISDIR(record.mode):
                check(entry.inode not in names, "a directory has two names")
                names.add(entry.inode)
                yield from self.walk_numbers(entry.inode, found)

    def index(self, pack):
        """The chunk records of a pack."""
        if pack not in self.indexes:
            record = self.packs[pack]
            root = message(self.store.metadata(record.index_digest, record.index_length))
            chunks = table(root, 0, Chunk)
            vectors = field(root, 1)
            check(len(vectors) == (realm.IV_SIZE * len(chunks) if self.is_encrypted else 0), "the initialization vectors")
            check(len(chunks) == record.chunks, "an index has more or fewer chunks than its record says")
            logical = stored = 0
            for chunk in chunks:
                check((chunk.logical, chunk.stored) == (logical, stored), "chunks do not follow each other")
                check(1 <= chunk.logical_length <= CHUNK_MAX, "a chunk's length")
                check(1 <= chunk.stored_length <= chunk.logical_length, "a chunk's stored length")
                check((chunk.codec & ENCRYPTED != 0) == self.is_encrypted, "a chunk is encrypted and its image not, or it alone")
                check(chunk.codec & ~ENCRYPTED in DECODERS, "a chunk's codec")
                check(chunk.codec & ~ENCRYPTED != RAW or chunk.stored_length == chunk.logical_length, "a raw chunk's lengths")
                logical += chunk.logical_length
                stored += chunk.stored_length
            check((logical, stored) == (record.logical, record.stored), "chunks do not end with their pack")
            self.indexes[pack] = chunks
            self.vectors[pack] = vectors
        return self.indexes[pack]

    def chunk(self, pack, chunk):
        """A chunk's content."""
        record = self.packs[pack]
        with self.store.open(record.digest) as file:
            file.seek(chunk.stored)
            stored = file.read(chunk.stored_length)
        check(hashlib.sha256(stored).digest() == chunk.digest, "a chunk has not its digest")
        codec = chunk.codec & ~ENCRYPTED
        if self.is_encrypted:
            place = self.index(pack).index(chunk) * realm.IV_SIZE
            vector = self.vectors[pack][place:place + realm.IV_SIZE]
            stored = self.realm.apply(vector, stored)
            check(self.realm.vector(realm.CHUNK, codec, stored) == vector, "another initialization vector")
        return DECODERS[codec](stored, chunk.logical_length)

    def check_contents(self):
        """Whether the contents of all packs are those of their chunks."""
        for number, pack in enumerate(self.packs):
            contents = [self.chunk(number, chunk) for chunk in self.index(number)]
            digest = self.realm.content if self.is_encrypted else lambda data: hashlib.sha256(data).digest()
            check(self.store.metadata(pack.contents_digest) == b"".join(map(digest, contents)), "other contents")

    def pieces(self, shard, record):
        """A regular file's bytes that are not in holes, in order, each piece with its offset."""
        for extent in self.extents(shard, record):
            end = extent.pack_offset + extent.length
            for chunk in self.index(extent.pack):
                first = max(chunk.logical, extent.pack_offset)
                last = min(chunk.logical + chunk.logical_length, end)
                if first < last:
                    content = self.chunk(extent.pack, chunk)
                    yield (extent.offset + first - extent.pack_offset,
                           content[first - chunk.logical:last - chunk.logical])

    def lookup(self, path):
        """The shard and the record at a path, without following links."""
        number, (shard, record) = ROOT, self.inode(ROOT)
        for name in filter(None, path.split(b"/")):
            check(stat.S_ISDIR(record.mode), "no directory")
            entry = dict(self.entries(number)).get(name)
            check(entry is not None, "there is no such path")
            shard, record = self.child(number, entry)
            number = entry.inode
        return shard, record


_zstd = ctypes.CDLL("libzstd.so.1")
_zstd.ZSTD_findFrameCompressedSize.restype = _zstd.ZSTD_decompress.restype = ctypes.c_size_t
_zstd.ZSTD_findFrameCompressedSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_zstd.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]


_lz4 = ctypes.CDLL("liblz4.so.1")
_lz4.LZ4_decompress_safe.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]


def decode_zstd(stored, length):
    """The content of one zstd frame that takes all the bytes."""
    check(stored.startswith(b"\x28\xb5\x2f\xfd"), "no zstd frame")
    check(_zstd.ZSTD_findFrameCompressedSize(stored, len(stored)) == len(stored), "more or less than one zstd frame")
    content = ctypes.create_string_buffer(length)
    check(_zstd.ZSTD_decompress(content, length, stored, len(stored)) == length, "a frame has another length")
    return content.raw


def decode_lz4(stored, length):
    """The content of one LZ4 block that takes all the bytes."""
    content = ctypes.create_string_buffer(length)
    check(_lz4.LZ4_decompress_safe(stored, content, len(stored), length) == length, "a block has another length")
    return content.raw


DECODERS = {RAW: lambda stored, length: stored, ZSTD: decode_zstd, LZ4: decode_lz4}


def write_content(image, shard, record, write):
    """Writes a file's bytes, holes as zeros."""
    end = 0
    for offset, content in image.pieces(shard, record):
        write(bytes(offset - end))
        write(content)
        end = offset + len(content)
    write(bytes(record.size - end))


def content_hash(image, shard, record):
    """SHA-256 of the content; of a long file, of where its data begins and ends and of that."""
    sha256 = hashlib.sha256()
    if record.size <= WHOLE_MAX:
        write_content(image, shard, record, sha256.update)
        return sha256.hexdigest()
    runs = []
    for extent in image.extents(shard, record):
        end = extent.offset + extent.length
        if runs and runs[-1][1] == extent.offset:
            runs[-1][1] = end
        else:
            runs.append([extent.offset, end])
    starts = dict(runs)
    for offset, content in image.pieces(shard, record):
        if offset in starts:
            sha256.update(offset.to_bytes(8, "little") + starts[offset].to_bytes(8, "little"))
        sha256.update(content)
    return sha256.hexdigest()


def escape(data):
    return "".join(chr(byte) if 33 <= byte <= 126 and byte != 92 else f"\\x{byte:02x}" for byte in data)


def line(image, shard, record):
    """All that a path is, as `peerfs-testing manifest` writes it."""
    kind = TYPES[stat.S_IFMT(record.mode)]
    words = [kind, f"mode={record.mode & 0o7777:04o}", f"uid={record.uid}", f"gid={record.gid}"]
    words.append(f"nlink={record.nlink}")
    if kind != "d":
        words.append(f"size={record.size}")
    words.append(f"mtime={record.seconds}.{record.nanoseconds:09}")
    if kind in "cb":
        number = record.first
        words.append(f"device={number >> 8 & 0xfff}:{number & 0xff | number >> 12 & 0xfff00}")
    words += [f"xattr:{escape(name)}={value.hex()}" for name, value in image.xattrs(shard, record)]
    if kind == "l":
        words.append(f"target={escape(shard.heap_bytes(record.first, record.count))}")
    if kind == "f":
        words.append(f"sha256={content_hash(image, shard, record)}")
    return " ".join(words)


def main(store, name, path=None):
    store = Store(store)
    image = Image(store, store.resolve(name))
    if path is not None:
        shard, record = image.lookup(os.fsencode(path))
        check(stat.S_ISREG(record.mode), "no regular file")
        write_content(image, shard, record, sys.stdout.buffer.write)
        return
    print(".", line(image, *image.inode(ROOT)))
    for path, shard, record in image.walk():
        print(escape(path), line(image, shard, record))


if __name__ == "__main__":
    sys.setrecursionlimit(100000)
    try:
        main(*sys.argv[1:])
    except Refused as refused:
        sys.exit(f"refused: {refused}")
