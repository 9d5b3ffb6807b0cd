#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What is kept for a reader counts as the reader's memory, and fits into what the reader may have.
# uml-run: --memory 1G --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
files=15000
peerfs-testing make-crowd tree "$files"
image=$(build tree store)
mkdir groups
mount -t cgroup2 none groups
echo +memory >groups/cgroup.subtree_control

# in_group GROUP COMMAND...
in_group() (
    echo "$BASHPID" >"groups/$1/cgroup.procs"
    exec "${@:2}"
)
of_group() { awk -v name="$2" '$1 == name { print $2 }' "groups/$1/$3"; }

check "inodes and metadata are charged to whoever looks them up"
mkdir groups/free
mount_image /tmp/store "$image" mnt
in_group free ls -l mnt/crowd >listed
expect "$((files + 1))" "$(wc -l <listed)" "lines"
charged=$(of_group free kernel memory.stat)
# An inode takes more than half a kilobyte.
((charged > files * 512)) || fail "$charged bytes are charged for $files inodes"
umount mnt
given_back() { (($(of_group free kernel memory.stat) < charged / 4)); }
wait_until 20 given_back

check "with less memory than that, others make room, and the reader gets it all"
mkdir groups/small
limit=$((charged / 2))
echo "$limit" >groups/small/memory.max
mount_image /tmp/store "$image" mnt
in_group small ls -l mnt/crowd >again
diff <(tail --lines +2 listed) <(tail --lines +2 again) >/dev/null || fail "the lists differ"
expect 0 "$(of_group small oom_kill memory.events)" "processes killed"
(($(<groups/small/memory.peak) <= limit)) || fail "$(<groups/small/memory.peak) bytes at the peak"
(($(of_group small max memory.events) > 0)) || fail "the limit was no limit"
echo "   charged $charged bytes, then limited to $limit"
umount mnt
