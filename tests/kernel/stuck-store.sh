#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# A store gets stuck: its filesystem does not answer any more. Its own mount's readers wait, and can be killed; all
# other mounts are read and unmounted, and so is this one, and the machine syncs.
# uml-run: --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
image=$(build tree store)
mkdir slow-store
: >server.log
"$(dirname "${BASH_SOURCE[0]}")/fuse_folder.py" store slow-store >server.log 2>&1 &
server=$!
wait_until 30 grep -q mounted server.log
mount_image /tmp/slow-store "$image" slow
for mount in a b c; do mount_image /tmp/store "$image" "$mount"; done

# within SECONDS COMMAND...: also fails if it takes longer.
within() { timeout --signal KILL "$1" "${@:2}" || fail "not done in $1 s: ${*:2}"; }
gone() { ! kill -0 "$1" 2>/dev/null; }

check "what the mount has read before it stops"
cmp slow/content/large-text tree/content/large-text
head -c 4096 slow/content/large-random >/dev/null
kill -STOP "$server"

check "many wait for it"
readers=()
for file in large-random large-random shifted-large-random random-262145 random-262144 random-65537; do
    cat "slow/content/$file" >/dev/null 2>&1 &
    readers+=($!)
done
python3 -c 'import os; os.posix_fadvise(os.open("slow/content/large-random", os.O_RDONLY), 0, 0, os.POSIX_FADV_WILLNEED)' &
readers+=($!)
sleep 1
for reader in "${readers[@]:0:6}"; do kill -0 "$reader" || fail "a reader does not wait"; done

check "others are read, also with readahead, and the machine syncs and drops what it has cached"
cmp tree/content/large-random a/content/large-random
within 2 sync
within 2 sh -c 'echo 3 >/proc/sys/vm/drop_caches'
cmp tree/content/large-random b/content/large-random

check "others are unmounted"
for mount in a b c; do within 5 umount "$mount"; done

check "its readers can be killed, and it is unmounted"
kill -KILL "${readers[@]}"
for reader in "${readers[@]}"; do wait_until 5 gone "$reader"; done
within 5 umount slow
within 2 sync

check "the module stays until the store gives up what it has of it, and then goes"
if [[ $(awk '$1 == "peerfs" { print $3 }' /proc/modules) != 0 ]]; then
    must_fail rmmod peerfs 2>busy
fi
kill -KILL "$server"
wait "$server" 2>/dev/null || true
unloaded() { rmmod peerfs 2>/dev/null; }
wait_until 5 unloaded
umount slow-store
modprobe peerfs
