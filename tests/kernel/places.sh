#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# uml-run: --timeout 900
# Packs that are no files of their own: whatever a table of places says, and whoever changes it meanwhile, a read gives
# the right bytes, or an error where there is nobody to ask.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

# Two trees that have much in common, and images whose packs have other digests.
peerfs-testing make-tree tree --small
cp -a tree other
seq 200000 >other/content/a-new-file
peerfs-testing manifest tree >expected
peerfs-testing manifest other >expected-other
image=$(build tree pristine)
second=$(build other pristine --whole)
mkdir -p mnt two
seed=${PEERFS_TEST_SEED:-$RANDOM}
echo "   seed $seed"

without_daemons() { rmmod peerfs && modprobe peerfs upcall=0; }
with_daemons() { rmmod peerfs && modprobe peerfs; }
# lay_out STORE LAYOUT [IMAGE]: a copy of the store with the packs of the image laid out like that.
lay_out() {
    rm -rf "$1"
    cp -a pristine "$1"
    peerfs-testing places "$1" "${3:-$image}" "$2" --seed "$seed"
    sync
}
# survey WHAT [MANIFEST [MOUNT]]: all of a mount, which must be right or an error; how many errors in $errors.
survey() {
    local counted
    counted=$(peerfs-testing survey "${2:-expected}" "${3:-mnt}") || fail "a wrong byte: $1"
    errors=${counted#* }
}
# right WHAT [MANIFEST [MOUNT]]
right() {
    survey "$@"
    expect 0 "$errors" "$1: errors"
}
forget() { echo 3 >/proc/sys/vm/drop_caches; }
open_files() { cut -f 1 /proc/sys/fs/file-nr; }

check "chunks in loose files, in any order, in partial packs, in packs of others: on a disk, and without a daemon"
without_daemons
on_disk disk
for layout in loose shuffled mixed shared; do
    lay_out disk/store "$layout"
    mount_image /tmp/disk/store "$image" mnt
    forget
    same_tree tree mnt
    forget
    peerfs-testing compare tree mnt --count 200
    expect 0 "$(store_counter mnt chunks_damaged)" "damaged chunks of $layout"
    expect 0 "$(store_counter mnt chunks_missed)" "chunks of $layout that were not there"
    umount mnt
done
rm -rf disk/store

check "a data file is open once"
lay_out store crowded
before=$(open_files)
mount_image /tmp/store "$image" mnt
same_tree tree mnt
more=$(($(open_files) - before))
((more < 32)) || fail "$more files are open"
umount mnt

check "two images that share chunks, and one of them is removed while the other is read"
lay_out names loose
name=$(basename names/places/*)
lay_out store shared "$second"
(($(du -sk store | cut -f 1) * 10 < $(du -sk pristine | cut -f 1) * 9)) || fail "nothing is shared"
mount_image /tmp/store "$image" mnt
mount_image /tmp/store "$second" two
right "the first one"
right "the second one" expected-other two
# Alone, since mounts share the pages of files with the same content.
umount mnt
pack=store/blobs/sha256/${name%-*}
mv "$pack" pack
forget
right "the second one, which has the first one's pack open" expected-other two
umount two
mount_image /tmp/store "$second" two
forget
survey "the second one, mounted anew" expected-other two
((errors > 0)) || fail "the second one does not need the first"
umount two
# A pack that is being given up has another name.
mv pack "store/partial/$name"
mount_image /tmp/store "$second" two
forget
right "the second one, with the pack under its other name" expected-other two
mv "store/partial/$name" "$pack"
rm -rf store/{places,loose}/*
forget
right "the second one, which has its own table and files open" expected-other two
mount_image /tmp/store "$image" mnt
umount two
forget
right "the first one, without the second"
umount mnt

check "who has a file open reads what is entered later, and of another data file when they open it anew"
lay_out store loose
table=store/places/$(basename store/places/*)
cp "$table" table
python3 - "$table" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as table:
    count = int.from_bytes(table.read(16)[12:], "little")
    table.seek(128)
    table.write(bytes(8 * count))
PYTHON
mount_image /tmp/store "$image" mnt
exec {held}<mnt/content/large-random
must_fail cat <&"$held" >out 2>err
grep -q "No data available" err || fail "it says $(<err)"
cat table >"$table"
cmp tree/content/large-random - <&"$held" || fail "what was entered is not read"
exec {held}<&-
umount mnt
python3 - "$table" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as table:
    count = int.from_bytes(table.read(16)[12:], "little")
    table.seek(16)
    table.write(bytes(8))  # the generation
    table.seek(128)
    table.write(bytes(8 * count))
    table.truncate()  # without slots
PYTHON
mount_image /tmp/store "$image" mnt
exec {held}<mnt/content/large-random
must_fail cat <&"$held" >out 2>err
cat table >"$table"
must_fail cat <&"$held" >out 2>err
grep -q "No data available" err || fail "it says $(<err)"
cmp tree/content/large-random mnt/content/large-random
cmp tree/content/large-random - <&"$held" || fail "the file that was opened before is not read"
exec {held}<&-

check "chunks move to another data file that is open, and what was in their places is gone"
python3 - "$table" store/loose/0 store/loose/1 <<'PYTHON'
import struct, sys
table, source, target = (open(path, "r+b") for path in sys.argv[1:])
count = int.from_bytes(table.read(16)[12:], "little")
table.seek(128)
entries = struct.unpack(f"<{count}Q", table.read(8 * count))
end = target.seek(0, 2)
bytes_moved = source.read()
target.write(bytes_moved)
target.flush()
# From the first slot to the second one.
moved = [entry + (1 << 40) + end if entry >> 40 == 1 else entry for entry in entries]
table.seek(128)
table.write(struct.pack(f"<{count}Q", *moved))
table.flush()
source.seek(0)
source.write(bytes(len(bytes_moved)))
PYTHON
forget
right "chunks that moved"
expect 0 "$(store_counter mnt chunks_damaged)" "damaged chunks"

check "data files and the table are removed while the mount has them open"
rm -rf store/loose store/places
forget
right "all is removed"
umount mnt

check "tables that are wrong, or not there: right bytes or errors, and at most a few lines in the log"
for layout in empty other-pack shifted rotated beyond unknown-kinds vanished cut noise; do
    lay_out store "$layout"
    dmesg --clear
    mount_image /tmp/store "$image" mnt
    survey "$layout"
    ((errors > 0)) || fail "$layout: nobody noticed"
    umount mnt
    lines=$(dmesg | grep -c 'peerfs: ' || true)
    ((lines <= 60)) || fail "$layout: $lines lines in the log"
done
for kind in fifo folder link nothing; do
    lay_out store loose
    for file in store/places/* store/loose/0; do
        mv "$file" moved
        case $kind in
        fifo) mkfifo "$file" ;;
        folder) mkdir "$file" ;;
        link) ln -s /tmp/moved "$file" ;;
        esac
        mount_image /tmp/store "$image" mnt
        survey "a $kind in the place of $file"
        ((errors > 0)) || fail "a $kind in the place of $file: nobody noticed"
        umount mnt
        rm -rf "$file"
        mv moved "$file"
    done
    mount_image /tmp/store "$image" mnt
    right "mended"
    umount mnt
done

check "with a daemon all of them are mended, whatever data files it has"
with_daemons
for layout in empty other-pack shifted rotated beyond unknown-kinds vanished cut noise; do
    for behaviour in honest loose; do
        lay_out store "$layout"
        start_daemon /tmp/store /tmp/pristine "$behaviour"
        mount_image /tmp/store "$image" mnt ,timeout=20
        right "$layout, $behaviour"
        umount mnt
        stop_daemon
        mount_image /tmp/store "$image" mnt ,timeout=1
        right "$layout, after a daemon that was $behaviour"
        umount mnt
    done
done

check "what is in the store is not asked for, and what is damaged is asked for once"
lay_out store mixed
start_daemon /tmp/store /tmp/pristine honest
mount_image /tmp/store "$image" mnt
right mixed
[[ ! -s requests ]] || fail "it was asked: $(head -n 3 requests)"
umount mnt
printf x | dd of=store/loose/0 bs=1 seek=100000 conv=notrunc status=none
mount_image /tmp/store "$image" mnt
right damaged
expect 1 "$(grep -c 'flags 1' requests)" "requests for what is damaged"
expect 1 "$(wc -l <requests)" "requests"
expect 1 "$(store_counter mnt chunks_damaged)" "damaged chunks"
umount mnt
stop_daemon

check "a damaged whole pack is mended in the table beside it"
rm -rf store
cp -a pristine store
pack=$(find store/blobs -size +1M -name "${name%-*}")
dd if=/dev/zero of="$pack" bs=64 seek=1000 count=1 conv=notrunc status=none
start_daemon /tmp/store /tmp/pristine loose
mount_image /tmp/store "$image" mnt
right "a damaged whole pack"
# Who opens a file anew does not begin again with the damaged pack.
damaged=$(store_counter mnt chunks_damaged)
forget
right "again"
expect "$damaged" "$(store_counter mnt chunks_damaged)" "damaged chunks"
umount mnt
stop_daemon

check "a table that is cut, grows, is filled with noise and is put right again, while it is read"
lay_out store mixed
table=store/places/$(basename store/places/*)
start_daemon /tmp/store /tmp/pristine loose
python3 - "$table" "$seed" <<'PYTHON' &
import os, random, sys, time
source = random.Random(int(sys.argv[2]))
table = os.open(sys.argv[1], os.O_RDWR)
right = os.pread(table, 1 << 24, 0)
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    match source.randrange(4):
        case 0:
            os.ftruncate(table, source.randrange(len(right)))
        case 1:
            os.pwrite(table, source.randbytes(5000), source.randrange(len(right)))
        case 2:
            place = source.randrange(len(right) // 8) * 8
            os.pwrite(table, source.randbytes(8), place)
        case 3:
            os.ftruncate(table, len(right))
    time.sleep(0.005)
    os.pwrite(table, right, 0)
    time.sleep(0.005)
os.ftruncate(table, len(right))
PYTHON
changer=$!
mount_image /tmp/store "$image" mnt ,timeout=20
rounds=0
while kill -0 "$changer" 2>/dev/null; do
    survey "a table that changes"
    forget
    rounds=$((rounds + 1))
done
wait "$changer"
umount mnt
echo "   $rounds times"
mount_image /tmp/store "$image" mnt ,timeout=20
right "a table that changed"

check "a table in whose place a folder is put, and another table, while it is read"
for ((round = 0; round < 3; round++)); do
    mv "$table" moved
    mkdir "$table"
    forget
    right "a folder in its place"
    rmdir "$table"
    forget
    right "none in its place"
    rm -f "$table"
    mv moved "$table"
    forget
    right "the table again"
done
umount mnt
stop_daemon
