#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# A mount is its source: everything that a tree can hold, read in every way that there is.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

check "an image of a tree of edge cases is built and mounted"
peerfs-testing make-tree tree
image=$(build tree store)
mount_image /tmp/store "$image" mnt

check "every path is the same"
same_tree tree mnt

check "reads at random places, in all ways; holes; directories from the middle; statfs"
peerfs-testing compare tree mnt --seed "$RANDOM" --count 1500

check "with nothing in the page cache, the same again"
echo 3 >/proc/sys/vm/drop_caches
peerfs-testing compare tree mnt --seed "$RANDOM" --count 300

check "in other codecs: every path is the same, and reads at random places"
for codec in lz4 none; do
    other=$(build tree "store-$codec" --compression "$codec")
    mount_image "/tmp/store-$codec" "$other" other
    same_tree tree other
    peerfs-testing compare tree other --seed "$RANDOM" --count 300
    umount other
done

check "nothing can be changed"
peerfs-testing read-only mnt

check "the mount shows its options"
grep -q " /tmp/mnt peerfs ro,.*root_dir=/tmp/store,manifest=$image,timeout=30" /proc/mounts

check "a remount to read-write is refused"
must_fail mount -o remount,rw mnt 2>remount.log
grep -q ' /tmp/mnt peerfs ro,' /proc/mounts

check "ACLs and modes are enforced"
as_user() { setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"; }
expect "for user 1234 and group 5678" "$(as_user 1234 cat mnt/xattrs/acl-file)" "the ACL's user"
expect "for user 1234 and group 5678" "$(as_user 5678 cat mnt/xattrs/acl-file)" "the ACL's group"
must_fail as_user 4321 cat mnt/xattrs/acl-file 2>denied
must_fail as_user 4321 ls mnt/modes/dir-0 2>denied

check "two mounts of one image, and a mount of it by another path"
mount_image /tmp/store "$image" second ,timeout=7
ln -s store also-store
mount_image /tmp/also-store "$image" third
cmp tree/content/large-text second/content/large-text
cmp tree/content/large-random third/content/large-random

check "what is open is read without walking a path again"
exec {held}<second/content/large-random
mv store/blobs store/elsewhere
echo 3 >/proc/sys/vm/drop_caches
cmp tree/content/large-random - <&"$held"
mv store/elsewhere store/blobs
exec {held}<&-

check "peerfs mounts and unmounts by the tag too"
mkdir by-tag
peerfs mount --root-dir store --timeout 9 test by-tag
grep -q " /tmp/by-tag peerfs .*manifest=$image,timeout=9" /proc/mounts
cmp tree/content/large-text by-tag/content/large-text
peerfs umount by-tag
must_fail mountpoint -q by-tag

check "a store whose path has a comma; a mount point that is no directory"
mkdir a,b comma
mount --bind store a,b
mount.peerfs -o "root_dir=/tmp/a\,b,manifest=$image" none comma
cmp tree/content/large-text comma/content/large-text
umount comma a,b
must_fail peerfs mount --root-dir store test tree/content/large-text 2>refused
grep -q 'on a directory only' refused

check "it is a lower layer of overlayfs"
mkdir upper work merged
mount -t overlay -o lowerdir=mnt,upperdir=upper,workdir=work overlay merged
cmp tree/content/large-random merged/content/large-random
echo changed >>merged/content/large-text
rm merged/content/one-byte
mkdir merged/new && mv merged/content/text-4096 merged/new/
cmp tree/content/large-text mnt/content/large-text
[[ ! -e merged/content/one-byte && -e mnt/content/one-byte ]]
cmp tree/content/text-4096 merged/new/text-4096
umount merged

check "it is unmounted, and while in use lazily"
umount second third
exec {held}<mnt/content/large-random
must_fail umount mnt 2>busy
umount --lazy mnt
cmp tree/content/large-random - <&"$held"
exec {held}<&-
