# SPDX-License-Identifier: GPL-2.0 OR MIT
"""The fixed-width records of format.md, and the blobs that have them."""

import struct
from collections import namedtuple

CHUNK_MAX = 256 * 1024
PACK_MAX = 1 << 30
METADATA_MAX = 16 << 20
NO_XATTRS = 0xffffffff
ROOT = 1
RAW, ZSTD, LZ4 = 0, 1, 2
LZ4_FEATURE = 1 << 1


def record(name, layout, fields):
    """A type of records; `layout` is struct's, little-endian."""
    kind = namedtuple(name, fields)
    kind.layout = struct.Struct("<" + layout)
    kind.encode = lambda self: self.layout.pack(*self)
    kind.table = classmethod(lambda cls, data: [cls(*values) for values in cls.layout.iter_unpack(data)])
    return kind


Pack = record("Pack", "32s32s32sQQII", "digest index_digest contents_digest stored logical index_length chunks")
Shard = record("Shard", "32sQII", "digest first inodes length")
Chunk = record("Chunk", "32sIIIIB3s", "digest logical stored logical_length stored_length codec reserved")
Inode = record("Inode", "IIIIQQqIIIIQ", "mode uid gid nlink size allocated seconds nanoseconds first count xattrs link")
Extent = record("Extent", "QIIII", "offset pack pack_offset length reserved")
Span = record("Span", "QIIIIII", "before shard first count name name_length reserved")
Entry = record("Entry", "QIBBH", "inode name name_length type reserved")
XattrSet = record("XattrSet", "II", "first count")
Xattr = record("Xattr", "IIII", "name name_length value value_length")
Digest = record("Digest", "32s", "digest")
