#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# An ordinary user mounts an image from a store of their own, in a user namespace: what they get by it,
# and what not. The case for this is made in Documentation/security.md.
# uml-run: --memory 1G --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
user=1000 other=1001
as() { setpriv --reuid "$1" --regid "$1" --clear-groups --no-new-privs --reset-env "${@:2}"; }
# in_namespace USER SCRIPT: as root of a new user namespace, to which only USER is mapped.
in_namespace() {
    as "$1" unshare --user --map-root-user --mount bash -eo pipefail -c "PATH=$PATH; cd /tmp; $2"
}

peerfs-testing make-tree tree --small
mkdir -p tree/users
echo "of the user" >tree/users/own
echo "of root alone" >tree/users/secret
chmod 600 tree/users/secret
cp /bin/cat tree/users/setuid
chmod 4755 tree/users/setuid
cp /bin/cat tree/users/capable
setfattr --name security.capability --value 0x0100000200200000000000000000000000000000 tree/users/capable
mknod --mode 666 tree/users/null c 1 3
mkdir -m 755 tree/users/of-another && chown "$other:$other" tree/users/of-another
echo "of another" >tree/users/of-another/file
chmod 640 tree/users/of-another/file && chown "$other:$other" tree/users/of-another/file
image=$(build tree store)
chmod 755 . store
mkdir --mode 777 mnt

# A store of the user's own, and one that they may not look into.
install --directory --owner "$user" --group "$user" --mode 700 own private
cp -r store/. own/
chown -R "$user:$user" own
cp -r store/. private/
chown -R "$other:$other" private
options=manifest=$image,timeout=2

check "it is mounted, read, and gone with the namespace"
in_namespace "$user" "mount -t peerfs -o root_dir=/tmp/own,$options none mnt
    cmp mnt/content/large-text tree/content/large-text
    cat mnt/users/own
    grep ' /tmp/mnt peerfs ' /proc/mounts" >seen
grep -q "of the user" seen
must_fail grep -q ' /tmp/mnt peerfs' /proc/mounts

check "outside of a namespace a user may mount nothing"
must_fail as "$user" mount -t peerfs -o "root_dir=/tmp/own,$options" none /tmp/mnt 2>message

check "owners that are not mapped are nobody, and what is theirs is closed"
in_namespace "$user" "mount -t peerfs -o root_dir=/tmp/own,$options none mnt
    stat --format %u mnt/users/of-another mnt/users/secret
    cat mnt/users/secret
    ! cat mnt/users/of-another/file 2>&1" >seen
# What root of the image owns is the user's, as it is root there; 1001 has no name in the namespace.
printf '65534\n0\nof root alone\n' | diff - <(head -n 3 seen)
grep -q "Permission denied" seen

check "devices do not open, and trusted xattrs are not shown"
in_namespace "$user" "mount -t peerfs -o root_dir=/tmp/own,$options none mnt
    ls -l mnt/users/null
    ! cat mnt/users/null 2>&1
    ! getfattr --name trusted.peerfs mnt/xattrs/every-namespace 2>&1
    echo \$\$ >/tmp/own/process
    until [[ -e /tmp/own/end ]]; do sleep 0.1; done" >seen &
inside=$!
wait_until 20 test -s own/process
grep -q "^crw-rw-rw-" seen
grep -q "null: Permission denied" seen || fail "the device opened: $(<seen)"
grep -q "trusted.peerfs: No such attribute" seen || fail "trusted: $(<seen)"

check "no program gains a privilege"
# ids FOLDER PROGRAM, capabilities FOLDER PROGRAM: what an ordinary user has in the program.
status_of() (cd "$1" && setpriv --reuid 4321 --regid 4321 --clear-groups "./$2" /proc/self/status)
ids() { status_of "$@" | awk '$1 == "Uid:" { print $2, $3 }'; }
capabilities() { status_of "$@" | awk '$1 == "CapEff:" { print $2 }'; }
mount_image /tmp/store "$image" as-root
expect "4321 0" "$(ids as-root/users setuid)" "setuid, mounted by root"
expect 0000000000002000 "$(capabilities as-root/users capable)" "capabilities, mounted by root"
# Root enters the user's mount, and becomes a user there.
process=$(<own/process)
expect "4321 4321" "$(ids "/proc/$process/root/tmp/mnt/users" setuid)" "setuid"
expect 0000000000000000 "$(capabilities "/proc/$process/root/tmp/mnt/users" capable)" "capabilities"
umount as-root
touch own/end
wait "$inside"

check "somebody else's store stays closed, with its digest known and its daemon at work"
start_daemon /tmp/private /tmp/store honest
dmesg --clear
in_namespace "$user" "! mount -t peerfs -o root_dir=/tmp/private,$options none mnt 2>&1" >message
# EACCES.
dmesg | grep -qE "in /tmp/private: cannot be read: (errno 13|EACCES)$" || fail "it says $(dmesg)"
expect 0 "$(counter handed_out)" "requests"
stop_daemon

check "a daemon fills a store only for who may write to it"
for store in readable writable; do
    cp -r store "$store"
    remove_packs "$store"
done
chown -R "$user:$user" writable
start_daemon /tmp/readable /tmp/store honest
in_namespace "$user" "mount -t peerfs -o root_dir=/tmp/readable,$options none mnt
    ls mnt/content >/dev/null
    ! cat mnt/content/large-text 2>&1 >/dev/null" >message
grep -q "No data available" message || fail "it says $(<message)"
expect 0 "$(counter handed_out)" "requests"
# The root of the machine may.
mount_image /tmp/readable "$image" as-root
cmp as-root/content/large-text tree/content/large-text
umount as-root
stop_daemon
start_daemon /tmp/writable /tmp/store honest
in_namespace "$user" "mount -t peerfs -o root_dir=/tmp/writable,$options,timeout=20 none mnt
    cmp mnt/content/large-text tree/content/large-text"
# Not where it is mounted read-only.
forget_chunks writable
must_fail in_namespace "$user" "mount --bind -o ro writable writable
    mount -t peerfs -o root_dir=/tmp/writable,$options none mnt
    cmp mnt/content/large-text tree/content/large-text" 2>message
grep -q "No data available" message || fail "it says $(<message)"
stop_daemon

check "files of the user's own store that they replace are noticed"
in_namespace "$user" "mount -t peerfs -o root_dir=/tmp/own,$options none mnt
    for pack in \$(find own/blobs/sha256 -size +1M); do
        printf x | dd of=\$pack bs=1 seek=100 conv=notrunc status=none
    done
    ! cat mnt/content/* 2>&1 >/dev/null" >message
grep -q "Input/output error" message || fail "it says $(<message)"
