#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What dracut takes into an initramfs that mounts the root by peerfs (Documentation/packages.md).
# shellcheck disable=SC2154  # dracut's variables

check() {
    require_binaries peerfs peerfsd chroot
}
depends() {
    echo network
}
installkernel() {
    instmods peerfs overlay
}
install() {
    inst_multiple cat chroot cp grep mkdir modprobe mount peerfs sed sleep tail
    inst /usr/lib/peerfs/mount-root
    /usr/lib/peerfs/early-root "$initdir"
    inst_hook cmdline 90 "$moddir/parse-peerfs.sh"
    inst_script "$moddir/peerfsroot.sh" /sbin/peerfsroot
    dracut_need_initqueue
}
