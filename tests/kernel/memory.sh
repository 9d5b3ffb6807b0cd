#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What is kept of an image beside the page cache is bounded, and given back when memory is short.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

# count NAME: a counter of the only mount.
count() { awk -v name="$1" '$1 == name { print $2 }' /sys/kernel/debug/peerfs/mounts/*/store; }

peerfs-testing make-tree tree --small
image=$(build tree store)
mount_image /tmp/store "$image" mnt
ls -lR mnt >/dev/null
verified=$(count blobs_verified)

check "a shard stays in memory for the next lookup"
cached=$(count blobs_cached)
cat mnt/content/* >/dev/null
(($(count blobs_cached) > cached)) || fail "nothing came from memory"

check "until the memory is asked back"
index_and_shards=$(count blobs_verified)
((index_and_shards > verified)) || fail "the pack's index was not counted"
echo 3 >/proc/sys/vm/drop_caches
ls -lR mnt >/dev/null
(($(count blobs_verified) > index_and_shards)) || fail "nothing was given back"

check "a chunk that small files share is decoded once"
echo 3 >/proc/sys/vm/drop_caches
chunks=$(count chunks_verified)
for file in mnt/content/tiny-*; do cat "$file"; done >/dev/null
files=$(find mnt/content -name "tiny-*" | wc -l)
chunks=$(($(count chunks_verified) - chunks))
((chunks * 4 < files)) || fail "$chunks chunks were decoded for $files small files"
umount mnt
