#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# uml-run: --timeout 900
# Machines in one kernel: network namespaces on a bridge, 20 ms apart, a peerfsd and a store each. They
# find each other with no configuration. Whatever other machines do, all readers get the right content.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
image=$(build tree seed)
peerfs-testing manifest tree >expected
mount --make-rshared /
ip link add bridge type bridge
ip link set bridge up

machines=0
# machine NAME: a namespace with a network of its own.
machine() {
    machines=$((machines + 1))
    ip netns add "$1"
    ip link add "$1" type veth peer name eth0 netns "$1"
    ip link set "$1" master bridge up
    ip -n "$1" link set lo up
    ip -n "$1" address add "10.0.0.$machines/24" dev eth0
    ip -n "$1" link set eth0 up
    ip -n "$1" route add default dev eth0
    # Slow enough that something can happen in the middle.
    tc -n "$1" qdisc add dev eth0 root netem delay 20ms rate 20mbit
}

declare -A pids
# start NAME STORE: peerfsd on a machine.
start() {
    ip netns exec "$1" peerfsd --root-dir "$2" --state-dir "state.$1" --control-socket "/run/$1.sock" >"log.$1" 2>&1 &
    pids[$1]=$!
    wait_until 20 peerfs status --socket "/run/$1.sock" >/dev/null 2>&1
}
# start_peer NAME BEHAVIOUR: a node that claims to have everything.
start_peer() {
    ip netns exec "$1" peerfs-testing peer --source /tmp/seed --manifest "$image" --behaviour "$2" \
        >"log.$1" 2>&1 &
    pids[$1]=$!
    wait_until 20 grep -q '^node' "log.$1"
}
stop() {
    kill "-${2:-TERM}" "${pids[$1]}"
    wait "${pids[$1]}" 2>/dev/null || true
    unset "pids[$1]"
}
# reader NAME: a machine with an empty store, which is mounted at mnt.NAME.
reader() {
    empty_store "/tmp/store.$1"
    start "$1" "/tmp/store.$1"
}
# read_all NAME: reads everything in the background, into found.NAME.
declare -A reading
read_all() {
    {
        mount_image "/tmp/store.$1" "$image" "mnt.$1" ,timeout=60
        peerfs-testing manifest "mnt.$1" >"found.$1"
    } &
    reading[$1]=$!
}
# finished NAME: has read it all, and rightly.
finished() {
    wait "${reading[$1]}" || fail "$1 could not read: $(tail -n 20 "log.$1")"
    cmp expected "found.$1" || fail "$1 read something else"
    umount "mnt.$1"
    stop "$1"
    rm -r "/tmp/store.$1"
}
stored() { du --summarize --block-size=1 "/tmp/store.$1" | cut -f 1; }
has_at_least() { (($(stored "$1") >= $2)); }

for name in seed second one two three four liar; do machine "$name"; done
whole=$(du --summarize --block-size=1 seed | cut -f 1)

check "one seed, four readers at once"
start seed /tmp/seed
for name in one two three four; do reader "$name"; done
for name in one two three four; do read_all "$name"; done
for name in one two three four; do finished "$name"; done
stop seed

for lie in lie lie-about-chunks; do
    check "a peer that lies ($lie) is the only one; then an honest one comes"
    start_peer liar "$lie"
    reader one
    read_all one
    wait_until 40 grep -q '^blob\|^chunk' log.liar
    [[ $lie == lie ]] || wait_until 40 grep -q '^chunk' log.liar
    sleep 3
    asked=$(wc -l <log.liar)
    start seed /tmp/seed
    finished one
    expect "$asked" "$(wc -l <log.liar)" "requests to a peer that had lied"
    stop liar
    stop seed
done

check "a peer that stalls, then an honest one"
start_peer liar stall
reader one
read_all one
wait_until 40 grep -q '^chunk' log.liar
start seed /tmp/seed
finished one
stop liar
stop seed

check "a machine's own peerfsd is killed while 8 readers wait; started again, it serves them all"
start_peer liar stall
reader one
mount_image /tmp/store.one "$image" mnt.one ,timeout=120
files=(large-random large-text random-262145 random-262144 random-65537 random-65536 random-262143 shifted-large-random)
waiting=()
for file in "${files[@]}"; do
    cat "mnt.one/content/$file" >"out.$file" 2>"err.$file" &
    waiting+=($!)
done
wait_until 40 grep -q '^chunk' log.liar
stop one KILL
for reader in "${waiting[@]}"; do kill -0 "$reader" || fail "a reader did not wait"; done
stop liar
start seed /tmp/seed
start one /tmp/store.one
for number in "${!files[@]}"; do
    wait "${waiting[number]}" || fail "${files[number]}: $(<"err.${files[number]}")"
    cmp "tree/content/${files[number]}" "out.${files[number]}"
done
umount mnt.one
stop one
stop seed
rm -r store.one

check "a seed dies in the middle; another one has it too"
cp -a seed second
# On a busy machine all would be here before the second one has started.
tc -n seed qdisc change dev eth0 root netem delay 20ms rate 2mbit
start seed /tmp/seed
reader one
read_all one
wait_until 60 has_at_least one $((whole / 4))
start second /tmp/second
stop seed KILL
if has_at_least one $((whole - whole / 10)); then fail "the seed died too late: $(stored one) of $whole bytes"; fi
finished one
tc -n seed qdisc change dev eth0 root netem delay 20ms rate 20mbit

check "a seed dies with nobody else; what was fetched still reads, the rest fails in time; umount works"
stop second
start seed /tmp/seed
reader one
mount_image /tmp/store.one "$image" mnt.one ,timeout=5
cmp tree/content/large-text mnt.one/content/large-text
stop seed KILL
echo 3 >/proc/sys/vm/drop_caches
cmp tree/content/large-text mnt.one/content/large-text
began=$SECONDS
must_fail cat mnt.one/content/large-random >out 2>err
((SECONDS - began <= 15)) || fail "it took $((SECONDS - began)) s with timeout=5"
umount mnt.one
stop one
