# SPDX-License-Identifier: GPL-2.0 OR MIT
"""The messages on /dev/peerfs and its ioctls, for the tests that play the daemon."""

import errno
import fcntl
import os
import struct
import tempfile
import unittest

DEVICE = "/dev/peerfs"
ATTACH = 0x40045001  # _IOW('P', 1, u32)
REPLY_FILE = 0x40105002  # _IOW('P', 2, struct { u64 id; u32 descriptor; u32 reserved; })
REPLY_PLACES = 0x41105003  # _IOW('P', 3, struct { u64 id; u32 table; u32 reserved; u32 slots[64]; })
USED = 0xA0005004  # _IOR('P', 4, [u8; 8192])
USED_SIZE = 8192
NO_DESCRIPTOR = 0xFFFFFFFF
VERSION = 2
MAGIC = struct.unpack("<I", b"PRFS")[0]
HEADER_SIZE = 24
REQUEST_MAX = 4096
REPLY_MAX = HEADER_SIZE + 4
FETCH_BLOB, FETCH_CHUNKS, CANCEL, READ, FAILED = 1, 2, 3, 4, 18


def message(operation, id=1, payload=b"", magic=MAGIC, version=VERSION, length=None):
    length = HEADER_SIZE + len(payload) if length is None else length
    return struct.pack("<IHHQII", magic, version, operation, id, length, 0) + payload


def failure(id, number):
    return message(FAILED, id, struct.pack("<I", number))


def used(device):
    """What was read from the store since this was asked last: of each pack the chunks."""
    read = {}
    while True:
        argument = bytearray(USED_SIZE)
        fcntl.ioctl(device, USED, argument)
        magic, version, operation, id, length, reserved = struct.unpack_from(
            "<IHHQII", argument
        )
        assert (magic, version, operation) == (MAGIC, VERSION, READ)
        assert (id, reserved) == (0, 0) and HEADER_SIZE <= length <= USED_SIZE
        if length == HEADER_SIZE:
            return read
        offset = HEADER_SIZE
        while offset < length:
            pack, _, first, words = struct.unpack_from("<32s32sII", argument, offset)
            offset += 72
            assert words > 0 and offset + 8 * words <= length
            bits = int.from_bytes(argument[offset : offset + 8 * words], "little")
            offset += 8 * words
            chunks = {first + bit for bit in range(64 * words) if bits >> bit & 1}
            read.setdefault(pack.hex(), set()).update(chunks)


class Case(unittest.TestCase):
    """A test with a folder for a store, open as `directory`."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(dir="/tmp")
        self.directory = self.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)

    def open(self, path, flags):
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self.addCleanup(self.close, descriptor)
        return descriptor

    @staticmethod
    def close(descriptor):
        try:
            os.close(descriptor)
        except OSError:
            pass  # the test closed it

    def assertErrno(self, expected, call, *arguments):
        with self.assertRaises(OSError) as raised:
            call(*arguments)
        self.assertEqual(
            errno.errorcode[expected], errno.errorcode[raised.exception.errno]
        )

    def attach(self, device, directory=None):
        directory = self.directory if directory is None else directory
        fcntl.ioctl(device, ATTACH, struct.pack("=I", directory & 0xFFFFFFFF))

    @staticmethod
    def reply_file(device, id, descriptor):
        argument = struct.pack("<QII", id, descriptor & 0xFFFFFFFF, 0)
        fcntl.ioctl(device, REPLY_FILE, argument)

    @staticmethod
    def reply_places(device, id, table, slots):
        """With a dict of the slots' descriptors."""
        numbers = [slots.get(slot, NO_DESCRIPTOR) & 0xFFFFFFFF for slot in range(64)]
        argument = struct.pack("<QII64I", id, table & 0xFFFFFFFF, 0, *numbers)
        fcntl.ioctl(device, REPLY_PLACES, argument)
