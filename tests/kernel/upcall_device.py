#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""/dev/peerfs without requests: every error, and misuse. Runs inside the test kernel."""

import ctypes
import errno
import fcntl
import os
import random
import select
import signal
import stat
import struct
import subprocess
import tempfile
import threading
import time
import unittest

from upcall_protocol import (
    ATTACH,
    DEVICE,
    FAILED,
    HEADER_SIZE,
    MAGIC,
    REPLY_FILE,
    REPLY_MAX,
    REPLY_PLACES,
    REQUEST_MAX,
    USED,
    VERSION,
    Case,
    failure,
    message,
    used,
)

libc = ctypes.CDLL(None, use_errno=True)


class DeviceTest(Case):
    def setUp(self):
        super().setUp()
        self.device = self.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)

    def attach(self, device=None, directory=None):
        super().attach(self.device if device is None else device, directory)

    def reply(self, descriptor):
        self.reply_file(self.device, 1, descriptor)

    def test_node(self):
        status = os.stat(DEVICE)
        self.assertTrue(stat.S_ISCHR(status.st_mode))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o600)
        self.assertEqual(status.st_uid, 0)

    def test_not_attached(self):
        file = self.open(self.folder + "/file", os.O_RDWR | os.O_CREAT)
        self.assertErrno(errno.ENOTCONN, os.read, self.device, REQUEST_MAX)
        self.assertErrno(errno.ENOTCONN, os.write, self.device, failure(1, errno.EIO))
        self.assertErrno(errno.ENOTCONN, self.reply, file)
        self.assertErrno(errno.ENOTCONN, self.reply_places, self.device, 1, file, {})
        self.assertErrno(errno.ENOTCONN, used, self.device)
        poll = select.poll()
        poll.register(self.device, select.POLLIN | select.POLLOUT)
        self.assertEqual(poll.poll(0), [(self.device, select.POLLOUT)])

    def test_attach(self):
        file = self.open(self.folder + "/file", os.O_RDWR | os.O_CREAT)
        path = self.open(self.folder, os.O_PATH)
        self.assertErrno(errno.EBADF, self.attach, None, 9999)
        self.assertErrno(errno.EBADF, self.attach, None, -1)
        self.assertErrno(errno.EBADF, self.attach, None, path)
        self.assertErrno(errno.ENOTDIR, self.attach, None, file)
        self.assertErrno(errno.ENOTDIR, self.attach, None, self.device)
        self.assertErrno(errno.EFAULT, fcntl.ioctl, self.device, ATTACH, 1)
        self.attach()
        self.assertErrno(errno.EBUSY, self.attach)
        other = self.open("/run", os.O_RDONLY)
        self.assertErrno(errno.EBUSY, self.attach, None, other)
        # More open files may serve the same store, or another one.
        self.attach(self.open(DEVICE, os.O_RDWR))
        self.attach(self.open(DEVICE, os.O_RDWR), other)

    def test_nothing_was_read(self):
        self.attach()
        self.assertEqual(used(self.device), {})
        self.assertErrno(errno.EFAULT, fcntl.ioctl, self.device, USED, 1)

    def test_unknown_ioctl(self):
        for number in (0x40045003, 0x40045002, 0x41105004, 0x80045001, 0xA0105004, 0x60005004, 0x5401, 0):
            self.assertErrno(errno.ENOTTY, fcntl.ioctl, self.device, number, bytes(272))

    def test_attachment_holds_the_directory(self):
        mount = tempfile.mkdtemp(dir="/run")
        subprocess.run(["mount", "-t", "tmpfs", "store", mount], check=True)
        directory = os.open(mount, os.O_RDONLY)
        self.attach(directory=directory)
        os.close(directory)
        busy = subprocess.run(["umount", mount], stderr=subprocess.DEVNULL, check=False)
        self.assertNotEqual(busy.returncode, 0)
        os.close(self.device)
        subprocess.run(["umount", mount], check=True)

    def test_read(self):
        self.attach()
        self.assertErrno(errno.EINVAL, os.read, self.device, REQUEST_MAX - 1)
        self.assertErrno(errno.EAGAIN, os.read, self.device, REQUEST_MAX)
        self.assertErrno(errno.EAGAIN, os.read, self.device, 1 << 20)
        self.assertErrno(errno.ESPIPE, os.pread, self.device, REQUEST_MAX, 0)
        self.assertErrno(errno.ESPIPE, os.lseek, self.device, 0, os.SEEK_SET)

    def test_poll(self):
        self.attach()
        poll = select.poll()
        poll.register(self.device, select.POLLIN | select.POLLOUT | select.POLLPRI)
        self.assertEqual(poll.poll(0), [(self.device, select.POLLOUT)])
        poll.modify(self.device, select.POLLIN)
        self.assertEqual(poll.poll(50), [])
        with select.epoll() as epoll:
            epoll.register(self.device, select.EPOLLIN | select.EPOLLET)
            self.assertEqual(epoll.poll(0.05), [])

    def test_blocking_read_is_interruptible(self):
        reader = os.fork()
        if reader == 0:
            device = os.open(DEVICE, os.O_RDWR)
            self.attach(device)
            os.read(device, REQUEST_MAX)
            os._exit(1)
        time.sleep(0.2)
        self.assertEqual(os.waitpid(reader, os.WNOHANG), (0, 0))
        os.kill(reader, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while True:
            pid, status = os.waitpid(reader, os.WNOHANG)
            if pid:
                break
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        self.assertTrue(os.WIFSIGNALED(status))

    def test_write(self):
        self.attach()
        good = failure(1, errno.EIO)
        payload = good[HEADER_SIZE:]
        malformed = [
            b"",
            b"x",
            good[:-1],
            good[:HEADER_SIZE],
            message(FAILED, payload=payload, magic=MAGIC + 1),
            message(FAILED, payload=payload, version=VERSION - 1),
            message(FAILED, payload=payload, version=VERSION + 1),
            message(FAILED, payload=payload, length=HEADER_SIZE - 1),
            message(FAILED, payload=payload, length=REPLY_MAX - 1),
            message(FAILED, payload=payload, length=REPLY_MAX + 1),
            message(FAILED, payload=payload, length=0),
            message(FAILED, payload=payload, length=0xFFFFFFFF),
            # What were answers once, and what is none.
            message(16),
            message(17, payload=payload),
            message(0),
            message(5),
            message(0xFFFF),
            good + good,
            good + b"x",
            bytes(HEADER_SIZE),
            message(FAILED, payload=bytes(5)),
        ]
        for bad in malformed:
            with self.subTest(message=bad[:32], length=len(bad)):
                if bad:
                    self.assertErrno(errno.EINVAL, os.write, self.device, bad)
                else:
                    self.assertIn(libc.write(self.device, b"", 0), (0, -1))

    def test_write_to_unknown_request(self):
        self.attach()
        for id in (0, 1, 2, 1 << 40, (1 << 64) - 1):
            self.assertErrno(errno.ENOENT, os.write, self.device, failure(id, errno.EIO))
        # The message may come in pieces.
        pieces = [bytes([byte]) for byte in failure(1, errno.EIO)]
        self.assertErrno(errno.ENOENT, os.writev, self.device, pieces)

    def test_write_from_nowhere(self):
        self.attach()
        self.assertEqual(libc.write(self.device, ctypes.c_void_p(1), HEADER_SIZE), -1)
        self.assertEqual(ctypes.get_errno(), errno.EFAULT)

    def test_garbage(self):
        self.attach()
        source = random.Random(7)
        for _ in range(3000):
            good = bytearray(message(FAILED, payload=b"1234"))
            for _ in range(source.randrange(1, 8)):
                good[source.randrange(len(good))] = source.randrange(256)
            reply = bytes(good[: source.randrange(1, len(good) + 1)])
            with self.assertRaises(OSError) as raised:
                os.write(self.device, reply)
            self.assertIn(raised.exception.errno, (errno.EINVAL, errno.ENOENT))

    def test_reply_file(self):
        self.attach()
        path = self.folder + "/file"
        file = self.open(path, os.O_RDWR | os.O_CREAT)
        with tempfile.NamedTemporaryFile(dir="/run") as elsewhere:
            self.assertErrno(errno.EXDEV, self.reply, elsewhere.fileno())
        self.assertErrno(errno.ENOENT, self.reply, file)
        self.assertErrno(errno.ENOENT, self.reply, self.open(path, os.O_RDONLY))
        self.assertErrno(errno.EBADF, self.reply, self.open(path, os.O_WRONLY))
        self.assertErrno(errno.EBADF, self.reply, self.open(path, os.O_PATH))
        self.assertErrno(errno.EBADF, self.reply, 9999)
        self.assertErrno(errno.EBADF, self.reply, -1)
        self.assertErrno(errno.EINVAL, self.reply, self.directory)
        self.assertErrno(errno.EINVAL, self.reply, self.device)
        self.assertErrno(errno.EFAULT, fcntl.ioctl, self.device, REPLY_FILE, 1)

    def test_reply_places(self):
        self.attach()
        file = self.open(self.folder + "/file", os.O_RDWR | os.O_CREAT)
        # There is no request, whatever else may be wrong.
        for table, slots in ((file, {}), (file, {0: file, 63: file}), (-1, {}), (file, {5: 9999})):
            self.assertErrno(errno.ENOENT, self.reply_places, self.device, 1, table, slots)
        self.assertErrno(errno.EFAULT, fcntl.ioctl, self.device, REPLY_PLACES, 1)

    def test_many_files(self):
        for round in range(1000):
            device = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
            if round % 3:
                self.attach(device)
            if round % 5 == 0:
                copy = os.dup(device)
                os.close(device)
                device = copy
            os.close(device)
        devices = [os.open(DEVICE, os.O_RDWR) for _ in range(300)]
        for device in devices:
            self.attach(device)
        for device in devices:
            os.close(device)

    def test_tasks_at_once(self):
        """Open files used by several threads each, attached and closed meanwhile."""
        end = time.monotonic() + 3
        unexpected = []
        shared = [os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK) for _ in range(4)]
        expected = {
            errno.EAGAIN,
            errno.EBUSY,
            errno.EINVAL,
            errno.ENOENT,
            errno.ENOTCONN,
        }

        def use(seed):
            source = random.Random(seed)
            while time.monotonic() < end:
                device = source.choice(shared)
                own = None
                try:
                    match source.randrange(5):
                        case 0:
                            self.attach(device)
                        case 1:
                            os.read(device, REQUEST_MAX)
                        case 2:
                            os.write(device, failure(source.randrange(3), errno.EIO))
                        case 3:
                            select.select([device], [], [], 0)
                        case 4:
                            own = os.open(DEVICE, os.O_RDWR)
                            self.attach(own)
                except OSError as error:
                    if error.errno not in expected:
                        unexpected.append(error)
                finally:
                    if own is not None:
                        os.close(own)

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for device in shared:
            os.close(device)
        self.assertEqual(unexpected, [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
