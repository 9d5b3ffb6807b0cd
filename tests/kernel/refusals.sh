#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What the format forbids is an error where somebody meets it, and a line in the log that names store, blob and rule;
# the rest of the image stays usable.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

rmmod peerfs
modprobe peerfs upcall=0
mkdir -p mnt store/{blobs/sha256,partial,tmp}
mounted() { mount_image /tmp/store "$(peerfs-testing break-rule store "$1")" mnt; }

check "an image like the others that breaks no rule"
mounted none
expect xxxxx "$(<mnt/00000001)" "content"
expect 3 "$(find mnt -type f | wc -l)" "files"
umount mnt

# refuses RULE LINE COMMAND...: the command fails, and with EIO.
refuses() {
    check "$1"
    mounted "$1"
    dmesg --clear
    must_fail "${@:3}" >output 2>message
    grep -q 'Input/output error' message || fail "another error: $(<message)"
    dmesg | grep -q "peerfs: /tmp/store: .*[0-9a-f]\{64\}.*$2" || fail "no line: $2"
    umount mnt
}
# The other files are as ever.
refuses_one() {
    refuses "$@"
    mounted "$1"
    [[ -f mnt/00000000 && -f mnt/00000002 ]] || fail "others are refused as well"
    umount mnt
}
refuses name-twice "refused: malformed order of names" ls mnt
refuses names-unsorted "refused: malformed order of names" ls mnt
refuses span-name "refused: malformed span name" ls mnt
refuses span-name "refused: malformed span name" stat mnt/00000001
refuses span-empty "refused: malformed span table" ls mnt
refuses_one entry-type "entry of inode 3: refused: malformed directory entry" stat mnt/00000001
refuses_one entry-of-root "refused: malformed directory entry" stat mnt/00000001
refuses_one other-parent "entry of inode 3: refused: malformed directory entry" stat mnt/00000001
refuses_one no-links "inode 3: refused: malformed inode record" stat mnt/00000001
refuses extent-overlap "inode 3: refused: malformed extent record" stat mnt/00000001
refuses_one extent-behind-end "inode 3: refused: malformed extent record" stat mnt/00000001
refuses_one extent-behind-pack "inode 3: refused: malformed extent record" stat mnt/00000001
refuses_one xattrs-unsorted "inode 3: refused: malformed xattr table" getfattr -d mnt/00000001
refuses_one skippable-frame "damaged: it cannot be decoded" cat mnt/00000001
refuses shard-inodes "refused: malformed inode table" ls mnt
# Each who needs the index says so.
refuses_one chunk-overlap "refused: malformed chunk record" cat mnt/00000001
