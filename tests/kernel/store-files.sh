#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What should not be in a store, in each place of it: an error at once or the right bytes, and no hang. A FIFO that
# nobody writes to, a socket, a folder, a device, a link to the right file, one that somebody has a lease on, one
# that was cut, one that grows.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

mkdir -p tree/folder
seq 100000 >tree/folder/text
head -c 1500000 /dev/urandom >tree/random
image=$(build tree pristine)
rmmod peerfs
modprobe peerfs upcall=0
mkdir -p mnt
# Seconds that a mount and a walk over it may take: less than the lease-break time, which is 45 seconds, and enough for
# a machine that has much else to do.
limit=30

# The blobs of the image, by what they are: the largest is the pack, the tables are told by who leads to them.
blobs=pristine/blobs/sha256
hex() { od -An -v -tx1 "$1" | tr -d ' \n'; }
leads_to() { hex "$blobs/$1" | grep -q "$2"; }
pack=$(basename "$(find $blobs -size +1M)")
table=
index=
shard=
mapfile -t names < <(find $blobs -type f -printf '%f\n')
for blob in "${names[@]}"; do
    ! leads_to "$image" "$blob" || table=$blob
done
for blob in "${names[@]}"; do
    [[ $blob != "$pack" ]] || continue
    leads_to "$table" "$blob" || continue
    if hex "$blobs/$table" | grep -q "$pack$blob"; then index=$blob; else shard=${shard:-$blob}; fi
done
[[ -n $table && -n $index && -n $shard ]] || fail "the image has no table, index or shard"

# Who has a lease on the file that they are told, as who writes to it, and does not give it back before they are
# told the next one; and who has made a socket.
coproc HOLDER {
    exec python3 -u -c '
import fcntl, os, signal, socket, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
socket.socket(socket.AF_UNIX).bind("a-socket")
file = None
for line in sys.stdin:
    if file is not None:
        os.close(file)
        file = None
    if line.strip():
        file = os.open(line.strip(), os.O_RDWR)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("done")
'
}
# hold [FILE]
hold() {
    local answer
    echo "${1:-}" >&"${HOLDER[1]}"
    read -r answer <&"${HOLDER[0]}"
    expect "done" "$answer" "lease"
}
hold

# plant KIND FILE: puts it in the file's place.
plant() {
    rm -f right
    mv "$2" right
    case $1 in
    fifo) mkfifo "$2" ;;
    socket) cp -a a-socket "$2" ;;
    folder) mkdir "$2" ;;
    device) mknod "$2" c 1 5 ;;
    link) ln -s /tmp/right "$2" ;;
    leased) cp right "$2" && hold "$2" ;;
    cut) head -c 100 right >"$2" ;;
    grown) cat right - <<<"more than there should be" >"$2" ;;
    esac
}

# survey WHAT: mounts and reads everything, which is right or an error, within the limit. Sets $errors, "none" if it
# could not be mounted.
survey() {
    local began=$SECONDS counted
    errors=none
    if mount -t peerfs -o "root_dir=/tmp/store,manifest=$image,timeout=60" none mnt 2>message; then
        counted=$(peerfs-testing survey expected mnt) || fail "a wrong byte: $*"
        errors=${counted#* }
        umount mnt
    fi
    ((SECONDS - began < limit)) || fail "$((SECONDS - began)) seconds: $*"
}

# some_errors WHAT: it could be mounted, and not all could be read.
some_errors() {
    [[ $errors != none ]] || fail "it could not be mounted: $1"
    ((errors > 0)) || fail "nobody noticed: $1"
}

peerfs-testing manifest tree >expected
for kind in fifo socket folder device link leased cut grown; do
    for place in "$image" "$table" "$index" "$shard" "$pack"; do
        what="a $kind in the place of $place"
        case $place in
        "$image") name="the manifest" ;;
        "$table") name="the blob table" ;;
        "$index") name="the index" ;;
        "$shard") name="a shard" ;;
        "$pack") name="the pack" ;;
        esac
        check "$kind: $name"
        rm -rf store
        cp -a pristine store
        dmesg --clear
        plant "$kind" "store/blobs/sha256/$place"
        survey "$what"
        case $kind:$place in
        # What is behind the last chunk is nobody's business.
        "grown:$pack") expect 0 "$errors" "$what" ;;
        *)
            [[ $errors == none ]] || ((errors > 0)) || fail "nobody noticed: $what"
            ;;
        esac
        dmesg >>log
        hold
    done
    rm -rf "store/blobs/sha256/$pack"
    cp "pristine/blobs/sha256/$pack" "store/blobs/sha256/$pack"
    survey "mended: $what"
    expect 0 "$errors" "mended: $what"
done

check "the log says what is in the place of what"
for why in "damaged: is no regular file" "is leased by who writes to it" "damaged: its digest differs"; do
    grep -q "peerfs: /tmp/store: .*[0-9a-f]\{64\}: .*$why" log || fail "no line: $why"
done

check "a partial pack, a loose file and the table of places"
rm -rf store filled
cp -a pristine filled
peerfs-testing places filled "$image" mixed
partial=$(find filled/partial -size +1M -printf '%f\n')
for kind in fifo socket folder device link leased cut grown; do
    for place in "partial/$partial" loose/0 "places/$partial"; do
        check "$kind: $place"
        rm -rf store
        cp -a --sparse=always filled store
        dmesg --clear
        plant "$kind" "store/$place"
        survey "a $kind in the place of $place"
        # Behind the last slot there are no more; behind the last chunk there is nothing.
        case $kind in
        grown) expect 0 "$errors" "a $kind in the place of $place" ;;
        *) some_errors "a $kind in the place of $place" ;;
        esac
        dmesg >>log
        hold
    done
done
grep -q "peerfs: /tmp/store: places/$partial: is no regular file" log || fail "no line for a table"
grep -q "peerfs: /tmp/store: loose/0: is leased" log || fail "no line for a loose file"
grep -q "peerfs: /tmp/store: places/$partial: no table" log || fail "no line for what is no table"

check "folders of the store that are links"
for folder in blobs blobs/sha256 partial loose places; do
    rm -rf store elsewhere
    cp -a --sparse=always filled store
    mv "store/$folder" elsewhere
    ln -s /tmp/elsewhere "store/$folder"
    survey "$folder is a link"
    case $folder in
    blobs*) expect none "$errors" "$folder is a link" ;;
    *) some_errors "$folder is a link" ;;
    esac
done

check "a pack that grows and is cut while it is read"
rm -rf store
cp -a pristine store
python3 - "store/blobs/sha256/$pack" <<'PYTHON' &
import os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
right = os.pread(file, 1 << 30, 0)
deadline = time.monotonic() + 6
while time.monotonic() < deadline:
    os.ftruncate(file, len(right) // 3)
    time.sleep(0.01)
    os.pwrite(file, right, 0)
    os.pwrite(file, bytes(1 << 16), len(right))
    time.sleep(0.01)
os.ftruncate(file, len(right))
PYTHON
changer=$!
while kill -0 "$changer" 2>/dev/null; do
    survey "a pack that changes"
    [[ $errors != none ]] || fail "it could not be mounted"
    echo 3 >/proc/sys/vm/drop_caches
done
wait "$changer"
eval "exec ${HOLDER[1]}>&-"
survey "the pack is as it was"
expect 0 "$errors" "the pack is as it was"
