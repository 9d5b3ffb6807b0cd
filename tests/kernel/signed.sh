#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Signatures that the kernel asks for: by a certificate of the keyring .peerfs, of this image and no other, before anything of the
# image is read; asked for by a mount, or by the module of all of them.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

# load [PARAMETERS]: with an empty keyring.
load() {
    rmmod peerfs
    modprobe peerfs upcall=0 "$@"
}
load
peerfs-testing make-tree tree --small
one=$(build tree store)
echo "another one" >tree/file
other=$(build tree store)
[[ $one != "$other" ]] || fail "two images have one digest"
# certify NAME ALGORITHM...: NAME.key, and NAME.pem, its certificate.
certify() {
    openssl req -x509 -nodes -newkey "${@:2}" -keyout "$1.key" -out "$1.pem" -subj "/CN=$1" 2>/dev/null
    chmod 600 "$1.key"
}
certify p256 ec -pkeyopt ec_paramgen_curve:P-256
certify rsa rsa:2048
certify stranger ec -pkeyopt ec_paramgen_curve:P-256
sign() { peerfs sign --root-dir store --certificate "$1.pem" --key "./$1.key" "$2" >/dev/null; }
mkdir mnt
mounting() { mount -t peerfs -o "root_dir=/tmp/store,manifest=$1,require_signature${2:-}" none mnt; }
# refuses ERROR MESSAGE IMAGE
refuses() {
    check "$1, \"$2\""
    # Ten lines in five seconds are all that the kernel says.
    sleep 0.6
    must_fail mounting "$3" 2>message
    dmesg | tail -n 5 >>message
    grep -q "$1" message || fail "another error than $1: $(<message)"
    grep -q "$2" message || fail "not said: $2: $(<message)"
    must_fail mountpoint -q mnt
    dmesg --clear
}
unknown="Required key not available" rejected="Key was rejected by service"

refuses "$rejected" "not signed, and a signature is required" "$one"
sign p256 "$one"
sign rsa "$other"
refuses "$unknown" "not signed by anybody" "$one"

check "with the certificate in the keyring it is mounted, by either kind of key"
peerfs key trust p256.pem rsa.pem
for image in "$one" "$other"; do
    mounting "$image"
    grep -q " /tmp/mnt peerfs .*,require_signature" /proc/mounts || fail "the option is not shown"
    [[ $image == "$one" ]] || same_tree tree mnt
    umount mnt
done

check "what nobody asks about needs no signature, and a remount asks for none"
mount_image /tmp/store "$one" mnt
must_fail mount -o remount,require_signature mnt
umount mnt
must_fail mounting "$one" =yes

check "a signature of another image, of somebody else, and garbage count for nothing, whatever else is there"
cp store/signed/"$other" store/signed/"$one"
refuses "$rejected" "one of something else" "$one"
sign stranger "$one"
refuses "$unknown" "not signed by anybody" "$one"
sign p256 "$one"
mounting "$one"
umount mnt
head -c 70000 /dev/urandom >store/signed/"$one"
refuses "$rejected" "too long" "$one"
for garbage in '' 'x' '\x30\x82\xff\xff' '\x30\x03\x02\x01\x01'; do
    # shellcheck disable=SC2059  # it is the format
    printf "$garbage" >store/signed/"$one"
    refuses "$rejected" "cannot be verified" "$one"
done
rm store/signed/"$one"
ln -s "$other" store/signed/"$one"
refuses "$rejected" "no regular file" "$one"
rm store/signed/"$one"
mkdir store/signed/"$one"
refuses "$rejected" "no regular file" "$one"
rmdir store/signed/"$one"

check "a bit of a signature, wherever it is, and it is none"
sign p256 "$one"
cp store/signed/"$one" right
size=$(stat --format %s right)
for ((byte = 0; byte < size; byte += 23)); do
    python3 -c 'import sys
data = bytearray(open("right", "rb").read())
data[int(sys.argv[1])] ^= 4
open(sys.argv[2], "wb").write(data)' "$byte" "store/signed/$one"
    # What the signature does not cover may change: names of algorithms whose absence means the same.
    if mounting "$one" 2>/dev/null; then
        umount mnt
        changed+=" $byte"
    fi
done
echo "bytes that may differ: ${changed:-none}"
(($(wc -w <<<"${changed:-}") * 23 * 5 <= size)) || fail "too much may differ:$changed"

check "it is the text of the document that is signed: OpenSSL's own signatures count, with attributes and without"
for attributes in -noattr -nosmimecap; do
    rm -r store/signed
    printf 'peerfs-image-1 sha256:%s' "$one" |
        openssl cms -sign -binary -outform DER "$attributes" -signer p256.pem -inkey p256.key >signature
    peerfs sign --root-dir store --signature signature "$one" >/dev/null
    mounting "$one"
    umount mnt
done

check "of seventeen signatures sixteen are looked at, and the newest comes first"
for ((i = 0; i < 16; i++)); do sign stranger "$one"; done
refuses "$unknown" "not signed by anybody" "$one"
sign p256 "$one"
mounting "$one"
umount mnt

check "once that is restricted nobody is trusted any more who was not"
keyring=$(awk '$9 == ".peerfs:" { print $1 }' /proc/keys)
# keyctl(2), KEYCTL_RESTRICT_KEYRING.
python3 -c 'import ctypes, sys
sys.exit(ctypes.CDLL(None).syscall(250, 29, ctypes.c_int(int(sys.argv[1], 16)), None, None))' "$keyring"
must_fail peerfs key trust stranger.pem 2>message
grep -q "keyring" message || fail "$(<message)"
mounting "$one"
umount mnt

check "the module asks for it of all mounts, of users as well, who trust nobody here"
load require_signature=1
peerfs key trust p256.pem
sign p256 "$one"
rm store/signed/"$other" 2>/dev/null || true
mount_image /tmp/store "$one" mnt
grep -q " /tmp/mnt peerfs .*,require_signature" /proc/mounts || fail "the option is not shown"
umount mnt
must_fail mount_image /tmp/store "$other" mnt 2>/dev/null
sign stranger "$other"
chmod -R go+rX . store
as_user() { setpriv --reuid 1000 --regid 1000 --clear-groups --reset-env unshare --user --map-root-user --mount \
    bash -ec "PATH=/tmp/bin:$PATH; cd /tmp; $1"; }
# Where the programs of these tests lie users may have no way to.
install -D -t bin "$(command -v peerfs)"
as_user "mount -t peerfs -o root_dir=/tmp/store,manifest=$one none mnt; cat mnt/content/large-text >/dev/null"
must_fail as_user "mount -t peerfs -o root_dir=/tmp/store,manifest=$other none mnt" 2>/dev/null
must_fail as_user "peerfs key trust stranger.pem" 2>message
grep -q "only root sees it\|ermission denied" message || fail "$(<message)"

check "through FUSE it can't be asked for"
must_fail peerfs mount --fuse --root-dir store -o require_signature "$one" mnt 2>message
grep -q "knows no option require_signature" message || fail "$(<message)"
