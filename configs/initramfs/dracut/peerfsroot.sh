#!/bin/sh
# SPDX-License-Identifier: GPL-2.0 OR MIT
# peerfsroot INTERFACE ROOT DIRECTORY: dracut runs this when the network is up.

/usr/lib/peerfs/mount-root "$3" || exit 1
# That is what dracut looks at.
[ -e /dev/root ] || ln -s null /dev/root
