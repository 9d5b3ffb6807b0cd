#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What debugfs says is what happened.
# uml-run: --memory 1G --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
counters=/sys/kernel/debug/peerfs

peerfs-testing make-tree tree --small
image=$(build tree pristine)
cp -r pristine store
remove_packs store

check "a mount has read its manifest, and nothing else; more reading, more uses"
mount_image /tmp/pristine "$image" mnt
verified=$(store_counter mnt blobs_verified)
expect 1 "$verified" "blobs verified by mounting"
stat mnt >/dev/null
expect 1 "$(store_counter mnt blobs_verified)" "blobs verified for the root"
expect 0 "$(store_counter mnt blobs_missed)" "blobs missed"
find mnt -ls >/dev/null
(($(store_counter mnt blobs_verified) >= verified + 2)) || fail "neither blob table nor shard were counted"
(($(store_counter mnt blobs_cached) > 10)) || fail "$(store_counter mnt blobs_cached) uses"
mount_image /tmp/pristine "$image" second
(($(store_counter second blobs_cached) < $(store_counter mnt blobs_cached))) || fail "mounts are counted together"
expect 2 "$(find "$counters/mounts" -name store | wc -l)" "mounts"
umount mnt second
expect 0 "$(find "$counters/mounts" -name store | wc -l)" "mounts"

check "mounts that come and go at once have each their own"
come_and_go() {
    for ((round = 0; round < 3; round++)); do
        mount_image /tmp/pristine "$image" "$1"
        expect 1 "$(store_counter "$1" blobs_verified)" "blobs verified by $1"
        umount "$1"
    done
}
for mount in a b c; do come_and_go "$mount" & done
for job in $(jobs -p); do wait "$job"; done
dmesg | must_fail grep "already exists"

check "a reader that waits is seen, and for how long"
start_daemon /tmp/store /tmp/pristine silent
mount_image /tmp/store "$image" mnt ,timeout=4
expect 1 "$(counter attached)" "daemons"
expect 0 "$(counter waiting)" "tasks that wait"
cat mnt/content/large-random >/dev/null 2>error &
reader=$!
one_waits() { test "$(counter waiting)" = 1; }
wait_until 5 one_waits
sleep 1
(($(counter pending) >= 1)) || fail "nothing is pending"
oldest=$(counter oldest_pending_milliseconds)
((oldest >= 900 && oldest < 5000)) || fail "the oldest is $oldest ms old"
must_fail wait "$reader"
expect 1 "$(counter timed_out)" "demands that waited in vain"
expect 0 "$(counter waiting)" "tasks that wait"
umount mnt
stop_daemon
expect 0 "$(counter attached)" "daemons"

check "a damaged blob, and one that is not there, are counted"
empty_store bare
start_daemon /tmp/bare /tmp/pristine honest
mount_image /tmp/bare "$image" mnt
expect 1 "$(store_counter mnt blobs_missed)" "blobs missed by mounting an empty store"
stop_daemon
# The blob table among them: the next blob to be needed.
for blob in pristine/blobs/sha256/*; do
    [[ -e bare/blobs/sha256/${blob##*/} ]] || { printf damaged >"bare/blobs/sha256/${blob##*/}"; }
done
must_fail cat mnt/content/large-random 2>error >/dev/null
(($(store_counter mnt blobs_damaged) >= 1)) || fail "no blob was damaged"
umount mnt

check "a damaged blob is fetched anew by a daemon that is there"
cp -r pristine mended
remove_packs mended
start_daemon /tmp/mended /tmp/pristine honest
for blob in mended/blobs/sha256/*; do printf damaged >"$blob"; done
mount_image /tmp/mended "$image" mnt
cmp mnt/content/large-random tree/content/large-random
(($(store_counter mnt blobs_damaged) >= 3)) || fail "not all were damaged"
expect 0 "$(store_counter mnt blobs_missed)" "blobs missed"
umount mnt
stop_daemon
mount_image /tmp/mended "$image" mnt
stat mnt/content/large-random >/dev/null
expect 0 "$(store_counter mnt blobs_damaged)" "blobs that are still damaged"
umount mnt

check "a damaged chunk of a whole pack is fetched anew by a daemon that is there, and EIO at once without"
cp -r pristine mended-pack
pack=$(find mended-pack/blobs/sha256 -size +1M | head -n 1)
dd if=/dev/zero of="$pack" bs=64 seek=1000 count=1 conv=notrunc status=none
mount_image /tmp/mended-pack "$image" mnt
read_all() { find mnt -type f -exec cat {} + >/dev/null; }
start=$EPOCHSECONDS
must_fail read_all 2>error
((EPOCHSECONDS - start < 20)) || fail "waited for nobody"
start_daemon /tmp/mended-pack /tmp/pristine honest
read_all
(($(store_counter mnt chunks_damaged) >= 2)) || fail "no chunk was damaged"
umount mnt
stop_daemon

check "what nobody could be asked for ahead is asked for ahead when there is somebody"
empty_store late
start_daemon /tmp/late /tmp/pristine honest
mount_image /tmp/late "$image" mnt ,timeout=1
stat mnt/content/large-random >/dev/null
stop_daemon
# Without the pack's index it is not known which chunks to ask for.
must_fail cat mnt/content/large-random 2>error >/dev/null
start_daemon /tmp/late /tmp/pristine honest
before=$(store_counter mnt chunks_missed)
cmp tree/content/large-random mnt/content/large-random
missed=$(($(store_counter mnt chunks_missed) - before))
((missed <= 3)) || fail "its reader waited $missed times"
umount mnt
stop_daemon

check "one small file takes one chunk, and many in turn none twice with one processor"
mkdir many
for number in {1000..1299}; do head -c 3000 /dev/urandom >"many/$number"; done
mount_image /tmp/pristine "$(build many pristine)" mnt
cat mnt/1150 >one
expect 1 "$(store_counter mnt chunks_verified)" "chunks"
cat mnt/* >all
cat many/* | cmp - all
expect 0 "$(store_counter mnt chunks_ahead)" "chunks decoded ahead"
umount mnt
