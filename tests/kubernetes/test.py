#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""test.py PROGRAMS | --write: what configs/kubernetes gives a cluster.

Renders the chart, with the few functions of Helm that it uses; compares that with peerfs.yaml (or writes it); looks whether
the parts fit together, and with schemas of Kubernetes if the Python package kubernetes-validate is there; and runs what a pod
does on a machine that is a folder.
"""

import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = TOP / "configs/kubernetes"
RENDERED = CONFIGS / "peerfs.yaml"
HEAD = """# SPDX-License-Identifier: GPL-2.0 OR MIT
# The chart with its default values, for `kubectl apply`. Made by tests/kubernetes/test.py --write.
apiVersion: v1
kind: Namespace
metadata:
  name: peerfs
"""
FUNCTIONS = {
    "quote": lambda text: f'"{text}"',
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "toYaml": lambda value: yaml.safe_dump(value).rstrip("\n"),
}


def evaluate(expression, values):
    """A pipeline such as `toYaml .Values.a | nindent 8`."""
    result = None
    for part in expression.split("|"):
        words = part.split()
        if len(words) == 2 and words[1].startswith(".Values."):
            result = FUNCTIONS[words[0]](values[words[1].removeprefix(".Values.")])
        elif words[0].startswith(".Values."):
            (word,) = words
            result = values[word.removeprefix(".Values.")]
        elif words[0] == "nindent":
            # Helm's does so with empty lines as well, of which there are none.
            indent = "\n" + " " * int(words[1])
            result = indent + str(result).replace("\n", indent)
        else:
            (word,) = words
            result = FUNCTIONS[word](result)
    return str(result)


def render(text, values):
    """A template, whose `{{-` takes the space before it away."""
    text = re.sub(r"\s*\{\{-", "{{", text)
    return re.sub(r"\{\{\s*(.*?)\s*\}\}", lambda found: evaluate(found[1], values), text)


def rendered():
    """All of the chart with its default values."""
    values = yaml.safe_load((CONFIGS / "chart/values.yaml").read_text())
    templates = sorted((CONFIGS / "chart/templates").glob("*.yaml"))
    parts = [HEAD] + [render(path.read_text(), values) for path in templates]
    lines = "---\n".join(parts).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def fits_together(objects, programs):
    """What no schema knows."""
    by_kind = {one["kind"]: one for one in objects}
    nodes, configuration = by_kind["DaemonSet"], by_kind["ConfigMap"]
    namespace = by_kind["Namespace"]["metadata"]["name"]
    assert {one["metadata"].get("namespace", namespace) for one in objects} == {namespace}
    pod = nodes["spec"]["template"]
    wanted = nodes["spec"]["selector"]["matchLabels"].items()
    assert wanted <= pod["metadata"]["labels"].items()
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    (container,) = pod["spec"]["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["configuration"]["configMap"]["name"] == configuration["metadata"]["name"]
    chart = yaml.safe_load((CONFIGS / "chart/Chart.yaml").read_text())
    assert container["image"].endswith(":" + chart["appVersion"])
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(configuration["data"]["peerfsd.toml"])
        file.flush()
        command = [programs / "peerfsd", "--config", file.name, "--check"]
        subprocess.run(command, check=True)


def installs(programs):
    """What a pod does, twice, on a machine that is a folder, and not on one that has the packages."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files, host = folder / "files", folder / "host"
        for place, name in [("bin", "peerfs"), ("sbin", "peerfsd"), ("sbin", "peerfs-snapshotter")]:
            target = files / "usr" / place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(programs / name)
        systemd = TOP / "configs/systemd"
        units = files / "usr/lib/systemd/system"
        units.mkdir(parents=True)
        for path in [*systemd.glob("*.service"), *systemd.glob("*.socket")]:
            (units / path.name).write_text(path.read_text())
        for kind in ["sysusers", "tmpfiles"]:
            target = files / f"usr/lib/{kind}.d/peerfs.conf"
            target.parent.mkdir()
            target.write_text((systemd / f"peerfs.{kind}").read_text())
        configuration = folder / "peerfsd.toml"
        configuration.write_text("request_timeout = '10s'\n")
        commands = folder / "commands"
        on_host = folder / "on-host"
        on_host.write_text(f'#!/bin/sh\necho "$@" >>{commands}\n')
        on_host.chmod(0o755)
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOST_ROOT": host,
            "NODE_FILES": files,
            "NODE_CONFIGURATION": configuration,
            "ON_HOST": on_host,
        }
        for _ in range(2):
            subprocess.run([CONFIGS / "node", "--once"], env=environment, check=True)
        assert commands.read_text().count("systemctl restart peerfsd.service") == 2
        unit = (host / "etc/systemd/system/peerfsd.service").read_text()
        assert "\nExecStart=/opt/peerfs/bin/peerfsd\n" in unit and "/usr/sbin/peerfs" not in unit
        installed = host / "opt/peerfs/bin/peerfsd"
        version = subprocess.run([installed, "--version"], check=True, capture_output=True)
        assert version.stdout.startswith(b"peerfsd ")
        assert (host / "etc/peerfs/peerfsd.toml").read_text() == configuration.read_text()

        packaged = folder / "packaged"
        (packaged / "usr/sbin").mkdir(parents=True)
        (packaged / "usr/sbin/peerfsd").symlink_to("/bin/true")
        commands.unlink()
        environment["HOST_ROOT"] = packaged
        subprocess.run([CONFIGS / "node", "--once"], env=environment, check=True)
        assert not commands.exists() and not (packaged / "opt").exists()


def main():
    """Does what the command line says."""
    text = rendered()
    if sys.argv[1] == "--write":
        RENDERED.write_text(text)
        return
    programs = pathlib.Path(sys.argv[1]).resolve()
    assert RENDERED.read_text() == text, "run tests/kubernetes/test.py --write"
    objects = list(yaml.safe_load_all(text))
    fits_together(objects, programs)
    installs(programs)
    try:
        import kubernetes_validate
    except ImportError:
        return
    for one in objects:
        for version in ["1.25", "1.37"]:
            kubernetes_validate.validate(one, version, strict=True)


main()
