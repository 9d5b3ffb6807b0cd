#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# An image that the kernel's NFS server exports: the file handles of a filesystem without a device.
# uml-run: --memory 1G --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

# The protocol carries users' own attributes, and no others.
same_tree_by_nfs() { same_tree "$1" nfs 's/ xattr:(security|system|trusted)\.[^ ]*//g'; }

peerfs-testing make-tree tree --small
first=$(build tree store)
mount_image /tmp/store "$first" image
serve_nfs /tmp/image ro

check "the tree is the same through NFS"
mkdir nfs
mount_nfs nfs
same_tree_by_nfs tree

check "handles are good when nothing of the image is in memory any more"
exec 4<nfs/content/large-random
echo 3 >/proc/sys/vm/drop_caches
cmp - tree/content/large-random <&4
exec 4<&-
same_tree_by_nfs tree

check "handles outlive the server, and the mount"
stop_nfs
umount image
mount_image /tmp/store "$first" image
serve_nfs /tmp/image ro
same_tree_by_nfs tree

check "those of another image are stale, and its own tree is read afterwards"
mkdir other && echo other >other/file && mkdir other/folder
exec 5<nfs/content
stop_nfs
umount image
mount_image /tmp/store "$(build other store)" image
serve_nfs /tmp/image ro
echo 3 >/proc/sys/vm/drop_caches
must_fail ls /proc/self/fd/5/ 2>message
grep -qi 'stale' message || fail "another image's handle: $(<message)"
exec 5<&-
umount nfs
mount_nfs nfs
same_tree_by_nfs other

umount nfs
stop_nfs
umount image
umount /proc/fs/nfsd
