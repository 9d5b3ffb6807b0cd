#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# uml-run: --timeout 4000
# A malicious publisher: thousands of damaged images whose digests all fit. No crash, no hang, no wrong
# byte in what the damage does not touch. PEERFS_TEST_SECONDS: for how long; PEERFS_TEST_SEED: where to begin.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
seconds=${PEERFS_TEST_SECONDS:-90}
seed=${PEERFS_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}

check "a small tree with a bit of everything, and nobody to ask for what is missing"
peerfs-testing make-tree full --small
mkdir -p tree/deep/er/still tree/nothing
cp -a full/content/{empty,one-byte,tiny-1,tiny-2,random-65537} full/xattrs full/special tree/
# Several chunks of what compresses, and a hole; little in all, since it is read again and again.
head --bytes=200000 full/content/large-text >tree/text
head --bytes=20000 full/content/large-random >tree/deep/hole
truncate --size=200000 tree/deep/hole
cat tree/one-byte >>tree/deep/hole
cp -a full/links/{name-0,name-1,elsewhere,relative,dangling,target-4095} tree/deep/er/
cp -a full/content/tiny-{3..9} tree/deep/er/still/
cp -a full/content/random-4097 tree/deep/er/still/random
image=$(build tree store)
rmmod peerfs
modprobe peerfs upcall=0

# publish SEED SHARE: that many of 100 parts of the time. Three at a time, since most of a mount's time is
# waiting. Each mutant is named before it is mounted: the last names are what a crash is about.
publish() {
    local publishers=() publisher
    for number in 0 1 2; do
        [[ -d store-$number ]] || cp -a store "store-$number"
        mkdir -p "mnt-$number"
        peerfs-testing publish "store-$number" "$image" "mnt-$number" --seed "$(($1 + number * 1000000))" \
            --seconds "$((seconds * $2 / 100))" &
        publishers+=($!)
    done
    for publisher in "${publishers[@]}"; do wait "$publisher"; done
}
check "mutants of seeds that are always the same"
publish 1 40
check "mutants of other seeds, from $seed on"
publish "$seed" 60
