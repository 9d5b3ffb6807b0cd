#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# A Debian tree: the same through the mount, and its programs run from there.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

check "an image of a Debian minbase tree is built and mounted"
mkdir tree
# The device files that a container has anyway are not in every tar.
tar --extract --numeric-owner --xattrs --xattrs-include='*' --directory tree --file "$PEERFS_CACHE/trees/minbase.tar"
image=$(build tree store)
mount_image /tmp/store "$image" mnt

check "every path is the same"
same_tree tree mnt

check "reads at random places"
peerfs-testing compare tree mnt --seed "$RANDOM" --count 500

check "programs and their libraries run from the mount"
chroot mnt /bin/true
installed=$(chroot mnt dpkg --list | grep -c '^ii')
((installed > 50)) || fail "dpkg lists only $installed packages"
expect "$(chroot tree dpkg --list | sha256sum)" "$(chroot mnt dpkg --list | sha256sum)" "dpkg --list"
chroot mnt perl -e 'use POSIX; print POSIX::floor(42.7), "\n"' | grep -qx 42

check "a container's root: overlayfs over it, programs that write"
mkdir upper work merged
mount -t overlay -o lowerdir=mnt,upperdir=upper,workdir=work overlay merged
chroot merged sh -c 'echo hello >/etc/motd && useradd --create-home peer && rm -rf /usr/share/doc'
grep -q '^peer:' upper/etc/passwd
must_fail grep -q '^peer:' mnt/etc/passwd
umount merged
