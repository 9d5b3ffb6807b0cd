#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# A reader whom AppArmor confines to the mount may not read the store; the mount may, on the reader's behalf. It makes no
# difference whether a worker reads or the reader itself.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

mount -t securityfs none /sys/kernel/security
peerfs-testing make-tree tree --small
image=$(build tree store)
mkdir mnt
cat >profile <<'END'
profile confined {
    /tmp/mnt/{,**} r,
    /dev/null rw,
    / r,
    /usr/** rmix,
    /bin/** rmix,
    /lib/** rmix,
    /lib64/** rmix,
    /etc/** r,
    /proc/** r,
}
profile mounter flags=(complain, attach_disconnected) {
}
END
apparmor_parser --skip-cache --add profile
# Mounted by somebody with a profile, be it one that only notes what is done: what is opened by who has none is open
# to everybody whom it is passed to.
aa-exec --profile=mounter -- mount -t peerfs -o "root_dir=/tmp/store,manifest=$image" none mnt
# confined COMMAND...
confined() { aa-exec --profile=confined -- "$@"; }
drop() { echo 3 >/proc/sys/vm/drop_caches; }

check "the reader is confined"
confined cat mnt/content/tiny-1 >/dev/null
must_fail confined cat store/index.json 2>message
grep -q "Permission denied" message || fail "it says $(<message)"

check "what is read by readahead's workers"
drop
confined cat mnt/content/large-random | cmp - tree/content/large-random

check "what the reader needs at once: at random, in small files"
drop
confined dd if=mnt/content/large-random bs=4k count=1 skip=77 status=none |
    cmp - <(dd if=tree/content/large-random bs=4k count=1 skip=77 status=none)
confined cat mnt/content/tiny-* | cmp - <(cat tree/content/tiny-*)
confined ls -l mnt/content mnt/xattrs >/dev/null
umount mnt
