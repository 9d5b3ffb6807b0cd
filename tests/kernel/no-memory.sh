#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# The kernel's allocations fail now and then: a read gives the right bytes or an error, the next one is
# right again, and nothing is lost on the way.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
peerfs-testing manifest tree >expected
on_disk pristine
image=$(build tree pristine)
mkdir mnt

faults=/sys/kernel/debug/failslab
echo Y >$faults/task-filter
# Only what modules and filesystems allocate: User Mode Linux itself does not survive an exec whose page
# faults find no memory.
echo Y >$faults/cache-filter
for cache in /sys/kernel/slab/kmalloc-*/failslab /sys/kernel/slab/*peerfs*/failslab; do
    echo 1 >"$cache"
done
echo N >$faults/ignore-gfp-wait
echo -1 >$faults/times
echo 0 >$faults/verbose

# with_faults COMMAND...: in a process whose allocations fail.
with_faults() (
    echo 1 >/proc/self/make-it-fail
    exec "$@"
)

surveys=0 with_errors=0 mounts=0
for probability in 1 3 10; do
    check "$probability of 100 allocations fail"
    echo "$probability" >$faults/probability
    for ((number = 0; number < 4; number++)); do
        # busybox: small enough that it is not always the program itself who gets no memory.
        attempts=0
        until mountpoint -q mnt; do
            attempts=$((attempts + 1))
            if with_faults busybox mount -t peerfs -o "root_dir=/tmp/pristine,manifest=$image" none mnt 2>message; then
                mounts=$((mounts + 1))
            elif ((attempts > 20)); then
                mount_image /tmp/pristine "$image" mnt
            fi
        done
        status=0
        peerfs-testing survey --failing-allocations expected mnt >counted 2>message || status=$?
        case $status in
        0)
            surveys=$((surveys + 1))
            read -r _ errors <counted
            if ((errors > 0)); then with_errors=$((with_errors + 1)); fi
            ;;
        # Its own allocations failed.
        134 | 139) ;;
        *) grep -q 'Cannot allocate memory' message || fail "a wrong byte: $(<message)" ;;
        esac
        counted=$(peerfs-testing survey expected mnt)
        expect 0 "${counted#* }" "errors when there is memory again"
        umount mnt
    done
done
echo "   $mounts mounts without memory and $surveys readings of everything ended, $with_errors of these with errors"
((surveys >= 5 && with_errors >= 3 && mounts >= 3)) || fail "too little happened"
