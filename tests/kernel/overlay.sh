#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Layers of overlayfs: an image below a writable one, images of layers above each other, an image of
# names over one of data. What overlayfs needs for it: its xattrs, whiteouts, d_type, file handles.
# uml-run: --memory 1G --timeout 300
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
python=$(python3 -c 'import sys; print(sys.executable)')
call() { "$python" -I -S "$PEERFS_FROM/system_calls.py" "$@"; }
overlay() { mount -t overlay -o "$1" overlay merged; }
xattr() { getfattr --absolute-names --only-values --name "trusted.overlay.$2" "$1" | tr -d '\0'; }

peerfs-testing make-tree tree --small
mkdir -p tree/layers/{moved/deep,emptied,replaced}
for name in moved/deep/file emptied/file replaced/old kept removed appended; do
    echo "$name" >"tree/layers/$name"
done
ln tree/layers/kept tree/layers/kept-too
image=$(build tree store)
mount_image /tmp/store "$image" base
mkdir merged upper work

check "changes above an image: only what is changed is copied"
overlay lowerdir=base,upperdir=upper,workdir=work,metacopy=on,redirect_dir=on
cd merged
mv layers/moved elsewhere
chmod 4711 content/large-random
chown 77:88 content/large-text
rm layers/removed layers/emptied/file
rm -r layers/replaced && mkdir layers/replaced && echo new >layers/replaced/new
echo more >>layers/appended
cd ..
expect 0 "$(stat --format %b upper/content/large-random)" "blocks of a file whose mode was changed"
[[ -n $(getfattr --absolute-names --match metacopy upper/content/large-random) ]]
expect /layers/moved "$(xattr upper/elsewhere redirect)" "the redirect of a moved directory"
[[ ! -e upper/elsewhere/deep ]]
cmp merged/content/large-random tree/content/large-random
expect moved/deep/file "$(<merged/elsewhere/deep/file)" "a file in the moved directory"
expect "77 88" "$(stat --format '%u %g' merged/content/large-text)" "owners"
# The root is the writable layer's own, and the links of a directory are not overlayfs's business.
merged_tree() { peerfs-testing manifest merged | sed -E '1d; s/^(.* d mode=.*) nlink=[0-9]+/\1/'; }
merged_tree >merged-tree
umount merged
same_tree tree base

check "an image of that layer, above the first one, is the same again"
layer=$(build upper layers)
mount_image /tmp/layers "$layer" top
for attribute in redirect opaque; do
    diff <(getfattr --recursive --match "trusted.overlay.$attribute" upper | sed 's/upper//') \
        <(getfattr --recursive --match "trusted.overlay.$attribute" top | sed 's/top//')
done
[[ -c top/layers/removed ]]
overlay lowerdir=top:base,metacopy=on,redirect_dir=on
diff merged-tree <(merged_tree) >differences || fail "it differs: $(head differences)"
must_fail touch merged/new 2>message
umount merged

check "file handles through overlayfs lead back to the image"
rm -rf upper work && mkdir upper work
overlay lowerdir=base,upperdir=upper,workdir=work,index=on,nfs_export=on
grep -q 'overlay .*nfs_export=on' /proc/mounts || fail "no handles: $(dmesg | tail -n 3)"
echo linked >>merged/layers/kept
expect linked "$(tail -n 1 merged/layers/kept-too)" "the other name of a file that was changed"
call handle merged/layers/moved/deep/file >handles
call handle merged/layers/moved >>handles
echo 3 >/proc/sys/vm/drop_caches
expect "moved/deep/file" "$(call open-handle merged "$(sed -n 1p handles)" | sed 's/.* //')" "a file"
expect /tmp/merged/layers/moved "$(call open-handle merged "$(sed -n 2p handles)")" "a directory"
umount merged

check "an image of names and an image of data: metacopy to a data-only layer"
mkdir -p names/folder data/objects
head --bytes 300000 tree/content/large-random >data/objects/1234
truncate --size 300000 names/folder/file
setfattr --name trusted.overlay.metacopy names/folder/file
setfattr --name trusted.overlay.redirect --value /objects/1234 names/folder/file
mount_image /tmp/layers "$(build names layers)" over
mount_image /tmp/layers "$(build data layers)" under
overlay lowerdir=over::under,metacopy=on,redirect_dir=on
cmp merged/folder/file data/objects/1234
[[ ! -e merged/objects ]]
umount merged
umount over under top base
