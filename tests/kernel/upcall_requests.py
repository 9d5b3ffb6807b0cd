#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Requests through /dev/peerfs: this is the daemon. Mounts of manifests that no store has are what asks.
Runs inside the test kernel."""

import ctypes
import errno
import hashlib
import os
import random
import select
import signal
import struct
import tempfile
import threading
import time
import unittest

from upcall_protocol import (
    CANCEL,
    DEVICE,
    FAILED,
    FETCH_BLOB,
    HEADER_SIZE,
    MAGIC,
    REQUEST_MAX,
    VERSION,
    Case,
    failure,
    message,
)

libc = ctypes.CDLL(None, use_errno=True)
MS_RDONLY = 1
BLOB_SIZE = 112


class Mount:
    """A process that mounts; its result is the errno, or the negative number of a signal."""

    def __init__(self, store, digest, timeout=30, workload=None):
        self.result = None
        self.pid = os.fork()
        if self.pid:
            return
        os.closerange(3, 1024)  # or the device would stay open in here
        options = f"root_dir={store},manifest={digest},timeout={timeout}"
        options += f",workload={workload}" if workload else ""
        failed = libc.mount(b"none", b"/mnt", b"peerfs", MS_RDONLY, options.encode())
        os._exit(ctypes.get_errno() if failed else 0)

    def ended(self):
        if self.result is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.result = os.waitstatus_to_exitcode(status)
        return self.result is not None

    def wait(self, seconds=20):
        deadline = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > deadline:
                raise TimeoutError("the mount hangs")
            time.sleep(0.005)
        return self.result

    def waits(self):
        """Whether it sleeps as one does who only a fatal signal may wake."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "D"

    def kill(self):
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
        return self.wait(5)


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


class Message:
    def __init__(self, data):
        magic, version, self.operation, self.id, self.length, reserved = struct.unpack_from(
            "<IHHQII", data
        )
        assert (magic, version, reserved) == (MAGIC, VERSION, 0)
        self.payload = data[HEADER_SIZE : self.length]
        assert len(self.payload) == self.length - HEADER_SIZE

    @property
    def digest(self):
        return self.payload[:32].hex()


class RequestTest(Case):
    def setUp(self):
        super().setUp()
        self.device = self.serve()

    def serve(self, directory=None):
        device = self.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
        self.attach(device, directory)
        return device

    def readable(self, device=None, seconds=5.0):
        device = self.device if device is None else device
        return bool(select.select([device], [], [], seconds)[0])

    def read(self, device=None, size=REQUEST_MAX):
        """All messages of one read."""
        device = self.device if device is None else device
        self.assertTrue(self.readable(device))
        return self.messages(os.read(device, size))

    @staticmethod
    def messages(data):
        messages = []
        while data:
            messages.append(Message(data))
            data = data[messages[-1].length :]
        return messages

    def read_all(self, count, device=None):
        """The ids of so many requests."""
        ids = []
        while len(ids) < count:
            ids += [request.id for request in self.read(device)]
        self.assertEqual(len(ids), count)
        return ids

    def request(self, device=None):
        (request,) = self.read(device)
        self.assertEqual(request.operation, FETCH_BLOB)
        return request

    def mount(self, name="a", timeout=30, store=None, workload=None):
        mount = Mount(store or self.folder, digest_of(name.encode()), timeout, workload)
        self.addCleanup(mount.kill)
        return mount

    def mounts(self, names):
        """Mounts that all wait."""
        mounts = [self.mount(name) for name in names]
        deadline = time.monotonic() + 20
        while not all(mount.waits() for mount in mounts):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        return mounts

    def test_request(self):
        mount = self.mount()
        request = self.request()
        digest, manifest, workload, length, kind, priority = struct.unpack(
            "<32s32s32sQII", request.payload
        )
        self.assertEqual(digest.hex(), digest_of(b"a"))
        self.assertEqual(manifest, digest)
        self.assertEqual(workload, bytes(32))
        self.assertEqual((length, kind, priority), (0, 0, 0))
        self.assertErrno(errno.EAGAIN, os.read, self.device, REQUEST_MAX)
        reply = failure(request.id, errno.EHOSTUNREACH)
        self.assertEqual(os.write(self.device, reply), len(reply))
        self.assertEqual(mount.wait(), errno.EHOSTUNREACH)
        self.assertErrno(errno.ENOENT, os.write, self.device, reply)

    def test_failures(self):
        passed_on = ("EIO", "ENODATA", "EHOSTUNREACH", "ETIMEDOUT", "ENOSPC", "EACCES", "ENOMEM")
        numbers = {getattr(errno, name): getattr(errno, name) for name in passed_on}
        for number in (0, errno.EPERM, errno.EINTR, 512, 4096, 0x7FFFFFFF, 0xFFFFFFFB, 0x80000000):
            numbers[number] = errno.EIO
        for number, expected in numbers.items():
            with self.subTest(number=number):
                mount = self.mount()
                os.write(self.device, failure(self.request().id, number))
                self.assertEqual(mount.wait(), expected)

    def test_replies_of_the_wrong_form_change_nothing(self):
        mount = self.mount()
        id = self.request().id
        for payload in (b"", b"123", b"12345", bytes(8)):
            self.assertErrno(errno.EINVAL, os.write, self.device, message(FAILED, id, payload))
        for operation in (1, 2, 3, 4, 16, 17):
            self.assertErrno(errno.EINVAL, os.write, self.device, message(operation, id, bytes(4)))
        self.assertErrno(errno.ENOENT, os.write, self.device, failure(id + 1, errno.EIO))
        # A blob has no places, whatever the files are.
        file = self.open(self.folder + "/file", os.O_RDWR | os.O_CREAT)
        for table, slots in ((file, {}), (file, {0: file}), (-1, {}), (file, {3: -2})):
            self.assertErrno(errno.EINVAL, self.reply_places, self.device, id, table, slots)
        self.assertFalse(mount.ended())
        os.write(self.device, failure(id, errno.EACCES))
        self.assertEqual(mount.wait(), errno.EACCES)

    def test_wrong_content(self):
        path = self.folder + "/blob"
        for content in (b"", b"x", b"x" * 5000, bytes(16 * 1024 * 1024), bytes(16 * 1024 * 1024 + 1)):
            with open(path, "wb") as file:
                file.write(content)
            mount = self.mount()
            with open(path, "rb") as file:
                self.reply_file(self.device, self.request().id, file.fileno())
            # Whatever the store makes of it, it is no mount.
            for _ in range(5):
                if not self.readable(seconds=1) or mount.ended():
                    break
                os.write(self.device, failure(self.request().id, errno.EIO))
            self.assertNotIn(mount.wait(), (0, -signal.SIGKILL))

    def test_file(self):
        """A file with the right bytes is taken, if it is no manifest for all that."""
        path = self.folder + "/blob"
        with open(path, "wb") as file:
            file.write(b"a")
        with tempfile.NamedTemporaryFile(dir="/run") as elsewhere:
            mount = self.mount()
            id = self.request().id
            self.assertErrno(errno.EXDEV, self.reply_file, self.device, id, elsewhere.fileno())
        self.assertErrno(errno.EINVAL, self.reply_file, self.device, id, self.directory)
        with open(path, "rb") as file:
            self.reply_file(self.device, id, file.fileno())
            self.assertErrno(errno.ENOENT, self.reply_file, self.device, id, file.fileno())
        self.assertNotIn(mount.wait(), (0, errno.ETIMEDOUT, -signal.SIGKILL))

    def test_equal_requests_coalesce(self):
        mounts = self.mounts("aaaaa")
        id = self.request().id
        late = self.mount()
        self.assertFalse(self.readable(seconds=0.5))
        os.write(self.device, failure(id, errno.ENODATA))
        for mount in [*mounts, late]:
            self.assertEqual(mount.wait(), errno.ENODATA)
        self.assertFalse(self.readable(seconds=0))

    def test_workloads_are_told_and_apart(self):
        mounts = [self.mount(workload=name) for name in ("web", "web", "batch", None)]
        told = {}
        while len(told) < 3:
            for request in self.read():
                told[request.payload[64:96].rstrip(b"\0")] = request.id
        self.assertEqual(set(told), {b"web", b"batch", b""})
        for id in told.values():
            os.write(self.device, failure(id, errno.ENODATA))
        for mount in mounts:
            self.assertEqual(mount.wait(), errno.ENODATA)

    def test_one_read_returns_what_fits(self):
        count = 60
        mounts = self.mounts(str(number) for number in range(count))
        ids = [request.id for request in self.read()]
        length = HEADER_SIZE + BLOB_SIZE
        self.assertGreater(len(ids), (REQUEST_MAX - 256) // length)
        ids += self.read_all(count - len(ids))
        self.assertEqual(ids, sorted(set(ids)))
        for id in ids:
            os.write(self.device, failure(id, errno.ENODATA))
        for mount in mounts:
            self.assertEqual(mount.wait(), errno.ENODATA)

    def test_stores_are_apart(self):
        other_folder = tempfile.mkdtemp(dir="/tmp")
        other = self.serve(self.open(other_folder, os.O_RDONLY))
        mount = self.mount(store=other_folder)
        id = self.request(other).id
        self.assertFalse(self.readable(seconds=0.2))
        self.assertErrno(errno.ENOENT, os.write, self.device, failure(id, errno.EIO))
        os.write(other, failure(id, errno.EACCES))
        self.assertEqual(mount.wait(), errno.EACCES)

    def test_only_the_reader_of_a_request_answers(self):
        second = self.serve()
        mount = self.mount()
        id = self.request().id
        self.assertFalse(self.readable(second, 0))
        self.assertErrno(errno.ENOENT, os.write, second, failure(id, errno.EACCES))
        self.assertFalse(mount.ended())
        os.write(self.device, failure(id, errno.ENODATA))
        self.assertEqual(mount.wait(), errno.ENODATA)

    def test_requests_survive_a_daemon(self):
        mounts = self.mounts("012")
        ids = self.read_all(3)
        os.close(self.device)
        time.sleep(0.2)
        self.device = self.serve()
        self.assertEqual(self.read_all(3), ids)
        # With two daemons the other one goes on at once.
        second = self.serve()
        os.close(self.device)
        self.assertEqual(self.read_all(3, second), ids)
        for id in ids:
            os.write(second, failure(id, errno.ENODATA))
        for mount in mounts:
            self.assertEqual(mount.wait(), errno.ENODATA)

    def test_without_a_daemon(self):
        os.close(self.device)
        begin = time.monotonic()
        self.assertEqual(self.mount(timeout=1).wait(), errno.ETIMEDOUT)
        self.assertGreater(time.monotonic() - begin, 0.9)
        # One that comes in time answers.
        mount = self.mount()
        time.sleep(0.3)
        self.device = self.serve()
        os.write(self.device, failure(self.request().id, errno.ENODATA))
        self.assertEqual(mount.wait(), errno.ENODATA)

    def test_time_is_over(self):
        mount = self.mount(timeout=3)
        id = self.request().id
        self.assertEqual(mount.wait(), errno.ETIMEDOUT)
        (cancel,) = self.read()
        self.assertEqual((cancel.operation, cancel.id, cancel.payload), (CANCEL, id, b""))
        self.assertErrno(errno.ENOENT, os.write, self.device, failure(id, errno.EIO))

    def test_waiters_can_be_killed(self):
        # Before the daemon knows: it never learns of it.
        mount = self.mount()
        self.assertTrue(self.readable())
        self.assertEqual(mount.kill(), -signal.SIGKILL)
        self.assertFalse(self.readable(seconds=0))
        # Afterwards: it is told, when the last one is gone.
        mounts = self.mounts("aa")
        id = self.request().id
        self.assertEqual(mounts[0].kill(), -signal.SIGKILL)
        self.assertFalse(self.readable(seconds=0.2))
        self.assertEqual(mounts[1].kill(), -signal.SIGKILL)
        (cancel,) = self.read()
        self.assertEqual((cancel.operation, cancel.id), (CANCEL, id))

    def test_what_could_not_be_copied_is_read_again(self):
        mount = self.mount()
        self.assertTrue(self.readable())
        self.assertEqual(libc.read(self.device, ctypes.c_void_p(1), REQUEST_MAX), -1)
        self.assertEqual(ctypes.get_errno(), errno.EFAULT)
        os.write(self.device, failure(self.request().id, errno.ENODATA))
        self.assertEqual(mount.wait(), errno.ENODATA)

    def test_blocking_readers_share_the_work(self):
        os.close(self.device)
        served = []

        def serve():
            device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
            try:
                self.attach(device)
                stopped = False
                while not stopped:
                    for request in self.messages(os.read(device, REQUEST_MAX)):
                        if request.operation == CANCEL:
                            continue
                        served.append(request.id)
                        os.write(device, failure(request.id, errno.ENODATA))
                        stopped |= request.digest == digest_of(b"stop")
            finally:
                os.close(device)

        threads = [threading.Thread(target=serve) for _ in range(3)]
        for thread in threads:
            thread.start()
        mounts = [self.mount(str(number)) for number in range(20)]
        for mount in mounts:
            self.assertEqual(mount.wait(), errno.ENODATA)
        self.assertEqual(len(served), 20)
        for thread in threads:
            self.mount("stop").wait()
        for thread in threads:
            thread.join(10)
            self.assertFalse(thread.is_alive())

    def test_bad_daemons(self):
        """Daemons answer, lie, stay silent and die at random; every mount ends all the same."""
        source = random.Random(3)
        wrong = self.open(self.folder + "/wrong", os.O_RDWR | os.O_CREAT)
        os.write(wrong, b"wrong")
        mounts = [self.mount(str(number % 30), timeout=3) for number in range(90)]
        end = time.monotonic() + 8
        devices = [self.device, self.serve()]
        while time.monotonic() < end and not all([mount.ended() for mount in mounts]):
            index = source.randrange(len(devices))
            device = devices[index]
            if not self.readable(device, 0.01):
                continue
            for request in self.read(device, REQUEST_MAX):
                reply = source.choice(
                    (
                        failure(request.id, errno.ENODATA),
                        failure(request.id + 1, errno.ENODATA),
                        message(16, request.id),
                        wrong,
                        b"",
                        None,
                    )
                )
                if reply is None:
                    os.close(device)
                    devices[index] = self.serve()
                    break
                try:
                    if reply is wrong:
                        self.reply_file(device, request.id, wrong)
                    else:
                        os.write(device, reply)
                except OSError as error:
                    self.assertIn(error.errno, (errno.ENOENT, errno.EINVAL))
        for mount in mounts:
            self.assertNotIn(mount.wait(), (0, -signal.SIGKILL))


if __name__ == "__main__":
    unittest.main(verbosity=2)
