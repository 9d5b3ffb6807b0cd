#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Images with one rule of the format broken: what a mount shows and refuses is what the second reader, which is
# written from the document alone, reads and refuses. PEERFS_TEST_PART: which of 6 parts of the mutants.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

rmmod peerfs
modprobe peerfs upcall=0
check "mutants"
unshare --mount --propagation private python3 -B "$PEERFS_TOP/tests/format/kernel.py" /tmp "${PEERFS_TEST_PART:-$((RANDOM % 6))}" 6
