#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What is in the store works without a daemon, also where the mount was never told that it is there:
# because another mount, or readahead, had asked for it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

peerfs-testing make-tree tree --small
image=$(build tree pristine)
cp -a pristine store
remove_packs store

check "one mount opens the pack; another one has everything fetched"
start_daemon /tmp/store /tmp/pristine honest
mount_image /tmp/store "$image" first ,timeout=5
head -c 1 first/content/large-random >byte
mount_image /tmp/store "$image" second ,timeout=5
same_tree tree second

check "without the daemon the first one has it all too"
stop_daemon
same_tree tree first
umount first second
