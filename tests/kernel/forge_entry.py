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


root = (blobs / manifest).read_bytes()
# Inode, offset of the name, its length, type, reserved.
before, behind = struct.pack("<Q", int(inode)), bytes([len(name), DIRECTORY, 0, 0])
pattern = re.compile(re.escape(before) + b"[\\x00-\\xff]{4}" + re.escape(behind))
for path in list(blobs.iterdir()):
    shard = path.read_bytes()
    old = bytes.fromhex(path.name)
    if old not in root or name.encode() not in shard or len(found := list(pattern.finditer(shard))) != 1:
        continue
    at = found[0].start()
    forged = shard[:at] + struct.pack("<Q", int(new)) + shard[at + 8 :]
    print(add(root.replace(old, add(forged).digest())).hexdigest())
    break
else:
    sys.exit(f"no shard has the entry {name}")
