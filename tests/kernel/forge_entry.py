#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""forge_entry.py STORE MANIFEST NAME INODE NEW: an image in which the directory entry NAME of the directory with the
number INODE leads to the inode NEW instead, with digests that fit. Prints the digest of its manifest."""

import hashlib
import pathlib
import re
import struct
import sys

store, manifest, name, inode, new = sys.argv[1:]
blobs = pathlib.Path(store, "blobs", "sha256")
DIRECTORY = 4


def add(content):
    digest = hashlib.sha256(content)
    (blobs / digest.hexdigest()).write_bytes(content)
    return digest


def leads_to(blob):
    """The blobs whose digests a blob has, by those digests."""
    names = (path.name for path in blobs.iterdir())
    found = (bytes.fromhex(name) for name in names if bytes.fromhex(name) in blob)
    return {digest: (blobs / digest.hex()).read_bytes() for digest in found}


root = (blobs / manifest).read_bytes()
[(table_digest, table)] = leads_to(root).items()
# Inode, offset of the name, its length, type, reserved.
before, behind = struct.pack("<Q", int(inode)), bytes([len(name), DIRECTORY, 0, 0])
pattern = re.compile(re.escape(before) + b"[\\x00-\\xff]{4}" + re.escape(behind))
for digest, shard in leads_to(table).items():
    if name.encode() not in shard or len(found := list(pattern.finditer(shard))) != 1:
        continue
    at = found[0].start()
    forged = add(shard[:at] + struct.pack("<Q", int(new)) + shard[at + 8 :]).digest()
    forged_table = add(table.replace(digest, forged)).digest()
    print(add(root.replace(table_digest, forged_table)).hexdigest())
    break
else:
    sys.exit(f"no shard has the entry {name}")
