#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# uml-run: --timeout 300
# Two machines, 40 and then 20 ms there and back: who reads a file from one end to the other keeps the link busy, and
# who reads here and there does not wait for each chunk by itself, and hardly at all when somebody else did the same
# before. Each is measured up to three times, since other tests take processor time that is not the link's.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

for attempt in {1..4}; do
    mkdir -p "tree/libraries$attempt"
    ((attempt == 4)) || head -c 24M /dev/urandom >"tree/big$attempt"
    for library in {1..20}; do head -c 1M /dev/urandom >"tree/libraries$attempt/$library"; done
done
image=$(build tree seed)
mount --make-rshared /
for machine in seed reader; do ip netns add "$machine"; done
ip link add eth0 netns seed type veth peer name eth0 netns reader
number=0
for machine in seed reader; do
    number=$((number + 1))
    ip -n "$machine" link set lo up
    ip -n "$machine" address add "10.0.0.$number/24" dev eth0
    ip -n "$machine" link set eth0 up
    ip -n "$machine" route add default dev eth0
    tc -n "$machine" qdisc add dev eth0 root netem delay 20ms rate 20mbit limit 10000
done
empty_store reader-store
# What is pulled unasked would be missed by nobody, and not be in the trace.
echo 'pull = "never"' >/tmp/peerfsd.toml
start() {
    ip netns exec "$1" peerfsd --config /tmp/peerfsd.toml --root-dir "$2" --state-dir "$2.state" --control-socket "$2.sock" >"$2.log" 2>&1 &
    wait_until 20 peerfs status --socket "$2.sock" >/dev/null 2>&1
}
start seed /tmp/seed
start reader /tmp/reader-store
reader=$!
mount_image /tmp/reader-store "$image" mnt ,timeout=60
ls -R mnt >/dev/null

# milliseconds COMMAND...: how long it took, and nothing else on standard output.
milliseconds() {
    local began=${EPOCHREALTIME/./}
    "$@" >/dev/null
    echo $(((${EPOCHREALTIME/./} - began) / 1000))
}

check "a file of 24 MiB from one end to the other, at 20 Mbit/s"
for attempt in {1..3}; do
    took=$(milliseconds cmp "tree/big$attempt" "mnt/big$attempt")
    # 20 Mbit/s are 2500 bytes a millisecond, of which Ethernet, TCP and encryption need some; who waits for each
    # chunk by itself has a third.
    busy=$(((24 << 20) * 100 / 2500 / took))
    echo "   $took ms: the link carried $busy % of what it can"
    ((busy < 70)) || break
done
((busy >= 70)) || fail "the link was busy for $busy % of $took ms only"

check "a program that touches 200 places in 20 libraries, with no limit but the distance"
for machine in seed reader; do
    tc -n "$machine" qdisc change dev eth0 root netem delay 10ms limit 10000
done
# In each from the end to the start, so that no readahead sees it coming.
cat >program.py <<'PROGRAM'
import os, sys
for library in range(1, 21):
    with open(f"{sys.argv[1]}/{library}", "rb") as file:
        for place in reversed(range(10)):
            os.pread(file.fileno(), 4096, place * 100_000)
PROGRAM
for attempt in {1..3}; do
    before=$(store_counter mnt chunks_missed)
    took=$(milliseconds python3 program.py "mnt/libraries$attempt")
    waits=$(($(store_counter mnt chunks_missed) - before))
    echo "   $took ms, $waits waits"
    ((waits > 200 / 2)) || break
done
# Who waits for each chunk by itself waits 200 times. How many of a library's places are asked for before they come is a
# matter of how fast this machine is beside the link: 50 to 70 here.
((waits <= 200 / 2)) || fail "200 reads waited $waits times"

check "the same on a machine that knows what was missed on another one"
mount_image /tmp/reader-store "$image" first ,timeout=60,workload=program
python3 program.py first/libraries4
noted() { peerfs trace show --root-dir /tmp/reader-store "$image" --workload program >trace.shown 2>/dev/null; }
wait_until 20 noted
# The last misses are written down with the first ones, or a moment later.
sleep 3
peerfs trace export --root-dir /tmp/reader-store "$image" --workload program program.trace
umount first mnt
kill "$reader"
wait "$reader" || true
empty_store second-store
peerfs trace import --root-dir /tmp/second-store program.trace >/dev/null
start reader /tmp/second-store
# As it is brought by the first miss of a mount, but all of it before the program begins, however slow this machine is.
peerfs warm --socket /tmp/second-store.sock --trace program "$image" >/dev/null
mount_image /tmp/second-store "$image" second ,timeout=60,workload=program
took=$(milliseconds python3 program.py second/libraries4)
waits=$(store_counter second chunks_missed)
echo "   $took ms, $waits waits"
umount second
((waits <= 10)) || fail "200 reads waited $waits times although it was known what they read"
mapfile -t daemons < <(jobs -p)
kill "${daemons[@]}"
wait
