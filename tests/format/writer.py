# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Writing images that are valid but for what a test has changed: all digests are made right at the end."""

import ctypes
import hashlib
import json
import os
import stat
import struct

from reader import MANIFEST_TYPE, TAG
from records import (CHUNK_MAX, NO_XATTRS, RAW, ROOT, ZSTD, Chunk, Digest, Entry, Extent, Inode, Pack, Shard, Span,
                     Xattr, XattrSet)

TABLES = (("inodes", Inode), ("extents", Extent), ("spans", Span), ("entries", Entry), ("xattr_sets", XattrSet),
          ("xattrs", Xattr), ("digests", Digest))

_zstd = ctypes.CDLL("libzstd.so.1")
_zstd.ZSTD_compress.restype = ctypes.c_size_t
_zstd.ZSTD_compress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]


def sha256(data):
    return hashlib.sha256(data).digest()


def compress(content):
    """One zstd frame."""
    frame = ctypes.create_string_buffer(len(content) + 1024)
    length = _zstd.ZSTD_compress(frame, len(frame), content, len(content), 3)
    return frame.raw[:length]


_lz4 = ctypes.CDLL("liblz4.so.1")
_lz4.LZ4_compress_default.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]


def compress_lz4(content):
    """One LZ4 block."""
    block = ctypes.create_string_buffer(len(content) + len(content) // 255 + 16)
    length = _lz4.LZ4_compress_default(content, block, len(content), len(block))
    return block.raw[:length]


def message(data, fields):
    """A message of one segment: the root's data section, and its Data fields, None for what is absent."""
    words = bytearray(struct.pack("<IHH", 0, len(data) // 8, len(fields)) + data + bytes(8 * len(fields)))
    first = 8 + len(data)
    for number, field in enumerate(fields):
        if field is None:
            continue
        place = first + 8 * number
        struct.pack_into("<II", words, place, (len(words) - place - 8) // 8 << 2 | 1, len(field) << 3 | 2)
        words += field + bytes(-len(field) % 8)
    return struct.pack("<II", 0, len(words) // 8) + words


class Raw:
    """Bytes in the place of records."""

    def __init__(self, data):
        self.encode = lambda: data


class PackDraft:
    """A pack: `chunks` are its index, `stored` its bytes, `contents` the digests of the chunks' content."""

    def __init__(self, chunks=(), stored=b"", contents=b""):
        self.chunks, self.stored, self.contents = list(chunks), stored, contents
        self.ivs = None

    def add(self, content, codec=RAW):
        """Appends a chunk, and returns where it begins."""
        stored = compress(content) if codec == ZSTD else content
        last = self.chunks[-1] if self.chunks else Chunk(b"", 0, 0, 0, 0, 0, b"")
        chunk = Chunk(sha256(stored), last.logical + last.logical_length, len(self.stored), len(content), len(stored),
                      codec, bytes(3))
        self.chunks.append(chunk)
        self.stored += stored
        self.contents += sha256(content)
        return chunk.logical

    def store(self, number, stored):
        """Gives a chunk other stored bytes; those behind it move."""
        old = self.chunks[number]
        self.stored = self.stored[:old.stored] + stored + self.stored[old.stored + old.stored_length:]
        self.chunks[number] = old._replace(digest=sha256(stored), stored_length=len(stored))
        moved = len(stored) - old.stored_length
        for after in range(number + 1, len(self.chunks)):
            self.change(after, stored=self.chunks[after].stored + moved)

    def change(self, number, **fields):
        self.chunks[number] = self.chunks[number]._replace(**fields)


class ShardDraft:
    """A shard's tables and heap."""

    def __init__(self):
        for name, _ in TABLES:
            setattr(self, name, [])
        self.heap = b""

    def add_to_heap(self, data):
        self.heap += data
        return len(self.heap) - len(data), len(data)

    def change(self, table, number, **fields):
        """Gives a record's fields other values; a function gets the old one."""
        records = getattr(self, table)
        old = records[number]
        fields = {name: value(getattr(old, name)) if callable(value) else value for name, value in fields.items()}
        records[number] = old._replace(**fields)

    def encode(self, first):
        tables = [b"".join(record.encode() for record in getattr(self, name)) for name, _ in TABLES]
        return message(struct.pack("<Q", first), [*tables, self.heap])


class Draft:
    """An image. What the writer computes is replaced by what is in the dictionaries."""

    def __init__(self):
        self.packs, self.shards = [], []
        self.manifest, self.pack_records, self.shard_records, self.blobs = {}, {}, {}, {}

    @classmethod
    def read(cls, image):
        """The draft of an image that a reader has opened."""
        draft = cls()
        for number, pack in enumerate(image.packs):
            chunks = image.index(number)
            with image.store.open(pack.digest) as file:
                stored = file.read()
            digests = b"".join(sha256(image.chunk(number, chunk)) for chunk in chunks)
            draft.packs.append(PackDraft(chunks, stored, digests))
        for number in range(len(image.shard_records)):
            shard = ShardDraft()
            for name, _ in TABLES:
                setattr(shard, name, list(getattr(image.shard(number), name)))
            shard.heap = image.shard(number).heap
            draft.shards.append(shard)
        return draft

    def inode(self, number):
        """The shard and the place in it of an inode."""
        for shard in self.shards:
            if number <= len(shard.inodes):
                return shard, number - 1
            number -= len(shard.inodes)
        raise IndexError

    def change_inode(self, number, **fields):
        shard, place = self.inode(number)
        shard.change("inodes", place, **fields)

    def write(self, path):
        """Makes a store with the image, tagged `mutant`, and returns the manifest's digest."""
        os.makedirs(os.path.join(path, "blobs/sha256"))
        for name in "partial", "tmp":
            os.mkdir(os.path.join(path, name))

        def add(kind, blob):
            blob = self.blobs.get(kind, lambda blob: blob)(blob)
            digest = sha256(blob)
            with open(os.path.join(path, "blobs/sha256", digest.hex()), "wb") as file:
                file.write(blob)
            return digest, len(blob)

        packs = [self._pack_record(number, add) for number in range(len(self.packs))]
        shards, first = [], ROOT
        for number, draft in enumerate(self.shards):
            blob = draft.encode(self.blobs.get(("first", number), first))
            digest, length = add(("shard", number), blob)
            record = Shard(digest, first, len(draft.inodes), length)
            shards.append(record._replace(**self.shard_records.get(number, {})))
            first += len(draft.inodes)
        packs += self.pack_records.get("more", [])
        shards += self.shard_records.get("more", [])
        tables = [b"".join(record.encode() for record in records) for records in (packs, shards)]
        digest, length = add("table", message(b"", tables))
        digest, length = add("manifest", self._manifest(digest, length, first - 1, packs))
        index = {"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST_TYPE, "digest": "sha256:" + digest.hex(),
                                                    "size": length, "annotations": {TAG: "mutant"}}]}
        for name, value in ("index.json", index), ("oci-layout", {"imageLayoutVersion": "1.0.0"}):
            with open(os.path.join(path, name), "w", encoding="utf-8") as file:
                json.dump(value, file)
        return digest

    def _pack_record(self, number, add):
        draft = self.packs[number]
        index, index_length = add(("index", number), message(
            b"", [b"".join(chunk.encode() for chunk in draft.chunks), draft.ivs]))
        contents, _ = add(("contents", number), draft.contents)
        digest, stored = add(("pack", number), draft.stored)
        logical = sum(chunk.logical_length for chunk in draft.chunks if isinstance(chunk, Chunk))
        record = Pack(digest, index, contents, stored, logical, index_length, len(draft.chunks))
        return record._replace(**self.pack_records.get(number, {}))

    def _manifest(self, table, length, inodes, packs):
        fields = {
            "version": 1, "incompatible": 0, "compatible": 0, "inodes": inodes, "length": length, "digest": table,
            "key_id": None, "envelope": None, "trace": None,
            "content": sum(inode.allocated for shard in self.shards for inode in shard.inodes
                           if isinstance(inode, Inode)) & (1 << 64) - 1,
            "stored": sum({pack.digest: pack.stored for pack in packs}.values()) & (1 << 64) - 1,
            **self.manifest}
        if "root" not in fields:
            shard, place = self.inode(ROOT)
            fields["root"] = shard.inodes[place].encode()
        data = struct.pack("<IIQQQQQ", *(fields[name] for name in (
            "version", "length", "incompatible", "compatible", "inodes", "content", "stored")))
        return message(data, [fields[name] for name in ("root", "digest", "key_id", "envelope", "trace")])


class Tree:
    """A small tree with everything that the format has, in three shards and two packs."""

    def __init__(self):
        self.draft = Draft()
        self.draft.shards = [ShardDraft() for _ in range(3)]
        raw, text = PackDraft(), PackDraft()
        self.draft.packs = [raw, text]
        noise = b"".join(sha256(bytes([number])) for number in range(256))
        for _ in range(2):
            raw.add(noise[:5000])
            raw.add(b"a line of text\n" * 1500, ZSTD)
            noise = noise[3000:]
        text.add(b"another one\n" * 5000, ZSTD)
        text.add(noise[:100])
        text.add(bytes(CHUNK_MAX), ZSTD)
        self._fill_root()
        self._fill_others()

    def _fill_root(self):
        first, second, _ = self.draft.shards
        # As the kernel takes them: CAP_NET_BIND_SERVICE, permitted; u::rw-, g::r--, o::r--.
        capability = struct.pack("<IIIII", 2 << 24, 1 << 10, 0, 0, 0)
        acl = struct.pack("<I" + 3 * "HHI", 2, 1, 6, 0xffffffff, 4, 4, 0xffffffff, 32, 4, 0xffffffff)
        xattrs = ((b"security.capability", capability), (b"system.posix_acl_access", acl), (b"user.empty", b""))
        self._add(first, stat.S_IFDIR | 0o755, nlink=4, size=sum(16 + len(name) for name in (
            b"a-dir", b"b-raw", b"c-zstd", b"d-sparse", b"e-two", b"f-link", b"g-device", b"h-empty", b"i-fifo",
            b"j-empty-dir")), link=ROOT, count=2)
        self._add(first, stat.S_IFDIR | 0o1777, nlink=3, size=66, link=ROOT, first=2, count=1)
        self._add(first, stat.S_IFREG | 0o644, [(0, 0, 0, 5000)], nlink=2, xattrs=self._set(first, xattrs))
        self._add(first, stat.S_IFREG | 0o600, [(0, 0, 5000, 22500)], xattrs=self._set(first, xattrs[2:]))
        self._add(first, stat.S_IFREG | 0o4755, [(0, 1, 0, 8192), (131072, 1, 8192, 60000)], size=300001)
        self._add(first, stat.S_IFREG, [(0, 0, 27500, 27500), (27500, 1, 0, 60100 + CHUNK_MAX)])
        self._add(second, stat.S_IFLNK | 0o777, target=b"a-dir/x-hard")
        self._add(second, stat.S_IFCHR | 0o620, first=0x12345 & 0xff | 0xabc << 8 | (0x12345 & 0xfff00) << 12)
        self._add(second, stat.S_IFREG | 0o644, [])
        self._add(second, stat.S_IFIFO | 0o644)
        self._add(second, stat.S_IFDIR | 0o700, nlink=2, size=0, link=ROOT)
        names = (b"a-dir", b"b-raw", b"c-zstd", b"d-sparse", b"e-two")
        self._entries(first, enumerate(names, 2), stat.S_IFDIR, *[stat.S_IFREG] * 4)
        names = (b"f-link", b"g-device", b"h-empty", b"i-fifo", b"j-empty-dir")
        self._entries(second, enumerate(names, 7), stat.S_IFLNK, stat.S_IFCHR, stat.S_IFREG, stat.S_IFIFO, stat.S_IFDIR)

    def _fill_others(self):
        first, _, third = self.draft.shards
        self._add(third, stat.S_IFDIR | 0o755, nlink=2, size=20, link=2, count=1)
        self._add(third, stat.S_IFREG | 0o444, [(0, 1, 60000, 100)])
        self._add(third, stat.S_IFREG | 0o444, [(0, 1, 60050, 25)])
        self._entries(third, [(3, b"x-hard"), (12, b"y-sub"), (13, b"z-small")], stat.S_IFREG, stat.S_IFDIR,
                      stat.S_IFREG)
        self._entries(third, [(14, b"deep")], stat.S_IFREG)
        self._span(first, 0, 0, 0, 5, b"a-dir")
        self._span(first, 5, 1, 0, 5, b"f-link")
        self._span(first, 0, 2, 0, 3, b"x-hard")
        self._span(third, 0, 2, 3, 1, b"deep")

    def _add(self, shard, mode, extents=None, target=None, **fields):
        fields = {"nlink": 1, "size": 0, "allocated": 0, "first": 0, "count": 0, "xattrs": NO_XATTRS, "link": 0,
                  **fields}
        if extents is not None:
            fields["first"], fields["count"] = len(shard.extents), len(extents)
            fields["allocated"] = sum(extent[3] for extent in extents)
            fields["size"] = fields["size"] or fields["allocated"]
            fields["link"] = len(shard.digests)
            shard.extents += [Extent(*extent, 0) for extent in extents]
            shard.digests.append(Digest(bytes(32)))
        if target is not None:
            fields["first"], fields["count"] = shard.add_to_heap(target)
            fields["size"] = len(target)
        shard.inodes.append(Inode(mode=mode, uid=1000, gid=100, seconds=-1, nanoseconds=500_000_000, **fields))

    def _set(self, shard, xattrs):
        shard.xattr_sets.append(XattrSet(len(shard.xattrs), len(xattrs)))
        shard.xattrs += [Xattr(*shard.add_to_heap(name), *shard.add_to_heap(value)) for name, value in xattrs]
        return len(shard.xattr_sets) - 1

    def _entries(self, shard, names, *types):
        shard.entries += [Entry(inode, *shard.add_to_heap(name), kind >> 12, 0)
                          for (inode, name), kind in zip(names, types)]

    def _span(self, shard, before, of_shard, first, count, name):
        shard.spans.append(Span(before, of_shard, first, count, *shard.add_to_heap(name), 0))
