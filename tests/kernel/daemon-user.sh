#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# A daemon that is not root and has no privilege but CAP_DAC_OVERRIDE, as its systemd unit has it: it fills a store that root
# has built, and the kernel takes its answers.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

mkdir -p tree/folder other
head --bytes 3M /dev/urandom >tree/file
for number in {1..200}; do echo "$number" >"tree/folder/$number"; done
image=$(build tree full)
head --bytes 1M /dev/urandom >other/file
own=$(build other store)
cat >config.toml <<'END'
root_dir = "/tmp/store"
state_dir = "/tmp/state"
control_socket = "/run/daemon-user.sock"
[peer]
mdns = false
listen = ["/ip4/127.0.0.1/tcp/0"]
[[source]]
directory = "/tmp/full"
END
install --directory --owner 997 --group 997 state
privilege=-all,+dac_override
setpriv --reuid 997 --regid 997 --clear-groups --no-new-privs --inh-caps "$privilege" --ambient-caps "$privilege" \
    --bounding-set "$privilege" peerfsd --config config.toml 2>log &
daemon=$!
wait_until 20 peerfs status --socket /run/daemon-user.sock >/dev/null 2>&1 || fail "$(<log)"
grep -q '^Uid:[[:space:]]997' "/proc/$daemon/status"

check "what is missing comes into root's store"
mount_image /tmp/store "$image" mnt ,timeout=60
diff -r tree mnt
[[ -n $(find store -user 997 -type f) ]] || fail "nothing was fetched"

check "what root builds there meanwhile is read and served as well"
head --bytes 1M /dev/urandom >other/more
newer=$(build other store)
mount_image /tmp/store "$newer" mnt2
cmp other/more mnt2/more
mount_image /tmp/store "$own" mnt3
cmp other/file mnt3/file
peerfs gc --root-dir /tmp/store --socket /run/daemon-user.sock >/dev/null
umount mnt mnt2 mnt3
peerfs verify --root-dir /tmp/store >/dev/null
kill "$daemon"
wait "$daemon"
