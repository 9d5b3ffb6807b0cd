#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# /dev/peerfs as a daemon sees it when nobody asks for anything: what it refuses and with which error,
# that it comes and goes with the module, and that it survives misuse.
# uml-run: --memory 1G --timeout 300
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

python3 "$here/upcall_device.py"

echo "rmmod is refused while the device is open"
exec {device}<>/dev/peerfs
! rmmod peerfs 2>/dev/null || { echo "the module went away under an open file"; exit 1; }
exec {device}>&-

echo "upcall=0: no device, and no waiting"
rmmod peerfs
[[ ! -e /dev/peerfs ]] || { echo "/dev/peerfs outlives the module"; exit 1; }
insmod "$PEERFS_KO" upcall=0
[[ ! -e /dev/peerfs ]] || { echo "/dev/peerfs is there with upcall=0"; exit 1; }
mkdir /tmp/store /tmp/mount
manifest=$(printf '%064d' 0)
SECONDS=0
! mount -t peerfs -o "root_dir=/tmp/store,manifest=$manifest" none /tmp/mount 2>/tmp/error ||
    { echo "an image that is not there was mounted"; exit 1; }
((SECONDS < 10)) || { echo "with upcall=0 a mount waits"; exit 1; }
cat /tmp/error
rmmod peerfs

echo "50 times: load, open, close, unload"
for ((round = 0; round < 50; round++)); do
    insmod "$PEERFS_KO"
    exec {device}<>/dev/peerfs
    exec {device}>&-
    rmmod peerfs
done
