#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# uml-run: --timeout 900
# Whatever is wrong with a store or a daemon, a read gives the right bytes or an error.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
peerfs-testing manifest tree >expected
paths=$(wc -l <expected)
on_disk store
image=$(build tree store)
cp -a store pristine
mkdir -p mnt
seed=${PEERFS_TEST_SEED:-$RANDOM}
echo "   $paths paths, seed $seed"

# survey WHAT: reads all of the mount, which must be right or an error; how many errors in $errors.
survey() {
    local counted
    counted=$(peerfs-testing survey expected mnt) || fail "a wrong byte: $*"
    errors=${counted#* }
}

# damaged KIND TIMES: damages the store, reads what is left of it, and mends it again. What is damaged
# must be noticed: an image has no byte that nobody reads when everything is read.
damaged() {
    local kind=$1 times=$2 number unmountable=0 with_errors=0 what
    check "$times times: $kind"
    for ((number = 0; number < times; number++)); do
        what=$(peerfs-testing damage store "$image" "$kind" --seed $((seed + number)))
        # So that it is read past the page cache.
        sync --file-system store
        echo 1 >/proc/sys/vm/drop_caches
        if mount -t peerfs -o "root_dir=/tmp/store,manifest=$image,timeout=5" none mnt 2>message; then
            survey "$what"
            ((errors > 0)) || fail "nobody noticed: $what"
            with_errors=$((with_errors + 1))
            umount mnt
        else
            unmountable=$((unmountable + 1))
        fi
        while read -r _ blob _; do
            cp "pristine/blobs/sha256/$blob" store/blobs/sha256/
        done <<<"$what"
    done
    echo "   mounted with errors $with_errors times, not mounted $unmountable times"
}

damaged flip 200
damaged truncate 25
damaged zero-chunk 25
damaged swap 25

check "the log says what was wrong: store, blob, chunk"
dmesg >log
grep -q 'peerfs: /tmp/store: pack [0-9a-f]\{64\} chunk [0-9]*: damaged' log || fail "no line for a chunk"
grep -q 'peerfs: /tmp/store: blob [0-9a-f]\{64\}: damaged' log || fail "no line for a blob"
lines=$(grep -c 'peerfs: .* damaged' log)
((lines < 3000)) || fail "$lines lines in the log"

check "the mended store is right again"
mount_image /tmp/store "$image" mnt
survey mended
expect 0 "$errors" "errors with a mended store"
umount mnt

# lied BEHAVIOUR MOUNTED ERRORS: an empty store, filled by a daemon that behaves so.
lied() {
    check "a daemon: $1"
    empty_store "$1"
    start_daemon "/tmp/$1" /tmp/pristine "$1"
    if mount -t peerfs -o "root_dir=/tmp/$1,manifest=$image,timeout=3" none mnt 2>message; then
        expect "$2" mounted "with a daemon: $1"
        survey "$1"
        case $3 in
        none) expect 0 "$errors" "errors" ;;
        some) ((errors > 0)) || fail "no errors" ;;
        esac
        umount mnt
    else
        expect "$2" refused "with a daemon: $1: $(<message) $(<daemon.log)"
    fi
    stop_daemon
    [[ -s requests ]] || fail "the daemon was never asked"
    # Whatever was filled in by a liar is not trusted when it is gone.
    if mount -t peerfs -o "root_dir=/tmp/$1,manifest=$image,timeout=1" none mnt 2>message; then
        if [[ $3 == none ]]; then survey "$1, gone"; fi
        umount mnt
    fi
}

lied honest mounted none
lied loose mounted none
lied wrong-id mounted none
lied garbage mounted none
lied wrong-data refused -
lied wrong-length refused -
lied other refused -
lied nothing refused -
lied fail refused -

# With all metadata there, the same lies about chunks alone.
for behaviour in wrong-data wrong-length other wrong-places other-table no-slots nothing fail; do
    check "a daemon that has to give chunks only: $behaviour"
    cp -a pristine chunks
    remove_packs chunks
    start_daemon /tmp/chunks /tmp/pristine "$behaviour"
    mount_image /tmp/chunks "$image" mnt ,timeout=3
    survey "$behaviour"
    ((errors > 0)) || fail "no errors"
    stop_daemon
    check "and an honest one after it: everything is right"
    start_daemon /tmp/chunks /tmp/pristine honest
    survey "honest after $behaviour"
    expect 0 "$errors" "errors"
    umount mnt
    stop_daemon
    rm -rf chunks
done
