#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""System calls that have no command, for the tests: each prints its result, or the error's name.

handle PATH                     the file handle of PATH, in hexadecimal
handle-and-parent PATH          the same, with the directory that it is in
open-handle MOUNT HANDLE        what a handle leads to: its path, and how a file's first line begins
idmap SOURCE TARGET FIRST       SOURCE once more at TARGET, with the owners 0 to 65535 as FIRST and up
statx PATH                      attributes (of those that are known), DIOALIGN (known, memory, offset)
fiemap PATH, freeze PATH        the ioctl
direct PATH                     open(2) with O_DIRECT
"""

import ctypes
import errno
import fcntl
import os
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_HANDLE_CONNECTABLE = 0x002
HANDLE_MAX = 128


def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def handle(path, flags=0):
    """struct file_handle: its length, its type, its bytes."""
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", HANDLE_MAX, 0), 8 + HANDLE_MAX)
    mount = ctypes.c_int()
    call("name_to_handle_at", AT_FDCWD, path.encode(), buffer, ctypes.byref(mount), flags)
    length, _ = struct.unpack_from("=Ii", buffer)
    return buffer.raw[: 8 + length].hex()


def open_handle(mount, text):
    folder = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    buffer = ctypes.create_string_buffer(bytes.fromhex(text))
    opened = call("open_by_handle_at", folder, buffer, os.O_RDONLY)
    path = os.readlink(f"/proc/self/fd/{opened}")
    if os.path.isdir(f"/proc/self/fd/{opened}"):
        return path
    line = os.read(opened, 64).split(b"\n")[0]
    return f"{path} {line.decode(errors='replace')}"


def user_namespace(first):
    """A descriptor of a user namespace whose ids 0 to 65535 are FIRST and up outside."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        call("unshare", 0x10000000)  # CLONE_NEWUSER
        os.write(ready[1], b".")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write(f"0 {first} 65536")
    namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    os.write(go[1], b".")
    os.waitpid(child, 0)
    return namespace


def idmap(source, target, first):
    # OPEN_TREE_CLONE; then MOUNT_ATTR_IDMAP; then MOVE_MOUNT_F_EMPTY_PATH.
    tree = call("open_tree", AT_FDCWD, source.encode(), 1)
    attributes = struct.pack("=QQQQ", 0x00100000, 0, 0, user_namespace(int(first)))
    call("mount_setattr", tree, b"", AT_EMPTY_PATH, attributes, ctypes.c_size_t(32))
    call("move_mount", tree, b"", AT_FDCWD, target.encode(), 4)
    return "mounted"


def statx(path):
    buffer = ctypes.create_string_buffer(256)
    STATX_DIOALIGN = 0x2000
    call("statx", AT_FDCWD, path.encode(), 0, 0x7FF | STATX_DIOALIGN, buffer)
    (mask,) = struct.unpack_from("=I", buffer, 0)
    (attributes,) = struct.unpack_from("=Q", buffer, 8)
    (known,) = struct.unpack_from("=Q", buffer, 0x38)
    memory, offset = struct.unpack_from("=II", buffer, 0x98)
    names = {0x4: "compressed", 0x10: "immutable", 0x20: "append", 0x100000: "verity"}
    listed = [name for bit, name in names.items() if attributes & known & bit]
    return f"{','.join(listed)} {bool(mask & STATX_DIOALIGN)} {memory} {offset}"


def fiemap(path):
    with open(path, "rb") as file:
        # FS_IOC_FIEMAP: all of the file, and no room for extents: only their number.
        request = bytearray(struct.pack("=QQIIII", 0, 2**64 - 1, 0, 0, 0, 0))
        fcntl.ioctl(file, 0xC020660B, request)
        return str(struct.unpack_from("=I", request, 20)[0])


def freeze(path):
    folder = os.open(path, os.O_RDONLY)
    fcntl.ioctl(folder, 0xC0045877, 0)  # FIFREEZE
    fcntl.ioctl(folder, 0xC0045878, 0)  # FITHAW
    return "frozen"


def direct(path):
    os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    return "opened"


COMMANDS = {
    "handle": handle,
    "handle-and-parent": lambda path: handle(path, AT_HANDLE_CONNECTABLE),
    "open-handle": open_handle,
    "idmap": idmap,
    "statx": statx,
    "fiemap": fiemap,
    "freeze": freeze,
    "direct": direct,
}

try:
    print(COMMANDS[sys.argv[1]](*sys.argv[2:]))
except OSError as error:
    print(errno.errorcode[error.errno])
