#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Packs on a disk, and files that their chunks are in, are read past the page cache, and ahead of whoever reads small
# files in order.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

on_disk disk
mkdir tree
python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(256)))' >tree/bytes
# Numbers, so that chunks are much shorter stored than segments are.
seq 100000000 101500000 | split --bytes 8000 --suffix-length 4 - tree/small-
image=$(build tree disk/store)
pack=$(find disk/store/blobs -size +1M)
stored=$(stat --format %s "$pack")
loop=$(basename "$(findmnt --noheadings --output SOURCE --target disk)")

# disk_stat FIELD: what the disk was asked for: 1: requests, 3: sectors.
disk_stat() { awk -v field="$1" '{ print $field }' "/sys/block/$loop/stat"; }
cached_pages() { fincore --noheadings --output PAGES "${files[@]}" | awk '{ sum += $1 } END { print sum }'; }
mount_anew() {
    ! mountpoint -q mnt || umount mnt
    mount_image /tmp/disk/store "$image" mnt
    ls -l mnt >/dev/null
}
# read_all: reads the small files in order; sets read_requests and read_kib.
read_all() {
    local requests sectors
    requests=$(disk_stat 1) sectors=$(disk_stat 3)
    find mnt -name 'small-*' | sort | xargs cat >all
    read_requests=$(($(disk_stat 1) - requests)) read_kib=$((($(disk_stat 3) - sectors) / 2))
    echo "   $read_requests requests for $read_kib KiB, of $((stored / 1024)) KiB stored"
    cat tree/small-* | cmp - all || fail "wrong bytes"
}

# reads_well WHAT FILE...: of an image whose chunks are in these files, in order.
reads_well() {
    local what=$1 damaged=$((150 * 1024)) before file
    files=("${@:2}")

    check "$what: each byte once, many at a time"
    mount_anew
    sync
    echo 3 >/proc/sys/vm/drop_caches
    ls -l mnt >/dev/null
    read_all
    ((read_kib * 1024 < stored * 11 / 10)) || fail "$read_kib KiB were read"
    ((read_requests * 100 * 1024 < stored)) || fail "$read_requests requests were made"

    check "$what: and none of it stays in the page cache"
    expect 0 "$(cached_pages)" "pages of the data files in memory"

    check "$what: what is there already is not read again"
    cat "${files[@]}" >/dev/null
    (($(cached_pages) * 4096 >= stored)) || fail "the data files are not in memory"
    mount_anew
    read_all
    ((read_kib * 10 * 1024 < stored)) || fail "$read_kib KiB were read"

    check "$what: what was read ahead, and was damaged then, is right when it was mended"
    dd if="${files[0]}" of=right bs=1 count=64 skip=$damaged status=none
    dd if=/dev/zero of="${files[0]}" bs=1 count=64 seek=$damaged conv=notrunc status=none
    sync
    mount_anew
    echo 3 >/proc/sys/vm/drop_caches
    ls -l mnt >/dev/null
    before=$(disk_stat 3)
    # Until the segment that has it is here: many files before anybody comes to it.
    for file in mnt/small-*; do
        cat "$file" >/dev/null
        ((($(disk_stat 3) - before) / 2 < 160)) || break
        sleep 0.02
    done
    (($(disk_stat 3) - before < 1024)) || fail "$(($(disk_stat 3) - before)) sectors were read"
    dd if=right of="${files[0]}" bs=1 seek=$damaged conv=notrunc status=none
    find mnt -name 'small-*' | sort | xargs cat | cmp - all || fail "wrong bytes"
    expect 0 "$(store_counter mnt chunks_damaged)" "damaged chunks"
}
reads_well "a whole pack" "$pack"
cp "$pack" pack
peerfs-testing places disk/store "$image" loose
mapfile -t loose < <(find disk/store/loose -type f | sort -V)
((${#loose[@]} > 1)) || fail "it is in one file"
reads_well "loose files" "${loose[@]}"
rm -rf disk/store/{loose,places}
cp pack "$pack"

check "who writes to a pack what they map from a file in it does not wait for themselves"
mount_anew
echo 3 >/proc/sys/vm/drop_caches
python3 - mnt/bytes "$pack" <<'PYTHON'
import mmap, os, sys
mapped = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)
pack = os.open(sys.argv[2], os.O_RDWR)
# Far from the chunk, whose pages must not be in memory, and what is there already.
there = os.fstat(pack).st_size * 3 // 4
byte = os.pread(pack, 1, there)[0]
os.pwrite(pack, memoryview(mapped)[byte : byte + 1], there)
PYTHON
same_tree tree mnt
umount mnt disk
