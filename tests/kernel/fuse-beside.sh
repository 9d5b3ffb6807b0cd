#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# One store, mounted by the kernel's filesystem and, beside it, through FUSE: the same tree, the same answers, and from what is
# damaged no wrong byte by either.
# uml-run: --memory 1G --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
python=$(python3 -c 'import sys; print(sys.executable)')
call() { "$python" -I -S "$PEERFS_FROM/system_calls.py" "$@"; }

peerfs-testing make-tree tree
image=$(build tree store)
mount_image /tmp/store "$image" kernel
mkdir fuse
mount_fuse() { peerfs mount --fuse --root-dir store --timeout 1 "$image" fuse; }
mount_fuse
grep -q ' /tmp/kernel peerfs ro,' /proc/mounts
grep -q ' /tmp/fuse fuse.peerfs ro,' /proc/mounts

check "every path is the same in both"
same_tree tree fuse
same_tree kernel fuse

check "reads at random places, in all ways; holes; directories from the middle; statfs"
peerfs-testing compare tree fuse --seed "$RANDOM" --count 300
echo 3 >/proc/sys/vm/drop_caches
peerfs-testing compare kernel fuse --seed "$RANDOM" --count 300

check "nothing can be changed"
peerfs-testing read-only fuse

check "what is refused by both, and what documentation says to differ"
for mount in kernel fuse; do
    expect ENOTSUP "$(call freeze $mount)" "FIFREEZE of $mount"
    must_fail mount -o remount,rw $mount 2>message
done
expect EINVAL "$(call direct kernel/content/large-text)" "O_DIRECT of the kernel"
[[ $(call direct fuse/content/large-text) != E* ]] || fail "O_DIRECT through FUSE: $(call direct fuse/content/large-text)"
expect "immutable True 0 0" "$(call statx kernel/content/large-text)" "statx of the kernel"
expect " False 0 0" "$(call statx fuse/content/large-text)" "statx through FUSE"

check "both are lower layers of overlayfs"
for mount in kernel fuse; do
    mkdir upper work merged
    mount -t overlay -o "lowerdir=$mount,upperdir=upper,workdir=work" overlay merged
    cmp tree/content/large-random merged/content/large-random
    echo changed >>merged/content/large-text
    cmp tree/content/large-text $mount/content/large-text
    umount merged
    rm -r upper work merged
done

check "a damaged store: the right bytes or an error, by both"
peerfs-testing manifest tree >expected
cp -a store pristine
for number in {1..2}; do
    umount kernel
    peerfs umount fuse
    what=$(peerfs-testing damage store "$image" flip --seed "$((RANDOM + number))")
    echo 1 >/proc/sys/vm/drop_caches
    # What is damaged may be what a mount begins with.
    for mount in kernel fuse; do
        case $mount in
        kernel) mount -t peerfs -o "root_dir=/tmp/store,manifest=$image,timeout=1" none kernel 2>message || continue ;;
        fuse) mount_fuse 2>message || continue ;;
        esac
        counted=$(peerfs-testing survey expected $mount) || fail "a wrong byte by $mount: $what"
        ((${counted#* } > 0)) || fail "$mount does not notice: $what"
    done
    while read -r _ blob _; do
        cp "pristine/blobs/sha256/$blob" store/blobs/sha256/
    done <<<"$what"
    ! mountpoint -q kernel || umount kernel
    ! mountpoint -q fuse || peerfs umount fuse
    mount_image /tmp/store "$image" kernel
    mount_fuse
done
same_tree kernel fuse

check "they are unmounted"
umount kernel
peerfs umount fuse
must_fail mountpoint -q fuse
