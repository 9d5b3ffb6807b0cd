#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Files with the same content have the same pages, in whatever image and store they are.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

# cached FILE: bytes of it in the page cache.
cached() { fincore --bytes --noheadings --output RES "$1" | tr -d ' '; }

peerfs-testing make-tree tree --small
cp -a tree changed
echo "a line more" >>changed/content/large-random
dd if=/dev/urandom of=changed/content/new bs=64k count=1 status=none
one=$(build tree one-store)
other=$(build changed other-store)
big=content/large-text
size=$(stat --format %s tree/$big)
mount_image /tmp/one-store "$one" one
mount_image /tmp/other-store "$other" other

check "what was read in one image is in memory for the other"
expect 0 "$(cached other/$big)" "cached before anything was read"
cmp tree/$big one/$big
(($(cached other/$big) >= size)) || fail "only $(cached other/$big) of $size bytes are shared"
exec 5<other/$big
cmp tree/$big /dev/fd/5
same_tree changed other
same_tree tree one

check "a file that differs keeps its differences"
must_fail cmp -s one/content/large-random other/content/large-random

check "what one mount shares outlives it, and its store"
exec 6<one/$big
head -c 4096 <&6 >byte
umount --lazy one
cmp tree/$big /dev/fd/5
exec 6<&-
rm -rf one-store
echo 3 >/proc/sys/vm/drop_caches
expect 0 "$(cached other/$big)" "cached after everything was dropped"
cmp tree/$big other/$big
same_tree changed other

check "many mounts and unmounts, with readers in between"
mv other-store store
for round in 1 2 3; do
    for mount in a b c d; do mount_image /tmp/store "$other" "$mount"; done
    for mount in a b c d; do cmp changed/content/large-random "$mount/content/large-random" & done
    for job in $(jobs -p); do wait "$job"; done
    umount a b c d
    echo "$round" >/proc/sys/vm/drop_caches
done
exec 5<&-
umount other
