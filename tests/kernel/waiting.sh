#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Somebody waits for a daemon that says nothing: the machine syncs, drops what it has cached and is suspended as
# ever, and who is killed is gone.
# uml-run: --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
user=1000

peerfs-testing make-tree tree --small
ln tree/content/tiny-1 tree/content/other-name
image=$(build tree pristine)
absent=$(printf 'a%.0s' {1..64})
# Of one image the manifest alone, of the other all but the packs.
empty_store manifest-alone
cp "pristine/blobs/sha256/$image" manifest-alone/blobs/sha256/
cp -a pristine no-packs
remove_packs no-packs
# Freezing the tasks is what is tried, and not how long nothing happens then.
echo 0 >/sys/module/suspend/parameters/pm_test_delay
echo freezer >/sys/power/pm_test

# within SECONDS COMMAND...: also fails if it takes longer.
within() { timeout --signal KILL "$1" "${@:2}" || fail "not done in $1 s: ${*:2}"; }
gone() { ! kill -0 "$1" 2>/dev/null; }
requested() { (($(counter waiting) >= $1)); }
# kill_waiter PROCESS: it is gone in a second.
kill_waiter() {
    kill -KILL "$1"
    for ((attempt = 0; attempt < 10; attempt++)); do
        gone "$1" && return
        sleep 0.1
    done
    fail "killed, and still there: $(cat "/proc/$1/stack" 2>/dev/null)"
}

# waits COUNT COMMAND...: so many of it wait, and nothing else does.
waiters=()
waits() {
    waiters=()
    for ((number = 0; number < $1; number++)); do
        "${@:2}" >/dev/null 2>&1 &
        waiters+=($!)
    done
    wait_until 30 requested "${want:-$1}"
}
# nobody_cares: what must not take longer than ever.
nobody_cares() {
    within 2 sync
    within 2 sh -c 'echo 3 >/proc/sys/vm/drop_caches'
    within 2 sh -c 'echo freeze >/sys/power/state'
    for waiter in "${waiters[@]}"; do gone "$waiter" && fail "it did not wait: $waiter"; done
    return 0
}
end_waiters() { for waiter in "${waiters[@]}"; do kill_waiter "$waiter"; done; }

check "two mounts wait"
mkdir mnt
waits 2 mount -t peerfs -o "root_dir=/tmp/pristine,manifest=$absent,timeout=60" none mnt
nobody_cares
end_waiters

check "a mount in a user namespace waits"
cp -a pristine own
chown -R "$user:$user" own
chmod 755 . && chmod 777 mnt
waits 1 setpriv --reuid "$user" --regid "$user" --clear-groups unshare --user --map-root-user --mount \
    mount -t peerfs -o "root_dir=/tmp/own,manifest=$absent,timeout=86400" none mnt
nobody_cares
end_waiters

check "a lookup waits"
mount_image /tmp/manifest-alone "$image" mnt ,timeout=60
waits 1 stat mnt/content
nobody_cares

check "a second one for the same name is the VFS's: killed, it is gone with the first"
stat mnt/content &
second=$!
sleep 0.3
kill -KILL "$second" "${waiters[@]}"
sleep 1
for waiter in "$second" "${waiters[0]}"; do gone "$waiter" || fail "not gone: $waiter"; done

check "two for different names, and for one inode by its file handle, wait each for itself"
by_handle=(python3 -c "import ctypes, os, struct
handle = struct.pack('<IiQI', 12, 0x81, 2, int.from_bytes(bytes.fromhex('$image')[:4], 'little'))
ctypes.CDLL(None).open_by_handle_at(os.open('mnt', os.O_RDONLY), handle, os.O_PATH)")
want=1 waits 1 stat mnt/content
others=("${waiters[@]}")
want=2 waits 1 stat mnt/xattrs
others+=("${waiters[@]}")
want=4 waits 2 "${by_handle[@]}"
nobody_cares
# The last one first: it does not depend on those before.
kill_waiter "${waiters[1]}"
for waiter in "${others[@]}"; do gone "$waiter" && fail "one waited for another"; done
for waiter in "${waiters[0]}" "${others[@]}"; do kill_waiter "$waiter"; done
wait_until 5 umount mnt

check "readers of the same page, of the same file, and by a mapping"
mount_image /tmp/no-packs "$image" mnt ,timeout=60
stat mnt/content/* >/dev/null
want=3 waits 3 cat mnt/content/large-random
others=("${waiters[@]}")
want=4 waits 1 python3 -c 'import mmap; f = open("mnt/content/large-random", "rb")
mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[5]'
nobody_cares
end_waiters
# The last one first.
for waiter in "${others[2]}" "${others[1]}" "${others[0]}"; do
    gone "$waiter" && fail "one waited for another"
    kill_waiter "$waiter"
done

check "readahead that nobody waits for"
start_daemon /tmp/no-packs /tmp/pristine silent
python3 -c 'import os
os.posix_fadvise(os.open("mnt/content/random-262145", os.O_RDONLY), 0, 0, os.POSIX_FADV_WILLNEED)'
wait_until 5 test -s requests
waiters=()
nobody_cares
stop_daemon
within 5 umount mnt
