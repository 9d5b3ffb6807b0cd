#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What is kept of an image beside the page cache is bounded, and given back when memory is short.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
image=$(build tree store)
mount_image /tmp/store "$image" mnt
ls -lR mnt >/dev/null
verified=$(store_counter mnt blobs_verified)

check "a shard stays in memory for the next lookup"
cached=$(store_counter mnt blobs_cached)
cat mnt/content/* >/dev/null
(($(store_counter mnt blobs_cached) > cached)) || fail "nothing came from memory"

check "until the memory is asked back"
index_and_shards=$(store_counter mnt blobs_verified)
((index_and_shards > verified)) || fail "the pack's index was not counted"
echo 3 >/proc/sys/vm/drop_caches
ls -lR mnt >/dev/null
(($(store_counter mnt blobs_verified) > index_and_shards)) || fail "nothing was given back"

check "a chunk that small files share is decoded once"
echo 3 >/proc/sys/vm/drop_caches
chunks=$(store_counter mnt chunks_verified)
for file in mnt/content/tiny-*; do cat "$file"; done >/dev/null
files=$(find mnt/content -name "tiny-*" | wc -l)
chunks=$(($(store_counter mnt chunks_verified) - chunks))
((chunks * 4 < files)) || fail "$chunks chunks were decoded for $files small files"
umount mnt
