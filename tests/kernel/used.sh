#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# uml-run: --memory 1G --timeout 600
# What is read from a store is told to who serves that store, once; and by it peerfsd keeps a store within a size: the
# chunks that were read stay, of whichever pack, and the others go, while somebody reads on and notices nothing.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
here=$(dirname "${BASH_SOURCE[0]}")

# Several packs of what does not compress, and two stores.
mkdir tree other
for number in 1 2 3 4 5; do head --bytes 16M /dev/urandom >"tree/file-$number"; done
head --bytes 4M /dev/urandom >other/file
image=$(build tree full)
packs=$(find full/blobs -size +4M | wc -l)
((packs >= 4)) || fail "the image has only $packs packs"
other_image=$(build other other-full)

check "who serves a store is told what all of its mounts have read, once, and nothing of another store"
mount_image /tmp/full "$image" first
mount_image /tmp/full "$image" second
mount_image /tmp/other-full "$other_image" third
python3 "$here/used.py" full other-full first second third
umount third

cat >config.toml <<'ENDOFCONFIG'
root_dir = "/tmp/store"
state_dir = "/tmp/state"
control_socket = "/run/used.sock"
pull = "never"
[peer]
mdns = false
listen = ["/ip4/127.0.0.1/tcp/0"]
[limits]
cache_bytes = 1000000000
[[source]]
directory = "/tmp/full"
ENDOFCONFIG
empty_store /tmp/store
peerfsd --config config.toml 2>log &
daemon=$!
wait_until 20 peerfs status --socket /run/used.sock >/dev/null 2>&1

is_small() { (($(stored) < 41500000)); }
# part MOUNT NUMBER: a megabyte from the middle of a file.
part() { dd if="$1/file-$2" bs=1M skip=8 count=1 iflag=fullblock status=none; }
# same_parts MOUNT...: of each file, from the store.
same_parts() {
    local mount number
    echo 3 >/proc/sys/vm/drop_caches
    for mount in "$@"; do
        for number in 1 2 3 4 5; do
            part "$mount" "$number" | cmp - <(part tree "$number") || return 1
        done
    done
}

check "all is read, and later a part of each file again, by two mounts"
mount_image /tmp/store "$image" first ,timeout=60
mount_image /tmp/store "$image" second ,timeout=60
for number in 1 2 3 4 5; do cmp "tree/file-$number" "first/file-$number" || fail "wrong bytes"; done
(($(stored) > 80000000)) || fail "only $(stored) bytes were kept"
# The daemon has asked what was read since.
sleep 12
same_parts first second || fail "wrong bytes"

check "then there is too much: what was read last stays, and its readers miss nothing"
missed=$(store_counter first chunks_missed)
touch reading
while [[ -e reading ]]; do same_parts first second || touch broken; done &
reader=$!
sed -i 's/^cache_bytes = .*/cache_bytes = 40000000/' config.toml
kill -HUP "$daemon"
wait_until 90 is_small
grep -q 'not used for the longest time' log || fail "$(<log)"
same_parts first second || fail "wrong bytes"
rm reading
wait "$reader"
[[ ! -e broken ]] || fail "who read on had wrong bytes, or an error"
expect "$missed" "$(store_counter first chunks_missed)" "chunks that were missed"
expect 0 "$(store_counter first chunks_damaged)" "chunks that were wrong"

check "without the daemon that is here, and the rest is missing"
kill "$daemon"
wait "$daemon" || true
umount first second
mount_image /tmp/store "$image" first ,timeout=2
same_parts first || fail "what was read last is gone"
must_fail cat first/file-1 >/dev/null 2>&1
peerfs verify --root-dir store >verified || fail "$(<verified)"
