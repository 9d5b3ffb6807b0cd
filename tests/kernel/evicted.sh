#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# uml-run: --memory 1G --timeout 600
# A daemon that keeps what can be fetched again within a size gives up chunks that a mount has open: who reads them
# gets the right bytes, and is told nothing.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

# Several packs of what does not compress: each is given up as a whole.
mkdir tree
for number in 1 2 3 4 5; do head --bytes 16M /dev/urandom >"tree/file-$number"; done
image=$(build tree full)
packs=$(find full/blobs -size +4M | wc -l)
((packs >= 4)) || fail "the image has only $packs packs"

cat >config.toml <<'END'
root_dir = "/tmp/store"
state_dir = "/tmp/state"
control_socket = "/run/evicted.sock"
[peer]
mdns = false
listen = ["/ip4/127.0.0.1/tcp/0"]
[limits]
# cache_bytes = 40000000
[[source]]
directory = "/tmp/full"
END
empty_store /tmp/store
peerfsd --config config.toml 2>log &
daemon=$!
wait_until 20 peerfs status --socket /run/evicted.sock >/dev/null 2>&1

is_small() { (($(stored) < 41000000)); }
# read_all: with nothing in the page cache.
read_all() {
    echo 3 >/proc/sys/vm/drop_caches
    for number in 1 2 3 4 5; do cmp "tree/file-$number" "mnt/file-$number" || fail "wrong bytes"; done
}

check "all is read, and then there is too much: packs go that the mount has open"
mount_image /tmp/store "$image" mnt ,timeout=60
exec {held}<mnt/file-1
read_all
(($(stored) > 80000000)) || fail "only $(stored) bytes were kept"
# Only now, so that how long the reading has taken does not matter: it is looked at every five seconds.
sed -i 's/^# cache_bytes/cache_bytes/' config.toml
kill -HUP "$daemon"
wait_until 60 is_small
grep -q 'not used for the longest time' log || fail "$(<log)"

check "what is open and what is opened now has the right bytes"
echo 3 >/proc/sys/vm/drop_caches
cmp tree/file-1 - <&"$held" || fail "wrong bytes"
exec {held}<&-
read_all

check "again and again, while it goes on"
for _ in 1 2 3; do
    wait_until 60 is_small
    read_all
done

check "what is left works without the daemon, and what is not is missing"
wait_until 60 is_small
kill "$daemon"
wait "$daemon" || true
umount mnt
mount_image /tmp/store "$image" mnt ,timeout=2
right=0
for number in 1 2 3 4 5; do
    if cat "mnt/file-$number" >found 2>/dev/null; then
        cmp "tree/file-$number" found || fail "wrong bytes"
        right=$((right + 1))
    fi
done
((right < 5)) || fail "nothing is missing"
peerfs verify --root-dir store >verified || fail "$(<verified)"
