#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# An image that the kernel's NFS server exports: the file handles of a filesystem without a device.
# uml-run: --memory 1G --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

# What a server asks rpc.mountd for, said beforehand: the client at this address is `here`; /tmp/image is
# its root, by the number 0, to read only, from any port, without looking at the tree above it.
export_image() {
    local forever=2147483647 flags=$((0x1 | 0x2 | 0x400 | 0x2000))
    echo "nfsd 127.0.0.1 $forever here" >/proc/net/rpc/auth.unix.ip/channel
    echo "here /tmp/image $forever $flags 65534 65534 0" >/proc/net/rpc/nfsd.export/channel
    printf '%s\n' "here 1 \\x00000000 $forever /tmp/image" >/proc/net/rpc/nfsd.fh/channel
}
start_server() {
    export_image
    echo "-2 -3 +4.2" >/proc/fs/nfsd/versions
    # For so long it waits for clients of an earlier server; less is not to be had.
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    echo "tcp 2049" >/proc/fs/nfsd/portlist
    echo 2 >/proc/fs/nfsd/threads
}
stop_server() {
    echo 0 >/proc/fs/nfsd/threads
    for cache in auth.unix.ip nfsd.export nfsd.fh; do
        echo 2147483647 >"/proc/net/rpc/$cache/flush"
    done
}
mount_nfs() {
    mount -i -t nfs4 -o vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1,soft,timeo=100,lookupcache=none \
        127.0.0.1:/ nfs
}
# The protocol carries users' own attributes, and no others.
same_tree_by_nfs() { same_tree "$1" nfs 's/ xattr:(security|system|trusted)\.[^ ]*//g'; }

mount -t nfsd nfsd /proc/fs/nfsd
peerfs-testing make-tree tree --small
first=$(build tree store)
mount_image /tmp/store "$first" image
start_server

check "the tree is the same through NFS"
mkdir nfs
mount_nfs
same_tree_by_nfs tree

check "handles are good when nothing of the image is in memory any more"
exec 4<nfs/content/large-random
echo 3 >/proc/sys/vm/drop_caches
cmp - tree/content/large-random <&4
exec 4<&-
same_tree_by_nfs tree

check "handles outlive the server, and the mount"
stop_server
umount image
mount_image /tmp/store "$first" image
start_server
same_tree_by_nfs tree

check "those of another image are stale, and its own tree is read afterwards"
mkdir other && echo other >other/file && mkdir other/folder
exec 5<nfs/content
stop_server
umount image
mount_image /tmp/store "$(build other store)" image
start_server
echo 3 >/proc/sys/vm/drop_caches
must_fail ls /proc/self/fd/5/ 2>message
grep -qi 'stale' message || fail "another image's handle: $(<message)"
exec 5<&-
umount nfs
mount_nfs
same_tree_by_nfs other

umount nfs
stop_server
umount image
umount /proc/fs/nfsd
