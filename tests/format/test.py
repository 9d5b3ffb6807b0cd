#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""The second reader and `peerfs` read the same trees, and refuse the same images.

    test.py PROGRAMS [SEED [COUNT]]

PROGRAMS is the folder with peerfs and peerfs-testing. Needs root, for device files. Besides the mutants that each
break a rule, COUNT random ones from SEED on.
"""

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import large
import mutants
import reader
import realm
import writer
from records import ROOT

TYPES = {"p": "fifo", "c": "character_device", "d": "directory", "b": "block_device", "f": "file", "l": "symlink",
         "s": "socket"}
# Longer files are listed, not read.
READ_MAX = 16 << 20
# Nothing here takes longer, unless it never ends.
SECONDS = 20
# What a check may take of the processor, in seconds, and of memory beside the blobs, in KiB.
CHECK_SECONDS = 1
CHECK_KIB = 4 << 10
# Runs a command, and prints its seconds and KiB: of a process whose own are few.
MEASURE = """
import os, resource, sys
child = os.fork()
if child == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


class Programs:
    """The commands that are tested."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, program, *arguments):
        """Exit status and output; the errors are for whoever looks at a failure."""
        try:
            done = subprocess.run([os.path.join(self.folder, program), *arguments], capture_output=True,
                                  timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return "it does not end", b"", b""
        return done.returncode, done.stdout, done.stderr

    def list(self, store):
        """What `peerfs ls` says of the root and of all paths below it, or why not."""
        found = []
        for options in ["-d"], ["-R"]:
            status, output, errors = self.run("peerfs", "ls", "--root-dir", store, "--json", *options, "mutant", "/")
            found += [json.loads(line) for line in output.splitlines()]
            if status != 0:
                break
        return status, sorted(found, key=path_of), errors

    def cat(self, store, paths):
        return self.run("peerfs", "cat", "--root-dir", store, "mutant", *(os.fsdecode(path) for path in paths))

    def verify(self, store):
        status, output, errors = self.run("peerfs", "verify", "--root-dir", store)
        return status, output + errors


    def cost(self, *arguments):
        """Seconds and KiB that a command takes."""
        peerfs = os.path.join(self.folder, "peerfs")
        done = subprocess.run([sys.executable, "-S", "-c", MEASURE, peerfs, *arguments], capture_output=True,
                              timeout=SECONDS, check=True)
        seconds, kib = done.stdout.split()
        return float(seconds), int(kib)


def path_of(info):
    return bytes.fromhex(info["path_hex"]) if "path_hex" in info else info["path"].encode()


def info_of(image, path, number, shard, record):
    """What `peerfs ls --json` says of a path."""
    kind = reader.TYPES[stat.S_IFMT(record.mode)]
    info = {"path": (b"/" + path).decode(errors="replace"), "inode": number, "type": TYPES[kind],
            "mode": f"{record.mode:o}", "uid": record.uid, "gid": record.gid, "nlink": record.nlink,
            "size": record.size, "allocated": record.allocated, "mtime_seconds": record.seconds,
            "mtime_nanoseconds": record.nanoseconds}
    if info["path"].encode() != b"/" + path:
        info["path_hex"] = (b"/" + path).hex()
    if kind == "f" and record.link < len(shard.digests):
        info["claimed_content_digest"] = shard.digests[record.link].digest.hex()
    if kind in "cb":
        info["device"] = [record.first >> 8 & 0xfff, record.first & 0xff | record.first >> 12 & 0xfff00]
    if kind == "l":
        info["target_hex"] = shard.heap_bytes(record.first, record.count).hex()
    for name, value in image.xattrs(shard, record):
        try:
            info.setdefault("xattrs", {})[name.decode()] = value.hex()
        except UnicodeDecodeError:
            info.setdefault("xattrs_hex", {})[name.hex()] = value.hex()
    return {key: value for key, value in info.items() if value != {}}


class Outcome:
    """What the second reader makes of an image: a listing, and files' contents; or why not."""

    def __init__(self, store):
        self.infos, self.contents, self.refused = [], {}, None
        try:
            store = reader.Store(store)
            image = reader.Image(store, store.resolve("mutant"))
            files = []
            self.infos.append(info_of(image, b"", ROOT, *image.inode(ROOT)))
            for path, number, shard, record in image.walk_numbers():
                self.infos.append(info_of(image, path, number, shard, record))
                if stat.S_ISREG(record.mode):
                    files.append((path, shard, record))
        except reader.Refused as refused:
            self.refused = str(refused)
            return
        for path, shard, record in files:
            try:
                if record.size <= READ_MAX:
                    pieces = []
                    reader.write_content(image, shard, record, pieces.append)
                    self.contents[path] = b"".join(pieces)
            except reader.Refused as refused:
                self.contents[path] = None
                self.refused = str(refused)
        self.infos.sort(key=path_of)


def complaint(programs, store, letter):
    """What is wrong with how the two readers and `peerfs verify` agree; None if nothing is. Without a letter the
    second reader decides what is right."""
    mine = Outcome(store)
    if letter in (mutants.FINE, mutants.V) and mine.refused or letter == mutants.R and not mine.refused:
        return f"the second reader refuses: {mine.refused}"
    status, infos, errors = programs.list(store)
    damaged, report = programs.verify(store)
    if damaged not in (0, 1) or status not in (0, 1):
        return f"ls and verify end with {status}, {damaged}: {errors} {report}"
    wanted = {mutants.FINE: 0, mutants.V: 1, mutants.R: 1}.get(letter, 1 if mine.refused else damaged)
    if damaged != wanted:
        return f"{letter}, the second reader says {mine.refused}, and verify: {report.decode()}"
    if letter == mutants.U and status != 0:
        return None
    if mine.refused and not mine.contents:
        return None if status else f"the second reader refuses ({mine.refused}), and `peerfs ls` does not"
    if mine.refused and status:
        return None
    if (status, infos) != (0, mine.infos):
        return f"the listings differ: {errors}\n{infos}\n{mine.infos}"
    # All at once if all can be read.
    together = {tuple(mine.contents): b"".join(mine.contents.values())} if not mine.refused and mine.contents else None
    for paths, content in (together or {(path,): content for path, content in mine.contents.items()}).items():
        status, output, errors = programs.cat(store, paths)
        if status == 0 and output != content or status != 0 and not mine.refused:
            return f"{paths} is read as {output[:20]}... of {len(output)} ({status}: {errors}), refused: {mine.refused}"
    return None


def random_mutant(seed):
    """A change of some fields of some records."""
    def change(draft):
        rng = random.Random(seed)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            shard = rng.choice(draft.shards)
            kinds = [(name, getattr(shard, name)) for name, _ in writer.TABLES if name != "digests"]
            kinds += [("chunks", pack.chunks) for pack in draft.packs]
            records = rng.choice([records for _, records in kinds if records])
            place = rng.randrange(len(records))
            if rng.random() < 0.2:
                other = rng.randrange(len(records))
                records[place], records[other] = records[other], records[place]
                continue
            old = records[place]
            field = rng.choice([name for name, value in zip(old._fields, old) if isinstance(value, int)])
            value = getattr(old, field)
            near = [value + 1, max(value - 1, 0), 0, 1, rng.randrange(16), value ^ 1 << rng.randrange(32),
                    getattr(rng.choice(records), field), 0xffffffff]
            try:
                records[place] = old._replace(**{field: rng.choice(near)})
                records[place].encode()
            except Exception:
                records[place] = old
    return change


def run(programs, folder, number, letter, name, change):
    """A failure's text, or None."""
    store = os.path.join(folder, str(number))
    draft = writer.Tree().draft
    change(draft)
    draft.write(store)
    found = complaint(programs, store, letter)
    shutil.rmtree(store)
    return f"{letter or 'random'} {name}: {found}" if found else None


def compare_trees(programs, folder):
    """Trees that `peerfs build` made an image of."""
    for name, options in ("edge-cases", []), ("small", ["--small"]):
        tree, store = os.path.join(folder, name), os.path.join(folder, name + ".store")
        for command in (["peerfs-testing", "make-tree", tree, *options],
                        ["peerfs", "build", tree, "--root-dir", store, "--tag", "test"]):
            status, _, errors = programs.run(*command)
            if status != 0:
                yield f"{command} ends with {status}: {errors}"
                return
        status, wanted, _ = programs.run("peerfs-testing", "manifest", tree)
        opened = reader.Store(store)
        image = reader.Image(opened, opened.resolve("test"))
        lines = [f". {reader.line(image, *image.inode(ROOT))}"]
        lines += [f"{reader.escape(path)} {reader.line(image, *found)}" for path, *found in image.walk()]
        different = [pair for pair in zip(wanted.decode().splitlines(), lines) if pair[0] != pair[1]]
        if different or len(wanted.splitlines()) != len(lines):
            yield f"{name}: {len(lines)} paths, and these differ: {different[:3]}"
        print(f"{name}: {len(lines)} paths are the same", flush=True)
        again = writer.Draft.read(image).write(os.path.join(folder, name + ".again"))
        if again != opened.resolve("test"):
            yield f"{name}: what was read and is written again has another digest"
        shutil.rmtree(tree)


def compare_encrypted(programs, folder):
    """A tree of which `peerfs build` made an encrypted image, and the same one plain."""
    tree, store, key = (os.path.join(folder, name) for name in ("secret", "secret.store", "realm.key"))
    build = ["peerfs", "build", tree, "--root-dir", store, "--tag"]
    for command in (["peerfs-testing", "make-tree", tree, "--small"], ["peerfs", "key", "realm", key],
                    [*build, "plain"], [*build, "secret", "--encrypt", key]):
        status, _, errors = programs.run(*command)
        if status != 0:
            yield f"{command} ends with {status}: {errors}"
            return
    opened = reader.Store(store)
    images = {name: reader.Image(opened, opened.resolve(name), realm.Realm.of_file(key)) for name in ("plain", "secret")}
    found = {}
    for name, image in images.items():
        image.check_contents()
        lines = [f". {reader.line(image, *image.inode(ROOT))}"]
        found[name] = lines + [f"{reader.escape(path)} {reader.line(image, *record)}" for path, *record in image.walk()]
    if found["plain"] != found["secret"]:
        yield "an encrypted image is another tree than the plain one"
    print(f"secret: {len(found['secret'])} paths are the same", flush=True)
    try:
        reader.Image(opened, opened.resolve("secret"))
        yield "an encrypted image is read without its key"
    except reader.Refused:
        pass
    shutil.rmtree(tree)


def check_large(programs, folder):
    """What the largest tables cost."""
    store = os.path.join(folder, "small.again")
    _, least = programs.cost("verify", "--root-dir", store)
    for make in large.ALL:
        name, store = make.__name__, os.path.join(folder, make.__name__)
        make().write(store)
        blobs = os.path.join(store, "blobs/sha256")
        longest = sum(os.path.getsize(os.path.join(blobs, blob)) for blob in os.listdir(blobs)) >> 10
        seconds, kib = programs.cost("verify", "--root-dir", store)
        if kib - least - longest > CHECK_KIB:
            # The allocator and the threads have their moods.
            again = [programs.cost("verify", "--root-dir", store) for _ in range(3)]
            seconds, kib = min(again, key=lambda cost: cost[1])
        print(f"{name}: {seconds:.2f} s, {kib - least - longest} KiB beside the blobs", flush=True)
        if seconds > CHECK_SECONDS or kib - least - longest > CHECK_KIB:
            yield f"verify of {name} takes {seconds} s, and {kib} KiB for {longest} of blobs, where {least} are least"
        shutil.rmtree(store)


def main(folder, seed="1", count="200"):
    programs = Programs(folder)
    sys.setrecursionlimit(100000)
    jobs = [(letter, name, change) for letter, name, change in mutants.MUTANTS]
    jobs.insert(0, (mutants.FINE, "as it is", lambda draft: None))
    jobs += [(None, f"seed {number}", random_mutant(number)) for number in range(int(seed), int(seed) + int(count))]
    # Beside the programs: /tmp may be of a kind that has no user.* attributes.
    with tempfile.TemporaryDirectory(dir=folder) as temporary, ThreadPoolExecutor(os.cpu_count()) as threads:
        failures = [*compare_trees(programs, temporary), *compare_encrypted(programs, temporary)]
        running = [threads.submit(run, programs, temporary, number, *job) for number, job in enumerate(jobs)]
        failures += filter(None, (job.result() for job in running))
        failures += check_large(programs, temporary)
    for failure in failures:
        print(failure[:2000])
    print(f"{len(jobs)} mutants, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
