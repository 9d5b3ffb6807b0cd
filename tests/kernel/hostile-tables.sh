#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Images of which a table is as large as the format allows, of the smallest records there are: what they cost who
# looks at them, in time and in memory that is charged to nobody.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
# Not by a wrapper, which takes a second each time here.
python=$(python3 -c 'import sys; print(sys.executable)')
call() { "$python" -I -S "$PEERFS_FROM/system_calls.py" "$@"; }

rmmod peerfs
modprobe peerfs upcall=0
mkdir mnt
# What the kernel of this test, with its checks, may take: some ten times as long as one without.
seconds=10

# mounted TABLE [LAYOUT]: mounts such an image, with its packs laid out like that if they are to be no files.
mounted() {
    local digest
    check "$*"
    mkdir -p store/{blobs/sha256,partial,tmp}
    digest=$(peerfs-testing bloat store "$1")
    [[ -z ${2:-} ]] || peerfs-testing places store "$digest" "$2"
    mount_image /tmp/store "$digest" mnt
}
# took LIMIT COMMAND...: fails if it takes longer. What it says is not looked at: most of it is an error.
took() {
    local began=${EPOCHREALTIME/./} limit=$1 spent
    shift
    "$@" >/dev/null 2>&1 || true
    spent=$(((${EPOCHREALTIME/./} - began) / 1000))
    unowned=$(($(unowned) - before))
    echo "   $spent ms, $unowned KiB: $*"
    ((spent < limit * 1000)) || fail "$spent ms: $*"
    ((unowned < 4096)) || fail "$unowned KiB are charged to nobody: $*"
}
left() {
    umount mnt
    rm -rf store
}
# unowned: large pieces of kernel memory that are charged to nobody: KiB.
unowned() {
    local all charged
    all=$(awk '$1 == "VmallocUsed:" { print $2 }' /proc/meminfo)
    charged=$(awk '$1 == "vmalloc" { print int($2 / 1024) }' cgroup/hostile/memory.stat)
    echo $((all - charged))
}
mkdir cgroup
mount -t cgroup2 none cgroup
echo +memory >cgroup/cgroup.subtree_control
mkdir cgroup/hostile
echo $$ >cgroup/hostile/cgroup.procs
before=$(unowned)

# By handle, with nothing in memory that would be found sooner. A directory is connected to the root: its name is sought
# in the one that it is in.
took_by_handle() {
    local handle
    handle=$(call handle "mnt/$1")
    echo 3 >/proc/sys/vm/drop_caches
    took $seconds call open-handle mnt "$handle"
}

mounted extents
took $seconds stat mnt/00000000
took $seconds head -c 1 mnt/00000000
# Each byte is in a piece of its own, and costs as much as a chunk.
took $seconds head -c 5000 mnt/00000000
took $seconds xfs_io -r -c "seek -h 0" -c "seek -d 524288" mnt/00000000
took_by_handle 00000000
left

mounted shared-extents
took $seconds ls -l mnt
took $seconds stat mnt/00000001
left

mounted packs
took $seconds head -c 5000 mnt/00000000
left

mounted chunks
took $seconds stat mnt/00000000
took $seconds head -c 4096 mnt/00000000
took $seconds dd if=mnt/00000000 of=byte bs=1 count=1 skip=200000
[[ $(<byte) == x ]] || fail "a wrong byte"
left

mounted chunks shuffled
took $seconds stat mnt/00000000
took $seconds head -c 4096 mnt/00000000
took $seconds dd if=mnt/00000000 of=byte bs=1 count=1 skip=200000
[[ $(<byte) == x ]] || fail "a wrong byte"
left

# Nothing is here, and all of it is looked for.
mounted chunks empty
took $seconds head -c 4096 mnt/00000000
took $seconds dd if=mnt/00000000 of=byte bs=1 count=1 skip=200000
left

mounted spans
took $seconds ls -f mnt
took $seconds stat mnt/00000500
took $seconds stat mnt/none
left

mounted entries
took $seconds stat mnt/00500000
took $seconds stat mnt/none
took $seconds bash -c 'ls -f mnt | head -n 1000'
took_by_handle last
expect /tmp/mnt/last "$(call open-handle mnt "$(call handle mnt/last)")" "the directory"
left

mounted xattrs
took $seconds getfattr -d mnt/00000000
took $seconds getfattr -n user.00001 mnt/00000000
took $seconds getfattr -n user.none mnt/00000000
took $seconds getfattr -n security.capability mnt/00000000
left

mounted inodes
took $seconds stat mnt/00100000
took $seconds cat mnt/00100000
took_by_handle 00100000
left
