# SPDX-License-Identifier: GPL-2.0 OR MIT
# shellcheck shell=bash
# Sourced by the tests in this folder. Each runs as root in a kernel of its own (see scripts/uml-run),
# with the module loaded; each says what it checks and ends at the first failure. What the kernel
# complains about and memory that leaks fail it too: that is the runner's part.
set -euo pipefail
cd /tmp
# Where complaints go whatever a command was redirected to.
exec 3>&2

# check WHAT...: what follows.
check() { printf -- '-- %s (%d s)\n' "$*" "$SECONDS"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&3
    dmesg | tail -n 15 >&3
    exit 1
}
trap 'fail "${BASH_SOURCE[0]##*/} line $LINENO: $BASH_COMMAND"' ERR
set -o errtrace

# expect EXPECTED FOUND WHAT
expect() { [[ $1 == "$2" ]] || fail "$3: expected $1, found $2"; }

# must_fail COMMAND...
must_fail() { if "$@"; then fail "this should have failed: $*"; fi; }

# build TREE STORE [OPTION...]: prints the digest to mount.
build() { peerfs build "$1" --root-dir "$2" --tag test "${@:3}" 2>build.log || fail "$(<build.log)"; }

# empty_store STORE: what a machine has that has nothing.
empty_store() {
    mkdir -p "$1"/{blobs/sha256,partial,tmp}
    echo '{"imageLayoutVersion":"1.0.0"}' >"$1/oci-layout"
    echo '{"schemaVersion":2,"manifests":[]}' >"$1/index.json"
}

# on_disk FOLDER [ext4|xfs|btrfs]: makes it a filesystem on a disk, as stores are usually on. Packs are read there
# past the page cache, which a tmpfs cannot do.
on_disk() {
    truncate --size=400M "$1.disk"
    case ${2:-ext4} in
    ext4) mke2fs -q -t ext4 -b 4096 "$1.disk" ;;
    xfs) mkfs.xfs -q "$1.disk" ;;
    btrfs) mkfs.btrfs -q "$1.disk" >/dev/null ;;
    esac
    mkdir "$1"
    mount -t "${2:-ext4}" -o loop "$1.disk" "$1"
}

# serve_nfs FOLDER ro|rw: the kernel's NFS server exports it, and nothing else. What it asks rpc.mountd for is said
# beforehand: the client at this address is `here`; the folder is its root, by the number 0, from any port, without
# looking at the tree above it.
serve_nfs() {
    local forever=2147483647 flags=$((0x2 | 0x400 | 0x2000))
    [[ $2 == rw ]] || flags=$((flags | 0x1))
    mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
    echo "nfsd 127.0.0.1 $forever here" >/proc/net/rpc/auth.unix.ip/channel
    echo "here $1 $forever $flags 65534 65534 0" >/proc/net/rpc/nfsd.export/channel
    printf '%s\n' "here 1 \\x00000000 $forever $1" >/proc/net/rpc/nfsd.fh/channel
    echo "-2 -3 +4.2" >/proc/fs/nfsd/versions
    # For so long it waits for clients of an earlier server; less is not to be had.
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    echo "tcp 2049" >/proc/fs/nfsd/portlist
    echo 2 >/proc/fs/nfsd/threads
}
stop_nfs() {
    echo 0 >/proc/fs/nfsd/threads
    for cache in auth.unix.ip nfsd.export nfsd.fh; do
        echo 2147483647 >"/proc/net/rpc/$cache/flush"
    done
}
# mount_nfs MOUNTPOINT
mount_nfs() {
    mount -i -t nfs4 -o vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1,soft,timeo=100,lookupcache=none 127.0.0.1:/ "$1"
}

# remove_packs STORE: leaves only the metadata of a tree of peerfs-testing.
remove_packs() {
    local packs
    packs=$(find "$1/blobs/sha256" -type f -size +1M -print -delete)
    [[ -n $packs ]] || fail "$1 has no pack"
}

# forget_chunks STORE: what was fetched of its packs is gone.
forget_chunks() { rm -rf "$1"/{partial,loose,places}/*; }

# mount_image STORE DIGEST MOUNTPOINT [,OPTION=VALUE...]
mount_image() {
    mkdir -p "$3"
    mount -t peerfs -o "root_dir=$1,manifest=$2${4:-}" none "$3"
}

# same_tree TREE MOUNT [SED]: every path's type, mode, owners, size, time, links, device, xattrs, content, without
# what the sed script takes away.
same_tree() {
    peerfs-testing manifest "$1" | sed -E "${3:-}" >expected
    peerfs-testing manifest "$2" | sed -E "${3:-}" >found
    diff expected found | cut -c 1-300 | head -n 20 >differences || true
    [[ ! -s differences ]] || fail "$2 is not $1: $(<differences)"
    echo "   $(wc -l <expected) paths are the same"
}

# start_daemon STORE SOURCE BEHAVIOUR [OPTIONS]: a daemon of peerfs-testing, its requests in the file
# `requests`, its process in $daemon.
start_daemon() {
    rm -f ready
    peerfs-testing daemon --root-dir "$1" --source "$2" --behaviour "${@:3}" --ready /tmp/ready \
        >requests 2>daemon.log &
    daemon=$!
    until [[ -e ready ]]; do
        kill -0 "$daemon" 2>/dev/null || fail "the daemon ended: $(<daemon.log)"
        sleep 0.05
    done
}

# Bytes of the packs of ./store, as they take room on the disk.
stored() { du --summarize --block-size 1 store/blobs store/partial store/loose 2>/dev/null | awk '{ sum += $1 } END { print sum }'; }

# stop_daemon: a daemon that ended by itself has found something.
stop_daemon() {
    kill "$daemon" 2>/dev/null || fail "the daemon ended: $(<daemon.log)"
    wait "$daemon" || true
}

# store_counter MOUNT NAME: a reading of the counters of a mount below /tmp.
store_counter() {
    local device
    device=$(awk -v mount="/tmp/$1" '$5 == mount { print $3 }' /proc/self/mountinfo)
    awk -v name="$2" '$1 == name { print $2 }' "/sys/kernel/debug/peerfs/mounts/$device/store"
}

# A reading of the upcall's counters.
counter() { awk -v name="$1" '$1 == name { print $2 }' /sys/kernel/debug/peerfs/upcall; }

# wait_until SECONDS COMMAND...; PEERFS_TEST_PATIENCE times as long, for a machine that has much else to do.
wait_until() {
    local deadline=$((SECONDS + $1 * ${PEERFS_TEST_PATIENCE:-1}))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "in vain waited until: $*"
        sleep 0.1
    done
}
