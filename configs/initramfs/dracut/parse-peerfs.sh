#!/bin/sh
# SPDX-License-Identifier: GPL-2.0 OR MIT
# dracut runs this before it looks for the root: with peerfs.image= it comes by the network, and no device is waited for.
# shellcheck disable=SC2034,SC2154  # dracut's variables

if getarg peerfs.image= >/dev/null; then
    netroot=peerfs
    root=peerfs
    rootok=1
    # shellcheck disable=SC2016  # for dracut
    echo '[ -e "$NEWROOT/proc" ]' >"$hookdir/initqueue/finished/peerfs.sh"
fi
