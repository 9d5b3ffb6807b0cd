#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Stores on other filesystems than the one that all tests are written on: whatever locks these take to be read, the
# bytes are right, and nobody waits for themselves.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(256)))' >tree/bytes
image=$(build tree pristine)

# Who writes to a pack a byte that is there already, from a mapping of a file, whose bytes the kernel reads from the
# pack while they write to it. (Starting Python takes seconds here.)
coproc WRITER {
    exec python3 -u -c '
import mmap, os, sys
for line in sys.stdin:
    file, pack = (os.open(path, flags) for path, flags in zip(line.split(), (os.O_RDONLY, os.O_RDWR)))
    mapped = mmap.mmap(file, 0, prot=mmap.PROT_READ)
    # Far from the chunk of the file.
    there = os.fstat(pack).st_size * 3 // 4
    byte = os.pread(pack, 1, there)[0]
    os.posix_fadvise(pack, 0, 0, os.POSIX_FADV_DONTNEED)
    view = memoryview(mapped)
    part = view[byte : byte + 1]
    os.pwrite(pack, part, there)
    part.release(), view.release(), mapped.close(), os.close(file), os.close(pack)
    print("done")
'
}
# write_mapped FILE PACK
write_mapped() {
    local answer
    echo "$1 $2" >&"${WRITER[1]}"
    read -r -t 60 answer <&"${WRITER[0]}" || fail "it does not end"
    expect "done" "$answer" "writing"
}

for filesystem in tmpfs ext4 xfs btrfs nfs; do
    check "a store on $filesystem: the same tree, cold and warm"
    case $filesystem in
    tmpfs) mkdir disk-tmpfs ;;
    nfs)
        mkdir served disk-nfs
        serve_nfs /tmp/served rw
        mount_nfs disk-nfs
        ;;
    *) on_disk "disk-$filesystem" "$filesystem" ;;
    esac
    store=disk-$filesystem/store
    cp -a pristine "$store"
    pack=$(find "$store/blobs" -size +1M)
    mount_image "/tmp/$store" "$image" mnt
    sync
    echo 3 >/proc/sys/vm/drop_caches
    same_tree tree mnt
    if [[ $filesystem == ext4 || $filesystem == xfs ]]; then
        # There is no second copy in memory of what was read.
        pages=$(fincore --noheadings --output PAGES "$pack" | tr -d ' ')
        ((pages * 10 * 4096 < $(stat --format %s "$pack"))) || fail "$pages pages of the pack stay in memory"
    fi
    same_tree tree mnt
    peerfs-testing compare tree mnt --count 200
    # What the other mount has read they would share.
    umount mnt

    check "$filesystem: a part of a pack, as a daemon fills it"
    cp -a "$store" "$store-partial"
    remove_packs "$store-partial"
    start_daemon "/tmp/$store-partial" /tmp/pristine honest
    mount_image "/tmp/$store-partial" "$image" partial
    same_tree tree partial
    umount partial
    stop_daemon
    mount_image "/tmp/$store-partial" "$image" partial
    sync
    echo 3 >/proc/sys/vm/drop_caches
    same_tree tree partial
    umount partial

    for part in whole partial; do
        check "$filesystem: who writes to a $part pack what they map from a file in it does not wait for themselves"
        case $part in
        whole) mount_image "/tmp/$store" "$image" mnt ;;
        partial)
            mount_image "/tmp/$store-partial" "$image" mnt
            pack=$(find "$store-partial/partial" -size +1M)
            ;;
        esac
        sync
        echo 3 >/proc/sys/vm/drop_caches
        write_mapped mnt/bytes "$pack"
        same_tree tree mnt
        umount mnt
    done
    [[ $filesystem == tmpfs ]] || umount "disk-$filesystem"
done
stop_nfs
umount /proc/fs/nfsd
eval "exec ${WRITER[1]}>&-"
