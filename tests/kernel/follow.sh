#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Images that are mounted by a publisher's name, through the kernel's own filesystem, and switched live under a reader.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

mkdir tree mnt
for content in one two; do
    echo "$content" >tree/file
    peerfs build tree --root-dir /tmp/store --tag "$content" >/dev/null 2>&1
done
cat >config.toml <<'END'
root_dir = "/tmp/store"
state_dir = "/tmp/state"
control_socket = "/run/follow.sock"
[peer]
mdns = false
listen = ["/ip4/127.0.0.1/tcp/0"]
END
peerfsd --config config.toml 2>log &
daemon=$!
wait_until 20 peerfs status --socket /run/follow.sock >/dev/null 2>&1 || fail "$(<log)"
export PEERFS_KEYS=/tmp/keys PEERFS_ROOT_DIR=/tmp/store
peerfs key new >/dev/null 2>&1
publish() { peerfs publish --socket /run/follow.sock "$@" 2>/dev/null; }
is_mounted() { grep --count ' /tmp/mnt peerfs ' /proc/mounts || true; }

check "an image is mounted by its name, also by the helper of mount(8)"
name=$(publish base one)
peerfs mount --socket /run/follow.sock "$name" mnt
expect one "$(<mnt/file)" "the file"
umount mnt
mount.peerfs -o root_dir=/tmp/store,socket=/run/follow.sock "$name" mnt
expect one "$(<mnt/file)" "the file"
umount mnt

check "a reader finds one image or the other, and an open file stays what it was"
peerfs follow --socket /run/follow.sock "$name" mnt >followed 2>follow.log &
follow=$!
wait_until 20 grep --quiet '^1 ' followed || fail "$(<follow.log)"
exec 5<mnt/file
: >errors
while [[ ! -e over ]]; do
    content=$(<mnt/file) || echo "not read" >>errors
    [[ $content == one || $content == two ]] || echo "found $content" >>errors
done 2>>errors &
reader=$!
for sequence in {2..13}; do
    content=$((sequence % 2 ? 1 : 2))
    publish base "$([[ $content == 1 ]] && echo one || echo two)" >/dev/null
    wait_until 20 grep --quiet "^$sequence " followed || fail "$(<follow.log)"
done
touch over
wait "$reader"
[[ ! -s errors ]] || fail "$(head -n 5 errors)"
read -r content <&5
expect one "$content" "the file that was open"
exec 5<&-
expect 1 "$(is_mounted)" "mounts"

check "what an earlier record stood for comes back"
peerfs rollback --socket /run/follow.sock "$name" --to 2 >/dev/null
wait_until 20 grep --quiet two mnt/file
kill "$follow"
wait "$follow"
expect 0 "$(is_mounted)" "mounts"
kill "$daemon"
wait "$daemon"
