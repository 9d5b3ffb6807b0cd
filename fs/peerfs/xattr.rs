// SPDX-License-Identifier: GPL-2.0

//! Extended attributes from the inode's shard.
#![forbid(unsafe_code)]

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use peerfs_format::NO_XATTRS;

use crate::rust::fs::{XattrLister, XattrOperations};
use crate::{inode, Inode, PeerFs};

impl XattrOperations for PeerFs {
    fn has_xattrs(inode: &Inode) -> bool {
        inode.data().record.xattrs != NO_XATTRS
    }

    fn get_xattr(inode: &Inode, prefix: &[u8], name: &[u8]) -> Result<KVVec<u8>> {
        let shard = inode::shard_of(inode)?;
        let shard = shard.view();
        let refused = |error| inode::refused(inode, error);
        for xattr in shard.xattrs(&inode.data().record).map_err(refused)? {
            let (full, value) = xattr.map_err(refused)?;
            if full.strip_prefix(prefix) == Some(name) {
                let mut copy = KVVec::with_capacity(value.len(), GFP_KERNEL_ACCOUNT)?;
                copy.extend_from_slice(value, GFP_KERNEL_ACCOUNT)?;
                return Ok(copy);
            }
        }
        Err(ENODATA)
    }

    fn list_xattrs(inode: &Inode, lister: &mut XattrLister<'_>) -> Result {
        let shard = inode::shard_of(inode)?;
        let shard = shard.view();
        let refused = |error| inode::refused(inode, error);
        for xattr in shard.xattrs(&inode.data().record).map_err(refused)? {
            let (full, _value) = xattr.map_err(refused)?;
            lister.add(full)?;
        }
        Ok(())
    }
}
