#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""The second reader and a mount have the same trees, and refuse the same images. For the test kernel, in a mount
namespace of its own: the mounts stay until it ends, since each unmounting takes long.

    kernel.py FOLDER [PART OF]     every OFth mutant, from the PARTth on
"""

import os
import shutil
import subprocess
import sys
import time

import mutants
import reader
import writer
from records import ROOT

# The kernel looks at one name at a time, and so shows such a directory under both.
TWICE = "a directory twice in one directory"
# It reads no pack for what is in memory since another image was read that has the same content.
SHORTER = "a pack is shorter than its record says"


def lines_of(store):
    """What `peerfs-testing manifest` must print of a mount; or why it must fail, and the lines before that."""
    lines = []
    try:
        opened = reader.Store(store)
        image = reader.Image(opened, opened.resolve("mutant"))
        lines.append(f". {reader.line(image, *image.inode(ROOT))}")
        lines += (f"{reader.escape(path)} {reader.line(image, *found)}" for path, *found in image.walk())
        return lines, None
    except reader.Refused as refused:
        return lines, str(refused)


def mounted(store, manifest, mountpoint):
    """What it does print, or why it does not."""
    options = f"root_dir={store},manifest={manifest.hex()},timeout=1"
    done = subprocess.run(["mount", "-t", "peerfs", "-o", options, "none", mountpoint], capture_output=True, check=False)
    if done.returncode != 0:
        return None, f"mount: {done.stderr.decode()}"
    return read(mountpoint)


def read(mountpoint):
    done = subprocess.run(["peerfs-testing", "manifest", mountpoint], capture_output=True, check=False)
    return (done.stdout.decode().splitlines(), None) if done.returncode == 0 else (None, done.stderr.decode())


def complaint(letter, wanted, refused, found, error):
    """What is wrong, or None."""
    if letter == mutants.U and found is None:
        return None
    if refused:
        return None if found is None else f"the second reader refuses: {refused}; the kernel does not"
    if found is None:
        return f"the kernel refuses: {error}"
    different = [pair for pair in zip(wanted, found) if pair[0] != pair[1]]
    return f"they differ: {different[:2]}" if different or len(wanted) != len(found) else None


class Log:
    """What the kernel says while this is there."""

    def __init__(self):
        self.file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        self.lines()

    def lines(self):
        """Those of the module since the last time."""
        found = []
        while True:
            try:
                line = os.read(self.file, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            except BrokenPipeError:
                # Some were overwritten.
                continue
            if "peerfs: " in line:
                found.append(line)


def main(folder, part="0", of="1"):
    began, failures, fine, log = time.monotonic(), 0, None, Log()
    chosen = mutants.MUTANTS[int(part)::int(of)]
    chosen = [(mutants.FINE, "as it is", lambda draft: None), *chosen]
    for number, (letter, name, change) in enumerate(chosen):
        store, mountpoint = os.path.join(folder, f"mutant-{number}"), os.path.join(folder, f"mounted-{number}")
        os.mkdir(mountpoint)
        draft = writer.Tree().draft
        change(draft)
        manifest = draft.write(store)
        wanted, refused = lines_of(store)
        fine = fine or wanted
        log.lines()
        answer = mounted(store, manifest, mountpoint)
        if name == TWICE:
            # The last line is that of the second name.
            found = complaint(letter, wanted, None, *answer) if refused else "the second reader does not refuse"
        elif name == SHORTER:
            found = complaint(letter, fine, None, *answer)
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as caches:
                caches.write("3")
            found = found or complaint(letter, wanted, refused, *read(mountpoint))
        else:
            found = complaint(letter, wanted, refused, *answer)
        if not found and answer[0] is None and not log.lines():
            found = "it is refused without a word"
        if found:
            failures += 1
            print(f"{letter} {name}: {found}"[:1000], flush=True)
        shutil.rmtree(store)
    print(f"{len(chosen)} mutants, {failures} failures, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
