#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# A directory with a million entries: what is not read is not needed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
entries=1000000
crowd=$PEERFS_CACHE/images/crowd
[[ -d $crowd ]] || fail "there is no $crowd: run scripts/crowd-image before"
image=$(<"$crowd/digest")

# The metadata that was asked for so far, in bytes.
fetched() { du --summarize --apparent-size --block-size=1 store/blobs/sha256 | cut -f 1; }

check "mounting and finding one entry takes little of the metadata"
empty_store store
start_daemon /tmp/store "$crowd" honest
nothing=$(fetched)
mount_image /tmp/store "$image" mnt
mounted=$(($(fetched) - nothing))
((mounted < 1048576)) || fail "mounting took $mounted bytes"
cmp mnt/crowd/entry-0500000 <(printf crowd/entry-0500000)
expect somewhere "$(readlink mnt/crowd/entry-0999999)" "a link"
must_fail stat mnt/crowd/entry-1000000 2>err
looked=$(($(fetched) - nothing))
((looked < 4 * 1048576)) || fail "three lookups took $looked bytes"
whole=$(du --summarize --apparent-size --block-size=1 "$crowd/blobs/sha256" | cut -f 1)
echo "   fetched $mounted bytes to mount, $looked with three lookups, of $whole"
((whole > 20 * looked)) || fail "the image is no test of this"
expect "$((entries + 2))" "$(stat --file-system --format %c mnt)" "inodes in statfs"

check "all of it is listed, once and in order"
ls -U mnt/crowd >names
expect "$entries" "$(wc -l <names)" "entries"
LC_ALL=C sort --check --unique names
umount mnt
stop_daemon
