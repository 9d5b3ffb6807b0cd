# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Images of nothing but one table that is as long as a blob may be: what they cost whoever checks them."""

import stat
import struct

from records import METADATA_MAX, NO_XATTRS, ROOT, Entry, Extent, Inode, Pack, Shard, Span
from writer import Draft, PackDraft, Raw, ShardDraft, sha256

# For the rest of a blob.
ROOM = METADATA_MAX - 4096
DIRECTORY = stat.S_IFDIR | 0o755


def inode(mode, first=0, count=0, nlink=1, size=0, xattrs=NO_XATTRS, link=0):
    return Inode(mode, 0, 0, nlink, size, 0, 0, 0, first, count, xattrs, link)


def name(number):
    """Names that ascend as the numbers do."""
    return b"%06x" % number


def draft(shard, inodes):
    """An image of one shard, some of whose tables are raw."""
    image = Draft()
    image.shards = [shard]
    image.shard_records[0] = {"inodes": inodes}
    image.manifest["inodes"] = inodes
    return image


def root(shard, **fields):
    shard.inodes.append(inode(DIRECTORY, nlink=2, link=ROOT, **fields))


def files():
    """A directory of FIFOs: all right."""
    shard, count = ShardDraft(), ROOM // (Inode.layout.size + Entry.layout.size + 6)
    root(shard, count=1, size=22 * count)
    shard.inodes.append(Raw(inode(stat.S_IFIFO).encode() * count))
    shard.heap = b"".join(name(number) for number in range(count))
    shard.entries = [Raw(b"".join(Entry(number + 2, 6 * number, 6, 1, 0).encode() for number in range(count)))]
    shard.spans = [Span(0, 0, 0, count, 0, 6, 0)]
    return draft(shard, count + 1)


def nested():
    """A directory in a directory, and so on: all right."""
    shard, count = ShardDraft(), ROOM // (Inode.layout.size + Entry.layout.size + Span.layout.size + 1)
    shard.inodes = [Raw(b"".join(
        inode(DIRECTORY, min(number, count), int(number < count), 2 + int(number < count), 17 * int(number < count),
              link=max(number, ROOT)).encode() for number in range(count + 1)))]
    shard.heap = b"d"
    shard.spans = [Raw(b"".join(Span(0, 0, number, 1, 0, 1, 0).encode() for number in range(count)))]
    shard.entries = [Raw(b"".join(Entry(number + 2, 0, 1, 4, 0).encode() for number in range(count)))]
    image = draft(shard, count + 1)
    image.manifest["root"] = inode(DIRECTORY, 0, 1, 3, 17, link=ROOT).encode()
    image.manifest["content"] = 0
    return image


def spans():
    """A directory with a span for each entry: all right."""
    shard, count = ShardDraft(), ROOM // (Span.layout.size + Entry.layout.size + 6)
    root(shard, count=count, size=22 * count)
    shard.inodes.append(inode(stat.S_IFIFO, nlink=count))
    shard.heap = b"".join(name(number) for number in range(count))
    shard.entries = [Raw(b"".join(Entry(2, 6 * number, 6, 1, 0).encode() for number in range(count)))]
    shard.spans = [Raw(b"".join(Span(number, 0, number, 1, 6 * number, 6, 0).encode() for number in range(count)))]
    return draft(shard, 2)


def shared_extents():
    """Files that all have the same many extents."""
    shard, count = ShardDraft(), ROOM // 2 // Inode.layout.size
    extents = ROOM // 2 // Extent.layout.size
    root(shard)
    shard.inodes.append(Raw(inode(stat.S_IFREG, 0, extents, 1, extents).encode() * count))
    shard.extents = [Raw(b"".join(Extent(number, 0, 0, 1, 0).encode() for number in range(extents)))]
    image = draft(shard, count + 1)
    image.packs = [PackDraft()]
    image.packs[0].add(b"x")
    return image


def shared_xattrs():
    """Inodes that each have a set of nearly all xattrs."""
    shard, count = ShardDraft(), ROOM // 2 // (Inode.layout.size + 8)
    xattrs = ROOM // 2 // 16 // 2
    root(shard)
    shard.inodes.append(Raw(b"".join(
        inode(stat.S_IFIFO, xattrs=number).encode() for number in range(count))))
    shard.xattr_sets = [Raw(b"".join(struct.pack("<II", number, xattrs - number) for number in range(count)))]
    shard.heap = b"".join(b"user." + name(number) for number in range(xattrs))
    shard.xattrs = [Raw(b"".join(struct.pack("<IIII", 11 * number, 11, 0, 0) for number in range(xattrs)))]
    return draft(shard, count + 1)


def chunks():
    """A pack of chunks of one byte: all right but that no file needs it."""
    image = Draft()
    image.shards = [ShardDraft()]
    root(image.shards[0])
    count = ROOM // 52
    digest = sha256(b"x")
    pack = PackDraft()
    pack.chunks = [Raw(b"".join(
        struct.pack("<32sIIIIB3s", digest, number, number, 1, 1, 0, b"") for number in range(count)))]
    pack.stored = b"x" * count
    pack.contents = digest * count
    image.packs = [pack]
    image.pack_records[0] = {"logical": count, "chunks": count}
    return image


def packs():
    """Packs that are not there."""
    image = Draft()
    image.shards = [ShardDraft()]
    root(image.shards[0])
    count = ROOM // Pack.layout.size
    image.pack_records["more"] = [Pack(number.to_bytes(32, "big"), number.to_bytes(32, "little"), bytes(32), 1, 1, 100,
                                       1) for number in range(count)]
    return image


def shards():
    """One shard without anything, many times."""
    image = Draft()
    empty = ShardDraft()
    image.shards = [ShardDraft(), empty]
    root(image.shards[0])
    blob = empty.encode(2)
    image.shard_records["more"] = [Shard(sha256(blob), 2, 0, len(blob))] * (ROOM // Shard.layout.size)
    return image


ALL = (files, nested, spans, shared_extents, shared_xattrs, chunks, packs, shards)
