#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# The module comes and goes 50 times, and leaves nothing behind. (Lost memory is the runner's part:
# what kmemleak finds after the module's last end is of all 50.)
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
image=$(build tree pristine)
cp -a pristine store
remove_packs store
peerfs-testing manifest tree >expected

slab() { awk '/^(SUnreclaim|VmallocUsed):/ { sum += $2 } END { print sum }' /proc/meminfo; }
settle() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
    # Freed by RCU and its like.
    sleep 1
}

check "load, mount, read, serve, unmount, unload: 50 times"
for ((number = 0; number < 50; number++)); do
    [[ ! -d /sys/module/peerfs ]] || rmmod peerfs
    modprobe peerfs
    mount_image /tmp/pristine "$image" mnt
    cat mnt/content/large-text mnt/content/tiny-* | cmp - <(cat tree/content/large-text tree/content/tiny-*)
    umount mnt
    # With a daemon, and ending while a readahead may still be on its way.
    forget_chunks store
    start_daemon /tmp/store /tmp/pristine honest
    mount_image /tmp/store "$image" mnt ,timeout=20
    head --bytes=50000 mnt/content/large-random | cmp - <(head --bytes=50000 tree/content/large-random)
    umount mnt
    stop_daemon
    if ((number == 9)); then settle && before=$(slab); fi
done
rmmod peerfs
settle
after=$(slab)

check "what does not shrink has not grown: $before kB after 10 times, $after kB at the end"
# Room for what other parts of the kernel keep; a leak of one small inode cache each time is more.
((after - before < 3000)) || fail "$((after - before)) kB more"
[[ ! -e /dev/peerfs && ! -e /sys/kernel/debug/peerfs ]]
must_fail grep -q peerfs /proc/filesystems /proc/slabinfo

check "it is refused while it is in use"
modprobe peerfs
mount_image /tmp/pristine "$image" mnt
must_fail rmmod peerfs 2>busy
umount mnt
start_daemon /tmp/store /tmp/pristine silent
must_fail rmmod peerfs 2>busy
stop_daemon
