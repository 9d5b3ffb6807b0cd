#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""fuse_folder.py FOLDER MOUNTPOINT: a FUSE filesystem that shows FOLDER, read-only. Stopped (SIGSTOP), it is one
whose server has got stuck. Prints a line when it is mounted."""

import ctypes
import errno
import os
import stat
import struct
import sys

IN_HEADER = struct.Struct("<IIQQIIII")
OUT_HEADER = struct.Struct("<IiQ")
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 25, 26, 27, 29, 36, 42
# For how many seconds the kernel may keep what it was told.
VALID = 3600


def attributes(status):
    seconds = int(status.st_mtime)
    return struct.pack(
        "<QQQQQQIIIIIIIIII",
        status.st_ino,
        status.st_size,
        status.st_blocks,
        seconds,
        seconds,
        seconds,
        0,
        0,
        0,
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        0,
        4096,
        0,
    )


class Folder:
    def __init__(self, folder):
        self.paths = {1: folder}
        self.nodes = {folder: 1}
        self.files = {}

    def lookup(self, node, body):
        path = os.path.join(self.paths[node], os.fsdecode(body.rstrip(b"\0")))
        status = os.lstat(path)
        node = self.nodes.setdefault(path, len(self.nodes) + 1)
        self.paths[node] = path
        return struct.pack("<QQQQII", node, 0, VALID, VALID, 0, 0) + attributes(status)

    def getattr(self, node, _body):
        return struct.pack("<QII", VALID, 0, 0) + attributes(os.lstat(self.paths[node]))

    def open(self, node, _body):
        file = os.open(self.paths[node], os.O_RDONLY)
        self.files[file] = node
        return struct.pack("<QII", file, 0, 0)

    def read(self, _node, body):
        file, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(file, size, offset)

    def release(self, _node, body):
        (file,) = struct.unpack_from("<Q", body)
        os.close(file)
        del self.files[file]
        return b""

    @staticmethod
    def init(_node, body):
        major, _minor, readahead, _flags = struct.unpack_from("<IIII", body)
        return struct.pack("<IIIIHHIIHHI28x", major, 31, readahead, 0, 12, 9, 4096, 1, 0, 0, 0)


def serve(device, folder):
    operations = {
        LOOKUP: folder.lookup,
        GETATTR: folder.getattr,
        OPEN: folder.open,
        OPENDIR: folder.open,
        READ: folder.read,
        RELEASE: folder.release,
        RELEASEDIR: folder.release,
        FLUSH: lambda _node, _body: b"",
        STATFS: lambda _node, _body: bytes(80),
        INIT: folder.init,
    }
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                continue
            raise
        _length, operation, unique, node = IN_HEADER.unpack_from(request)[:4]
        if operation in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        try:
            answer, failed = operations[operation](node, request[IN_HEADER.size :]), 0
        except KeyError:
            answer, failed = b"", -errno.ENOSYS
        except OSError as error:
            answer, failed = b"", -error.errno
        try:
            os.write(device, OUT_HEADER.pack(OUT_HEADER.size + len(answer), failed, unique) + answer)
        except FileNotFoundError:  # nobody waits for it any more
            pass


def main():
    folder, mountpoint = map(os.path.realpath, sys.argv[1:])
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"fuse", os.fsencode(mountpoint), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    print("mounted", flush=True)
    serve(device, Folder(folder))


if __name__ == "__main__":
    main()
