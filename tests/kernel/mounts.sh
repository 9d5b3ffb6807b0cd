#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# peerfsd knows the mounts over its store, whatever their places are called, and no others; and of an image that is
# mounted it gets all, if it is asked to.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
image=$(build tree full)
# Blanks, commas and backslashes are written otherwise in the kernel's list of mounts.
store='a store, \with/names'
mkdir -p "$store"
empty_store "$store"
ln -s "$store" short
other=$(build tree other)

# start MORE...: the daemon, with another store to fetch from.
start() {
    printf '%s\n' 'device = "/dev/peerfs"' "$@" '[peer]' 'mdns = false' >config.toml
    peerfsd --config config.toml --root-dir "$store" --state-dir state --control-socket /run/p.sock 2>log &
    pid=$!
    wait_until 20 peerfs status --socket /run/p.sock >/dev/null 2>&1
}
start
check "without mounts"
expect '' "$(peerfs mounts --socket /run/p.sock --json)" "no mounts"
kill "$pid" && wait "$pid"

start '[[source]]' 'directory = "/tmp/full"'
check "two mounts of the store, one of another"
place='m 1,\x'
mkdir "$place" mnt
mount -t peerfs -o "root_dir=/tmp/short,manifest=$image" none "$place"
peerfs mount --root-dir "$store" "$image" --timeout 60 mnt
mount_image /tmp/other "$other" mnt.other
peerfs mounts --socket /run/p.sock --json >listed
expect 2 "$(wc -l <listed)" "mounts"
python3 - "$image" <<'PYTHON'
import json, sys
mounts = {mount["mountpoint"]: mount for mount in map(json.loads, open("listed"))}
assert set(mounts) == {"/tmp/m 1,\\x", "/tmp/mnt"}, mounts
assert all(mount["manifest"] == sys.argv[1] and mount["missing_bytes"] > 0 for mount in mounts.values()), mounts
PYTHON

check "and then all of the image"
peerfs pull --socket /run/p.sock --tag debian "$image" >/dev/null 2>message || fail "$(<message)"
peerfs mounts --socket /run/p.sock | tail -n +2 >listed
expect 2 "$(grep -c "debian *nothing *$image" listed)" "mounts with all of their image"
umount "$place" mnt mnt.other
expect '' "$(peerfs mounts --socket /run/p.sock --json)" "no mounts any more"
kill "$pid" && wait "$pid"

check "what is mounted in another mount namespace is kept, until it is unmounted"
# shellcheck disable=SC2016  # it is for the other shell
unshare --mount sh -c 'mount -t peerfs -o "root_dir=/tmp/short,manifest=$0" none mnt && touch mounted && exec sleep 1000' "$image" &
pid=$!
wait_until 20 test -e mounted
peerfs rm --root-dir "$store" debian >removed
expect "$image" "$(<removed)" "the removed image"
peerfs gc --root-dir "$store" >/dev/null
echo 3 >/proc/sys/vm/drop_caches
nsenter --mount="/proc/$pid/ns/mnt" diff -r --no-dereference /tmp/tree/content /tmp/mnt/content
kill "$pid"
wait "$pid" || true
peerfs gc --root-dir "$store" >/dev/null
expect '' "$(ls "$store/blobs/sha256")" "blobs"
