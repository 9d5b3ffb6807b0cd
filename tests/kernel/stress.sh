#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# uml-run: --timeout 8000
# Everything at once, for minutes: readers, caches dropped, chunks taken away, mounts that come and go,
# daemons that die and lie, allocations that fail. Every byte is compared. PEERFS_TEST_SECONDS: for how
# long; PEERFS_TEST_SEED: how it goes, as far as that can be decided.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
seconds=${PEERFS_TEST_SECONDS:-60}
seed=${PEERFS_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "   seed $seed"
echo 4 >/proc/sys/vm/drop_caches

peerfs-testing make-tree tree --small
on_disk disk
image=$(build tree disk/pristine)

# stress SEED SECONDS [OPTIONS]
stress() {
    rm -rf disk/store
    empty_store disk/store
    peerfs-testing stress --tree tree --pristine /tmp/disk/pristine --store /tmp/disk/store --manifest "$image" \
        --mounts /tmp/mounts --seed "$1" --seconds "$2" "${@:3}"
    expect 0 "$(counter pending)" "requests that are still pending"
}

check "with memory for everybody"
stress "$seed" "$((seconds / 2))"

check "with allocations that fail"
for kind in failslab fail_page_alloc; do
    faults=/sys/kernel/debug/$kind
    echo Y >$faults/task-filter
    echo N >$faults/ignore-gfp-wait
    echo -1 >$faults/times
    echo 0 >$faults/verbose
    echo 2 >$faults/probability
done
# Only what modules and filesystems allocate, and what takes several pages: without a page for itself a
# process of User Mode Linux ends.
echo Y >/sys/kernel/debug/failslab/cache-filter
for cache in /sys/kernel/slab/kmalloc-*/failslab /sys/kernel/slab/*peerfs*/failslab; do
    echo 1 >"$cache"
done
echo 1 >/sys/kernel/debug/fail_page_alloc/min-order
stress "$((seed + 1))" "$((seconds / 2))" --failing-allocations
