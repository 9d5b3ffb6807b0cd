#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# An image in an image: the store of one mount is in the tree of another. The pack of a file that cannot be compressed
# has the same content as the file in it, and must not have the same pages, or who fills them waits for itself.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

mkdir -p raw/tree text/tree lower loop overlay/{upper,work,mnt}
dd if=/dev/urandom of=raw/tree/file bs=64k count=10 status=none
seq 1 100000 >text/tree/file
declare -A image
for kind in raw text; do image[$kind]=$(build $kind/tree store); done

# A tree that holds the store, as a folder and on a disk.
mkdir holder
cp -a store holder/store
truncate --size=40M holder/disk
mke2fs -q -t ext4 -b 4096 -d store holder/disk
holder=$(build holder outer-store)
mount_image /tmp/outer-store "$holder" lower
sha256sum raw/tree/file lower/store/blobs/sha256/* | sort | uniq --repeated --check-chars=64 | grep -q . ||
    fail "no pack has the content of the file"

# mount_both STORE NAME
mount_both() { for kind in raw text; do mount_image "$1" "${image[$kind]}" "$2-$kind"; done; }
# read_both NAME: within seconds, alone and several at once.
read_both() {
    local kind
    for kind in raw text raw; do
        timeout --signal KILL 10 cat "$1-$kind/file" | cmp - "$kind/tree/file" || fail "$1-$kind" &
    done
    for job in $(jobs -p); do wait "$job" || fail "$1"; done
}
drop() { echo 3 >/proc/sys/vm/drop_caches; }

check "a store in a mount"
mount_both /tmp/lower/store direct
read_both direct

check "with the same content, and the packs below, read by others at the same time"
mount_both /tmp/store beside
drop
read_both direct &
read_both beside &
cat lower/store/blobs/sha256/* >/dev/null &
for job in $(jobs -p); do wait "$job"; done

check "on a disk whose bytes are in a mount"
mount -o loop,ro lower/disk loop
mount_both /tmp/loop on-disk
drop
read_both on-disk &
cmp lower/disk holder/disk &
read_both direct &
for job in $(jobs -p); do wait "$job"; done
umount on-disk-* loop beside-* direct-*

check "with an overlay between there are too many filesystems on each other"
mount -t overlay -o lowerdir=lower,upperdir=overlay/upper,workdir=overlay/work none overlay/mnt
must_fail mount_image /tmp/overlay/mnt/store "${image[raw]}" stacked 2>message
dmesg | grep -q "too many filesystems are stacked" || fail "it says $(<message)"
umount overlay/mnt

check "with an overlay below"
mkdir overlay/lower
cp -a store overlay/lower/store
mount -t overlay -o lowerdir=overlay/lower,upperdir=overlay/upper,workdir=overlay/work none overlay/mnt
mount_both /tmp/overlay/mnt/store stacked
read_both stacked
umount stacked-* overlay/mnt lower
