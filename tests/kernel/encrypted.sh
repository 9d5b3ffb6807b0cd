#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Encrypted images: who has the key reads them, from the keyring or from a file that the mount is told, or was granted it; who has not gets
# ENOKEY and nothing else, also beside a mount of the same image and with what that has in memory.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

rmmod peerfs
modprobe peerfs upcall=0
peerfs-testing make-tree tree --small
id=$(peerfs key realm realm.key)
peerfs key realm other.key >/dev/null
plain=$(build tree store)
secret=$(build tree store --encrypt realm.key)
foreign=$(build tree store --encrypt other.key)
[[ $plain != "$secret" && $secret != "$foreign" ]] || fail "two images have one digest"
big=content/large-text

# refuses ERROR COMMAND...: the mount fails with this error, and names the key.
refuses() {
    must_fail "${@:2}" 2>message
    grep -q "$1" message || fail "another error than $1: $(<message)"
    grep -q "peerfs:$id" message || fail "the key is not named: $(<message)"
    must_fail mountpoint -q "${*: -1}"
}
no_key="Required key not available"
mkdir -p secret without

check "without the key nothing is mounted"
refuses "$no_key" peerfs mount --root-dir store "$secret" secret
refuses "$no_key" peerfs mount --root-dir store -o key=other.key "$secret" secret

check "with it the tree is the same, from small files to the largest"
peerfs mount --root-dir store -o key=realm.key "$secret" secret
same_tree tree secret

check "who has no key gets nothing of what is mounted and in memory"
refuses "$no_key" peerfs mount --root-dir store "$secret" without
# What a mount was told is not left to others, and the mount does without it.
SECONDS=0
# The kernel does away with keys in a while.
while grep -q "peerfs:$id" /proc/keys; do
    ((SECONDS < 10)) || fail "the key is still in a keyring"
    sleep 0.1
done
cmp tree/$big secret/$big
echo 3 >/proc/sys/vm/drop_caches
cmp tree/$big secret/$big

check "a plain image and one of another realm beside it share nothing with it, and each is right"
cached() { fincore --bytes --noheadings --output RES "$1" | tr -d ' '; }
mount_image /tmp/store "$plain" plain
mkdir foreign
peerfs mount --root-dir store -o key=other.key "$foreign" foreign
expect 0 "$(cached plain/$big)" "plain pages of an encrypted file"
expect 0 "$(cached foreign/$big)" "pages of another realm's file"
same_tree tree plain
same_tree tree foreign
same_tree tree secret
umount plain foreign

check "a second mount with the key shares the pages"
mkdir second
peerfs mount --root-dir store -o key=realm.key "$secret" second
(($(cached second/$big) >= $(stat --format %s tree/$big))) || fail "only $(cached second/$big) bytes are shared"
same_tree tree second
umount second secret

check "who was granted the key mounts by an identity, and nobody else does"
recipient=$(peerfs key identity own.txt)
peerfs key identity stranger.txt >/dev/null
expect "$id" "$(peerfs key grant --root-dir store --to "$recipient" realm.key "$secret")" "the key that was granted"
must_fail peerfs mount --root-dir store -o identity=stranger.txt "$secret" secret
peerfs mount --root-dir store -o identity=own.txt "$secret" secret
same_tree tree secret
umount secret

check "a key in a keyring is found, and one that is called so and is another is refused"
expect "peerfs:$id" "$(peerfs key import realm.key)" "what it is called"
mount_image /tmp/store "$secret" secret
same_tree tree secret
umount secret
# add_key(2), into the user's keyring.
python3 -c 'import ctypes, sys
ctypes.CDLL(None).syscall(248, b"logon", sys.argv[1].encode(), bytes(32), ctypes.c_size_t(32), -4)' "peerfs:$id"
refuses "Key was rejected by service" peerfs mount --root-dir store "$secret" secret
peerfs key import realm.key >/dev/null

check "a bit of each chunk, and reading them fails: the kernel says so, and gives nothing"
find store/blobs/sha256 -type f -size +1M -exec python3 -c 'import sys
for name in sys.argv[1:]:
    with open(name, "r+b") as pack:
        data = bytearray(pack.read())
        data[::4096] = bytes(byte ^ 1 for byte in data[::4096])
        pack.seek(0)
        pack.write(data)' {} +
mount_image /tmp/store "$secret" secret
echo 3 >/proc/sys/vm/drop_caches
dmesg --clear
must_fail cat secret/$big >output 2>message
[[ ! -s output ]] || fail "damaged bytes were read"
grep -q 'Input/output error' message || fail "another error: $(<message)"
dmesg | grep -q "damaged: its digest differs" || fail "no line in the log"
umount secret
