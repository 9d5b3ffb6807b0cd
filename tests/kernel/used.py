#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""What /dev/peerfs tells of two stores, of which the first one has two mounts: used.py STORE OTHER FIRST SECOND THIRD."""

import fcntl
import os
import struct
import subprocess
import sys

from upcall_protocol import ATTACH, DEVICE, used

MIB = 1 << 20


def attach(store):
    device = os.open(DEVICE, os.O_RDWR)
    directory = os.open(store, os.O_RDONLY)
    fcntl.ioctl(device, ATTACH, struct.pack("=I", directory))
    os.close(directory)
    return device


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def read(path, offset, length):
    """Reads from the store, and nothing ahead."""
    drop_caches()
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.seek(offset)
        assert len(file.read(length)) == length


def count(told):
    return sum(len(chunks) for chunks in told.values())


store, other, first, second, third = sys.argv[1:]
# What was read before anybody asked is told as well.
read(first + "/file-1", 8 * MIB, 4096)
device, other_device = attach(store), attach(other)
before = used(device)
assert 1 <= count(before) <= 4, before
assert used(device) == {} and used(other_device) == {}

read(first + "/file-1", 0, 4096)
read(second + "/file-5", 12 * MIB, 4096)
read(third + "/file", 0, 4096)
told, told_other = used(device), used(other_device)
assert 2 <= count(told) <= 8 and len(told) == 2, told
assert 1 <= count(told_other) <= 4 and not told.keys() & told_other.keys(), told_other
assert used(device) == {} and used(other_device) == {}

# The same once more is told once more, but not what only the page cache gave.
read(first + "/file-1", 0, 4096)
again = used(device)
assert len(again) == 1 and again.keys() <= told.keys(), again
with open(first + "/file-1", "rb", buffering=0) as file:
    file.read(4096)
assert used(device) == {}

# All of it, which takes more than one pack. Pages that somebody works on while caches are dropped stay, and what they have is
# not read again: so it may take another time.
everything = {}
for attempt in range(5):
    drop_caches()
    for number in range(1, 6):
        with open(f"{first}/file-{number}", "rb") as file:
            while file.read(MIB):
                pass
    for pack, chunks in used(device).items():
        everything.setdefault(pack, set()).update(chunks)
    gaps = {pack: set(range(max(chunks))) - chunks for pack, chunks in everything.items()}
    print(f"not told in {attempt + 1} times: {sum(map(len, gaps.values()))}")
    if not any(gaps.values()):
        break
assert len(everything) >= 4 and count(everything) > 200, (len(everything), count(everything))
assert not any(gaps.values()), gaps

# What is gone is told when its mount is, too; by whichever file asks first.
read(second + "/file-3", 0, 4096)
subprocess.run(["umount", first, second], check=True)
more = attach(store)
assert 1 <= count(used(more)) <= 4
assert used(device) == {} and used(more) == {}
