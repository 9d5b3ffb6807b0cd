#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What few programs ask for: file handles, mapped owners, statx, and what is refused, with which error.
# uml-run: --memory 1G --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
# Not by a wrapper, which takes a second each time here.
python=$(python3 -c 'import sys; print(sys.executable)')
call() { "$python" -I -S "$PEERFS_FROM/system_calls.py" "$@"; }
forget() { echo 3 >/proc/sys/vm/drop_caches; }

peerfs-testing make-tree tree --small
mkdir -p tree/deep/er/still
echo "far down" >tree/deep/er/still/file
seq 1000000 >tree/numbers
image=$(build tree store)
mount_image /tmp/store "$image" mnt

check "statx: immutable, no direct I/O"
expect "immutable True 0 0" "$(call statx mnt/deep/er/still/file)" "statx of a file"
expect "immutable False 0 0" "$(call statx mnt/deep)" "statx of a directory"
expect EINVAL "$(call direct mnt/deep/er/still/file)" "O_DIRECT"

check "FIEMAP is refused, FIFREEZE too; sync, and dropping what is clean, do nothing bad"
expect ENOTSUP "$(call fiemap mnt/deep/er/still/file)" FIEMAP
expect ENOTSUP "$(call freeze mnt)" FIFREEZE
sync --file-system mnt/deep/er/still/file
exec {held}<mnt/content/large-text
head --bytes 100000 <&"$held" | cmp - <(head --bytes 100000 tree/content/large-text)
forget
tail --bytes +100001 mnt/content/large-text | cmp - <(tail --bytes +100001 tree/content/large-text)
exec {held}<&-

check "a remount: the same, or less, may be asked for; nothing can be made writable"
mount -o remount,ro mnt
mount -o remount,ro,noexec,nosuid mnt
grep -q ' /tmp/mnt peerfs ro,nosuid,noexec' /proc/mounts
must_fail mount -o remount,rw mnt 2>message
grep -q "write-protected" message || fail "remount,rw says $(<message)"
must_fail mount -o remount,ro,timeout=77 mnt 2>message
mount -o remount,ro,exec,suid mnt
must_fail touch mnt/new 2>message
grep -q "Read-only file system" message

check "how far is read ahead is what sysfs says, for all mounts"
setting=/sys/class/bdi/peerfs/read_ahead_kb
default=$(<"$setting")
# resident KIB: how much of a file is in memory when its first MiB was read like this.
resident() {
    echo "$1" >"$setting"
    forget
    dd if=mnt/numbers of=/dev/null bs=64k count=16 status=none
    fincore --noheadings --bytes --output RES mnt/numbers | tr -d ' '
}
little=$(resident 0) much=$(resident 16384)
echo "$default" >"$setting"
echo "   $little and $much bytes"
# Chunks are decoded as a whole.
((little <= 1024 * 1024 + 256 * 1024 && much > 2 * 1024 * 1024)) || fail "$little and $much bytes are in memory"

check "a file handle outlives the caches, and the mount"
for path in deep/er/still/file deep/er/still content/large-text .; do
    call handle "mnt/$path" >>handles
    call handle-and-parent "mnt/$path" >>handles
done
must_fail grep E handles
opened() { while read -r handle; do call open-handle mnt "$handle"; done <handles; }
opened >warm
forget
opened >cold
umount mnt
mount_image /tmp/store "$image" mnt
opened >again
# Files are found without their names, directories by climbing to the root.
grep -q '^/tmp/mnt/deep/er/still$' cold || fail "a directory: $(<cold)"
expect 2 "$(grep -c 'far down$' cold)" "handles of a file that lead to it"
expect 2 "$(grep -c '^/tmp/mnt$' cold)" "handles of the root"
expect 8 "$(wc -l <cold)" "handles"
diff <(sed 's/.* //' warm) <(sed 's/.* //' cold)
diff cold again
# Climbed from, a directory is where its name leads.
still=$(sed -n 3p handles)
forget
expect /tmp/mnt/deep/er/still "$(call open-handle mnt "$still")" "a cold directory"
expect "$(stat --format %i mnt/deep/er)" "$(stat --format %i mnt/deep/er/still/..)" "its parent"

check "a handle of another image, and one with a wrong number, are stale"
echo other >tree/deep/er/still/file
other=$(build tree store)
mount_image /tmp/store "$other" second
file=$(head -n 1 handles)
expect ESTALE "$(call open-handle second "$file")" "a handle of another image"
# The eight bytes behind length and type are the number.
for number in 0000000000000000 ffffffffffffffff ffffff0000000000; do
    expect ESTALE "$(call open-handle mnt "${file:0:16}$number${file:32}")" "inode $number"
done
umount second

check "an image whose directories contain the root, or form a circle: errors, by name and by handle"
number() { stat --format %i "mnt/$1"; }
# forged ENTRY NUMBER: the directory deep/er/ENTRY becomes the inode NUMBER.
forged() {
    local digest
    digest=$("$python" -I -S "$PEERFS_FROM/forge_entry.py" store "$other" "$1" "$(number "deep/er/$1")" "$2")
    mount_image /tmp/store "$digest" second
}
forged still 1
must_fail stat second/deep/er/still 2>message
grep -q "Input/output error" message || fail "the root below itself: $(<message)"
call handle second/deep/er >handles
forget
expect /tmp/second/deep/er "$(call open-handle second "$(<handles)")" "the directory around it"
umount second
forged still "$(number deep)"
must_fail ls second/deep/er/still 2>message
grep -q "Input/output error" message || fail "a circle: $(<message)"
# With nothing in the caches that could be gone round.
call handle second/deep/er >handles
forget
expect /tmp/second/deep/er "$(call open-handle second "$(<handles)")" "a directory of the circle"
umount second

check "a mount with mapped owners shows them, and keeps to them"
mkdir mapped
expect mounted "$(call idmap mnt mapped 100000)" "mount_setattr"
owners() { (cd "$1" && find content deep modes xattrs -printf '%p %U %G\n' | sort); }
# 65536 ids are mapped, the others are nobody's.
shifted() { awk '{ for (i = 2; i <= 3; i++) $i = $i < 65536 ? $i + 100000 : 65534; print }'; }
diff <(owners mnt | shifted) <(owners mapped) >differences ||
    fail "owners: $(head differences)"
# An ACL's user too: what 1234 may, 101234 may there, and 1234 may not.
as_user() { setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"; }
expect "for user 1234 and group 5678" "$(as_user 101234 cat mapped/xattrs/acl-file)" "the ACL's user"
must_fail as_user 1234 cat mapped/xattrs/acl-file 2>message
getfacl --numeric --omit-header mapped/xattrs/acl-file 2>message | grep -q user:101234:
umount mapped mnt
