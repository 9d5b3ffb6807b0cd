#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""test.py PROGRAMS: the commands of Documentation/tutorial.md as they stand there, on two machines; as root.

A machine is a network namespace and a mount namespace, in which /etc, /run and /var/lib are its own. The
packages are not installed: peerfsd is started as they would. The registry is Debian's, on the first machine.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 60
CONFIGURATION = '[registry]\ninsecure = ["registry.example"]\n'
REGISTRY = """version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: "192.0.2.1:80"}
"""


def sections():
    """The commands of each section, by its number."""
    found, number = {}, None
    for line in (TOP / "Documentation/tutorial.md").read_text().splitlines():
        if heading := re.match(r"## (\w+)", line):
            number = heading[1]
        elif line.startswith("    "):
            command = re.sub(r"\s+#.*", "", line.strip())
            found.setdefault(number, []).append(command)
    return found


class Machine:
    """One machine; `number` is the last part of its address."""

    def __init__(self, number, folder, programs):
        self.programs, self.folder = programs, folder / str(number)
        self.folder.mkdir()
        self.processes = []
        unshare = ["unshare", "--net", "--mount", "--propagation", "private", "sleep", "infinity"]
        self.holder = subprocess.Popen(unshare)
        deadline = time.monotonic() + PATIENCE
        own = os.readlink("/proc/self/ns/mnt")
        while os.readlink(f"/proc/{self.holder.pid}/ns/mnt") == own:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # What a container writes is in a layer of overlayfs, which can't be in such a layer itself.
        empty = " && ".join(f"mount -t tmpfs tmpfs {path}" for path in [self.folder, "/run", "/var/lib", "/mnt"])
        self.run(
            f"{empty} && cd {self.folder} && mkdir upper work && ip link set lo up"
            " && mount -t overlay overlay -o lowerdir=/etc,upperdir=upper,workdir=work /etc"
        )
        self.run("mkdir -p /etc/peerfs && cat >/etc/peerfs/peerfsd.toml", CONFIGURATION)
        self.run("cat >>/etc/hosts", "192.0.2.1 registry.example\n")

    def command(self, command):
        """What runs a command of a shell on the machine."""
        enter = ["nsenter", "--target", str(self.holder.pid), "--net", "--mount"]
        environment = {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"}
        return {"args": [*enter, "bash", "-ec", command], "env": environment, "text": True}

    def run(self, command, told=""):
        """Runs a command, and returns what it prints."""
        done = subprocess.run(**self.command(command), input=told, capture_output=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, command):
        """Starts what runs until the end."""
        silently = f"exec {command} >/run/{command.split()[0]}.log 2>&1"
        self.processes.append(subprocess.Popen(**self.command(silently)))

    def end(self):
        """Ends all that was started."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(PATIENCE)
        self.run("umount --all --types fuse.peerfs || true")
        self.holder.send_signal(signal.SIGKILL)
        self.holder.wait()


def until(what, holds):
    """Waits until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def tutorial(first, second):
    """All of it."""
    steps = sections()
    # What is done in its place is above.
    assert [command.split()[:2] for command in steps.pop("1")] == [["apt", "install"]]
    for machine in [first, second]:
        machine.start("peerfsd")
        until("the daemon runs", lambda: machine.run("peerfs status >/dev/null 2>&1 && echo up || true"))

    digest = None
    for command in steps.pop("2"):
        printed = first.run(command)
        digest = digest or printed.strip()
        if command.startswith("ls"):
            assert printed.split() == sorted(os.listdir("/usr/share/doc"), key=printed.split().index)

    copyright_of_bash = pathlib.Path("/usr/share/doc/bash/copyright").read_text()
    for command in steps.pop("3"):
        printed = second.run(command.replace("DIGEST", digest))
        if command.startswith("cat"):
            assert printed == copyright_of_bash
        if command == "peerfs peers":
            assert "192.0.2.1" in printed, printed

    first.run("mkdir /var/lib/registry && cat >/etc/registry.yml", REGISTRY)
    first.start("docker-registry serve /etc/registry.yml")
    up = "bash -c '</dev/tcp/192.0.2.1/80' 2>/dev/null && echo up || true"
    until("the registry runs", lambda: first.run(up))
    first.run(
        "mkdir -p /run/tree/bin && cp /bin/busybox /run/tree/bin/sh"
        " && peerfs build /run/tree --tag registry.example/team/debian:12"
        " && peerfs push --tls-verify=false registry.example/team/debian:12"
    )
    (command,) = steps.pop("4")
    for machine in [first, second]:
        # A terminal of its own, as `-it` wants one.
        printed = machine.run(f"script --quiet --return --command {command!r} /dev/null", "echo $((6 * 7))\nexit\n")
        assert re.search(r"^42\s*$", printed, re.MULTILINE), printed
    assert not steps, steps


def main():
    """Makes the machines, and ends them."""
    folder = pathlib.Path(tempfile.mkdtemp())
    machines = []
    try:
        for number in [1, 2]:
            machines.append(Machine(number, folder, pathlib.Path(sys.argv[1]).resolve()))
        ends = [f"name eth0 netns {machine.holder.pid}" for machine in machines]
        subprocess.run(f"ip link add {ends[0]} type veth peer {ends[1]}".split(), check=True)
        for number, machine in enumerate(machines, 1):
            machine.run(
                f"ip address add 192.0.2.{number}/24 dev eth0 && ip link set eth0 up"
                " && ip route add default dev eth0"
            )
        tutorial(*machines)
    finally:
        for machine in machines:
            machine.end()
        shutil.rmtree(folder)


main()
