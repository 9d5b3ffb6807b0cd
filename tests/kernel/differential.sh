#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# The same random system calls on ext4 and on a mount of an image of it: the same answers.
# PEERFS_TEST_SECONDS: for how long each of the runs is to go on; PEERFS_TEST_SEED: one that found something.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
each=${PEERFS_TEST_SECONDS:-10}
seed=${PEERFS_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "   seed $seed"

check "a tree on ext4, and an image of it"
on_disk disk
peerfs-testing make-tree disk/tree
on_disk pristine
image=$(build disk/tree pristine)
mount -o remount,ro disk
mount_image /tmp/pristine "$image" mnt

# No word in the kernel log each time that caches are dropped.
echo 4 >/proc/sys/vm/drop_caches
differ() { peerfs-testing differ disk/tree "$@" || fail "the answers differ"; }

check "all of the image is there: a seed that is always the same, and another one"
differ mnt --seed 1 --seconds "$each" --drop-caches
differ mnt --seed "$seed" --seconds "$each" --drop-caches

check "to a user who may not do everything"
setpriv --reuid 1234 --regid 5678 --clear-groups \
    peerfs-testing differ disk/tree mnt --seed "$seed" --seconds "$((each / 2))" || fail "the answers differ"
umount mnt

check "nothing of the image is there: two at a time, and a daemon that has to be asked"
empty_store store
start_daemon /tmp/store /tmp/pristine honest
mount_image /tmp/store "$image" mnt
differ mnt --seed "$((seed + 1))" --seconds "$each" --drop-caches &
other=$!
differ mnt --seed "$((seed + 2))" --seconds "$each"
wait "$other"
umount mnt disk
stop_daemon
