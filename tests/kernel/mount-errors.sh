#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# A mount that cannot work fails with the fitting error and says why.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
image=$(build tree store)
absent=$(printf 'a%.0s' {1..64})
mkdir mnt

# refuses ERROR MESSAGE OPTIONS: mount(8)'s message has the kernel's error and its own words.
refuses() {
    check "$1, \"$2\": ${3:-no options}"
    dmesg --clear
    if mount -t peerfs ${3:+-o "$3"} none mnt 2>message; then
        fail "it was mounted"
    fi
    dmesg >>message
    grep -q -- "$1" message || fail "no \"$1\" in: $(<message)"
    grep -q -- "$2" message || fail "no \"$2\" in: $(<message)"
}
invalid='wrong fs type, bad option\|Invalid argument'

refuses "$invalid" "root_dir= is missing" ""
refuses "$invalid" "root_dir= is missing" "manifest=$image"
refuses "$invalid" "manifest= is missing" "root_dir=/tmp/store"
refuses "$invalid" "needs a value" "root_dir=,manifest=$image"
refuses "$invalid" "not a SHA-256 digest" "root_dir=/tmp/store,manifest=1234"
refuses "$invalid" "not a SHA-256 digest" "root_dir=/tmp/store,manifest=${absent%aa}zz"
refuses "$invalid" "timeout" "root_dir=/tmp/store,manifest=$image,timeout=0"
refuses "$invalid" "timeout" "root_dir=/tmp/store,manifest=$image,timeout=soon"
refuses "$invalid" "timeout" "root_dir=/tmp/store,manifest=$image,timeout=99999999999"
for name in "" . .. -x a/b "a b" ä 0123456789012345678901234567890123; do
    refuses "$invalid" "workload" "root_dir=/tmp/store,manifest=$image,workload=$name"
done
refuses "$invalid" "colour" "root_dir=/tmp/store,manifest=$image,colour=red"
refuses "does not exist\|No such file" "/tmp/nowhere" "root_dir=/tmp/nowhere,manifest=$image"
refuses "Not a directory\|not a directory" "/tmp/message" "root_dir=/tmp/message,manifest=$image"
refuses "timed out" "start peerfsd" "root_dir=/tmp/store,manifest=$absent,timeout=1"

# forged KIND ERROR MESSAGE
forged() {
    local digest
    digest=$(peerfs-testing forge store "$image" "$1")
    refuses "$2" "$3" "root_dir=/tmp/store,manifest=$digest,timeout=1"
}
unsupported="not supported"
forged version "$unsupported" "newer peerfs"
forged feature "$unsupported" "newer peerfs"
damaged="Input/output error\|can't read superblock"
forged half "$damaged" "manifest"
forged empty "$damaged" "manifest"
forged noise "$damaged" "manifest"

check "a damaged manifest says so"
cp -a store damaged
truncate --size=-1 "damaged/blobs/sha256/$image"
refuses "$damaged" "peerfs verify" "root_dir=/tmp/damaged,manifest=$image"

# Whatever the store lacks, the mountpoint exists: "No such file" would send the user looking for that.
empty_store liar
start_daemon /tmp/liar /tmp/store nothing
refuses "$damaged" "peerfs verify" "root_dir=/tmp/liar,manifest=$image"
stop_daemon
start_daemon /tmp/liar /tmp/store fail
refuses "No route to host" "no peer has it" "root_dir=/tmp/liar,manifest=$absent"
stop_daemon

# Who has a daemon running is not told to start one.
start_daemon /tmp/store /tmp/store silent
refuses "timed out" "did not answer in time" "root_dir=/tmp/store,manifest=$absent,timeout=1"
must_fail grep "start peerfsd" message
stop_daemon

check "after all that a right mount works, and says for what workload it is"
mount_image /tmp/store "$image" mnt ,workload=web.v2_blue-green
same_tree tree mnt
grep -q ' /tmp/mnt peerfs .*,workload=web.v2_blue-green' /proc/mounts || fail "it says $(grep mnt /proc/mounts)"
mount -o remount mnt
must_fail mount -o remount,workload=other mnt 2>message
umount mnt
mount_image /tmp/store "$image" mnt
must_fail grep workload= /proc/mounts
umount mnt

check "with upcall=0 a miss is an error at once, and there is no device"
rmmod peerfs
modprobe peerfs upcall=0
[[ ! -e /dev/peerfs ]]
refuses "No data\|can't read superblock" "upcall=0" "root_dir=/tmp/store,manifest=$absent,timeout=600"
mount_image /tmp/store "$image" mnt
same_tree tree mnt
umount mnt
remove_packs store
mount_image /tmp/store "$image" mnt ,timeout=600
began=$SECONDS
must_fail cat mnt/content/large-random 2>miss >/dev/null
grep -q "No data available" miss || fail "a miss says $(<miss)"
((SECONDS - began < 10)) || fail "a miss took $((SECONDS - began)) s"

check "a mount that complains much does not keep another from complaining"
mount_image /tmp/store "$image" other
for file in mnt/content/*; do cat "$file" >/dev/null 2>&1 || true; done
dmesg --clear
must_fail cat other/content/large-random 2>miss >/dev/null
dmesg | grep -q "not in the store" || fail "nothing was said: $(dmesg)"
umount other
