# SPDX-License-Identifier: GPL-2.0 OR MIT
# shellcheck shell=bash
# Sourced by every script in this folder: where things are kept, which versions are wanted,
# how progress is shown, and how two runs are kept from each other's way.
# shellcheck disable=SC2034  # used by those who source this
set -euo pipefail

# Messages go to standard error: standard output belongs to a script's answer.
say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
scripts=$top/scripts

# Everything downloaded or built lives outside the checkout, so that `git clean` costs nothing and
# several checkouts share one kernel.
cache=${PEERFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/peerfs}
logs=$cache/logs
tools=$cache/tools
mkdir -p "$logs" "$cache/locks"

llvm_version=19
bindgen_version=0.72.1
capnpc_version=0.27.0
cargo_fuzz_version=0.13.2

export PATH=/usr/lib/llvm-$llvm_version/bin:$tools/bin:$PATH:/usr/sbin:/sbin
export LIBCLANG_PATH=/usr/lib/llvm-$llvm_version/lib
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
# What the toolchain script found out: RUSTC and RUST_LIB_SRC for the kernel, cargo's compiler.
# shellcheck source=/dev/null
[[ ! -f $cache/toolchain.env ]] || source "$cache/toolchain.env"

jobs=${PEERFS_JOBS:-$(nproc)}

# The machine that programs, guests and Debian's kernel are for, as Debian calls it: this one's, or another
# (`make demo ARCH=arm64`). Kbuild has a variable of that name and values of its own, and is told them by those who call it.
machine() {
    case $1 in
    amd64 | x86*) echo amd64 ;;
    arm64 | aarch64) echo arm64 ;;
    *) return 1 ;;
    esac
}
native=$(machine "$(uname -m)") || die "works on amd64 and arm64, and this is $(uname -m)"
wanted=${ARCH:-${PEERFS_ARCH:-$native}}
architecture=$(machine "$wanted") || die "ARCH=$wanted is not known here: amd64 and arm64 are"
unset ARCH
export PEERFS_ARCH=$architecture
# What GNU calls it.
case $architecture in
amd64) triplet=x86_64-linux-gnu ;;
arm64) triplet=aarch64-linux-gnu ;;
esac
# foreign: whether this machine runs its programs only through QEMU.
foreign() { [[ $architecture != "$native" ]]; }
# What stands before its programs then; setup-toolchain fetches it.
emulator=()
! foreign || emulator=("$tools/bin/qemu-${triplet%%-*}" -L "/usr/$triplet")
# register_emulator: has the kernel run them by their names alone, until it starts anew. Who was registered first is asked last.
register_emulator() {
    local folder=/proc/sys/fs/binfmt_misc name=qemu-${triplet%%-*}
    [[ -e $folder/register ]] || as_root mount -t binfmt_misc none "$folder"
    [[ -e $folder/peerfs-$name ]] ||
        sed "s|^:$name:\\(.*\\):[^:]*:\\([A-Z]*\\)\$|:peerfs-$name:\\1:${emulator[0]}:\\2|" "/usr/lib/binfmt.d/$name.conf" |
        as_root tee "$folder/register" >/dev/null
}

elapsed() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# lock NAME: held until this script ends; whoever comes second waits and is told so.
lock() {
    local descriptor
    exec {descriptor}>"$cache/locks/$1"
    if ! flock --nonblock "$descriptor"; then
        say "    waiting for another run that holds $cache/locks/$1"
        flock "$descriptor"
    fi
}

# How far a step is, by the lines in its log: redrawn on a terminal, a line a minute elsewhere.
# Ends by itself when the script that started it is gone.
watch_step() {
    local what=$1 log=$2 expected=$3 script=$$ began=$SECONDS lines progress
    while sleep 1 && kill -0 "$script" 2>/dev/null; do
        [[ -t 2 ]] || (((SECONDS - began) % 60 == 0)) || continue
        lines=$(wc -l 2>/dev/null <"$log" || echo 0)
        progress=
        ((expected == 0)) || progress=" $((lines < expected ? lines * 100 / expected : 99))%"
        if [[ -t 2 ]]; then
            printf '\r\e[K    %s: %s%s' "$what" "$(elapsed $((SECONDS - began)))" "$progress" >&2
        elif ((SECONDS > began)); then
            say "    $what: $(elapsed $((SECONDS - began)))$progress"
        fi
    done
}

# step LOG EXPECTED_LINES WHAT COMMAND...: run one long command with its output in the log,
# one line for the reader, and the log's end if it fails. EXPECTED_LINES 0: unknown.
step() {
    local log=$logs/$1.log expected=$2 what=$3 began=$SECONDS watcher status=0
    shift 3
    : >"$log"
    watch_step "$what" "$log" "$expected" &
    watcher=$!
    set +e
    (set -e; "$@") >"$log" 2>&1
    status=$?
    kill "$watcher" 2>/dev/null
    wait "$watcher" 2>/dev/null
    set -e
    [[ ! -t 2 ]] || printf '\r\e[K' >&2
    if ((status != 0)); then
        say "--- last lines of $log"
        tail -n 25 "$log" >&2
        say "---"
        say "FAILED after $(elapsed $((SECONDS - began))): $what (all of it: $log)"
        exit "$status"
    fi
    say "    $what: done in $(elapsed $((SECONDS - began)))"
}

# attempt NAME COMMAND...: one test, reported by one line on standard output: "ok" or "FAILED",
# its name, its time. What it printed is shown only when it failed. scripts/test counts the lines.
attempt() {
    local name=$1 began=$SECONDS log status
    log=$logs/test-${name//[^[:alnum:].-]/-}.log
    shift
    set +e
    (set -e; "$@") >"$log" 2>&1
    status=$?
    set -e
    if ((status == 0)); then
        echo "ok      $name ($(elapsed $((SECONDS - began))))"
    else
        { tail -n 40 "$log"; say "--- all of it: $log"; } >&2
        echo "FAILED  $name (status $status, $(elapsed $((SECONDS - began))))"
        failed_attempts=$((failed_attempts + 1))
    fi
}
failed_attempts=0

# follow FILE PID: shows what is written to the file, until the process has ended.
follow() { tail --pid "$2" --sleep-interval 0.2 --quiet --lines +1 --follow "$1"; }

# as_root COMMAND...: for the few things that need it on a machine where we are not.
as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }

# write_if_changed FILE: standard input becomes FILE, whose time stamp stays when nothing changed.
write_if_changed() {
    local new
    mkdir -p "$(dirname "$1")"
    new=$(mktemp "$1.XXXXXX")
    cat >"$new"
    if cmp --silent "$new" "$1"; then rm "$new"; else chmod 644 "$new"; mv "$new" "$1"; fi
}

# The mirror that this machine's own apt takes Debian from, and the release: "URI CODENAME".
# shellcheck disable=SC2016  # apt expands the format
debian_source() {
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)|$(CODENAME)' 'Created-By: Packages' |
        awk -F '|' '$1 == "Debian" && !found++ { print $2, $3 }'
}

# digest_of FILE...: one short name for what is in the files.
digest_of() { cat "$@" | sha256sum | cut -c 1-16; }

# cross_cargo: has cargo build for a foreign architecture, if one is wanted; `programs` is where it then puts them.
cross_cargo() {
    programs=$CARGO_TARGET_DIR/release
    foreign || return 0
    local target=${triplet%%-*}-unknown-linux-gnu variable
    [[ -d $(rustc --print sysroot)/lib/rustlib/$target ]] ||
        step rust-target 0 "fetching Rust's library for $target" rustup target add "$target"
    variable=CARGO_TARGET_${target//-/_}
    export CARGO_BUILD_TARGET=$target "${variable^^}_LINKER=$triplet-gcc"
    programs=$CARGO_TARGET_DIR/$target/release
}
