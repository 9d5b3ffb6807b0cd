#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Daemons die, come back, or never were: readers are served or get an error, and nothing hangs.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
image=$(build tree pristine)
# All metadata, no packs: what is to be waited for is a file's content.
cp -a pristine store
remove_packs store

readers=()
# read_in_background FILE...: each by a process of its own, into out.N.
read_in_background() {
    readers=()
    for file in "$@"; do
        cat "mnt/content/$file" >"out.${#readers[@]}" 2>"err.${#readers[@]}" &
        readers+=($!)
    done
}
pending_is_above() { (($(counter pending) > $1)); }
pending_is_at_most() { (($(counter pending) <= $1)); }
files=(large-random large-text random-262145 random-262144 random-65537 random-65536 random-262143 shifted-large-random)

check "8 readers wait for a daemon that says nothing; it is killed, and an honest one serves them"
start_daemon /tmp/store /tmp/pristine silent
mount_image /tmp/store "$image" mnt ,timeout=120
read_in_background "${files[@]}"
wait_until 20 test -s requests
sleep 1
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null || true
for reader in "${readers[@]}"; do kill -0 "$reader" || fail "a reader did not wait for the next daemon"; done
start_daemon /tmp/store /tmp/pristine honest
for number in "${!files[@]}"; do
    wait "${readers[number]}" || fail "${files[number]}: $(<"err.$number")"
    cmp "tree/content/${files[number]}" "out.$number"
done
wait_until 10 pending_is_at_most 0

check "the daemon is asked once for what several readers want"
umount mnt
stop_daemon
forget_chunks store
start_daemon /tmp/store /tmp/pristine silent
mount_image /tmp/store "$image" mnt ,timeout=120
read_in_background large-random large-random large-random large-random
wait_until 20 test -s requests
sleep 2
grep 'priority 0' requests >demands
expect 1 "$(wc -l <demands)" "demands of four readers of one file"
for reader in "${readers[@]}"; do kill -KILL "$reader"; done
umount mnt
stop_daemon
start_daemon /tmp/store /tmp/pristine honest
mount_image /tmp/store "$image" mnt ,timeout=120
for file in "${files[@]}"; do cmp "tree/content/$file" "mnt/content/$file"; done

check "without a daemon, what was read still reads"
stop_daemon
for file in "${files[@]}"; do cmp "tree/content/$file" "mnt/content/$file"; done
umount mnt
mount_image /tmp/store "$image" mnt ,timeout=3
cmp tree/content/large-random mnt/content/large-random

check "without a daemon, what is not here is an error within the timeout, and metadata is here"
umount mnt
forget_chunks store
mount_image /tmp/store "$image" mnt ,timeout=3
began=$SECONDS
must_fail cat mnt/content/random-16384 >out 2>err
grep -q 'timed out' err || fail "the error is: $(<err)"
((SECONDS - began >= 2 && SECONDS - began <= 8)) || fail "timeout=3 took $((SECONDS - began)) s"
began=$SECONDS
ls -lR mnt >listing
stat -f mnt >listing
((SECONDS - began <= 20)) || fail "listing took $((SECONDS - began)) s"

check "a daemon that hangs: the same"
start_daemon /tmp/store /tmp/pristine silent
must_fail cat mnt/content/random-16385 >out 2>err
grep -q 'timed out' err || fail "the error is: $(<err)"
grep -q cancel requests || wait_until 5 grep -q cancel requests
stop_daemon
umount mnt

# interrupted SIGNAL: a reader that waits ends at once.
interrupted() {
    check "SIG$1 ends a reader that waits, at once"
    mount_image /tmp/store "$image" mnt ,timeout=100
    # Readahead that a dead daemon held may still be there.
    local before
    before=$(counter pending)
    # A shell's background jobs ignore SIGINT; env does not pass that on.
    env --default-signal=INT cat mnt/content/large-random >out 2>err &
    local reader=$!
    wait_until 10 pending_is_above "$before"
    sleep 0.5
    kill -0 "$reader" || fail "the reader did not wait"
    began=$SECONDS
    kill "-$1" "$reader"
    must_fail wait "$reader" 2>/dev/null
    ((SECONDS - began <= 3)) || fail "it took $((SECONDS - began)) s"
    check "and umount works"
    umount mnt
    wait_until 5 pending_is_at_most "$before"
}
interrupted INT
interrupted TERM
interrupted KILL

check "a program that waits for its own page can be killed as well"
mkdir programs && cp /bin/busybox programs/ && image=$(build programs pristine)
rm -rf store && empty_store store
start_daemon /tmp/store /tmp/pristine honest
mount_image /tmp/store "$image" mnt ,timeout=100
ls -l mnt >listing
stop_daemon
before=$(counter pending)
mnt/busybox true &
program=$!
wait_until 10 pending_is_above "$before"
sleep 0.5
kill -KILL "$program"
must_fail wait "$program" 2>/dev/null
umount mnt

check "a daemon dies in the middle of its work, again and again, while a tree is read"
rm -rf store && empty_store store
image=$(build tree pristine)
start_daemon /tmp/store /tmp/pristine honest --delay 100
mount_image /tmp/store "$image" mnt ,timeout=100
peerfs-testing manifest tree >expected
peerfs-testing manifest mnt >found &
reader=$!
deaths=0
while kill -0 "$reader" 2>/dev/null && ((deaths < 10)); do
    sleep 0.4
    kill -KILL "$daemon"
    wait "$daemon" 2>/dev/null || true
    deaths=$((deaths + 1))
    start_daemon /tmp/store /tmp/pristine honest --delay 100
done
wait "$reader" || fail "the reader failed"
cmp expected found
((deaths > 2)) || fail "the daemon died only $deaths times"
stop_daemon
umount mnt
