// SPDX-License-Identifier: GPL-2.0

//! What inodes and packs keep of a store: one copy of each, whatever a cache forgets and however often it is read or
//! opened again.
//!
//! Locking: the lock is a leaf. It is taken in memory reclaim, too, which evicts inodes, so nothing is allocated
//! and no value dropped under it.
#![forbid(unsafe_code)]

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{Arc, Mutex};

/// What is kept by somebody, by its key.
#[pin_data]
pub(crate) struct KeptValues<K, V> {
    #[pin]
    values: Mutex<RBTree<K, Shared<V>>>,
}

struct Shared<V> {
    value: Arc<V>,
    /// How many [`Kept`] there are of it.
    users: usize,
}

/// A value that stays as long as this does.
pub(crate) struct Kept<K: Ord + Unpin, V> {
    values: Arc<KeptValues<K, V>>,
    key: K,
    value: Arc<V>,
}

impl<K: Copy + Ord + Unpin, V> KeptValues<K, V> {
    /// None.
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(KeptValues {
                values <- new_mutex!(RBTree::new(), "peerfs kept"),
            }),
            GFP_KERNEL,
        )
    }

    /// The value of this key, if somebody keeps it.
    pub(super) fn get(&self, key: K) -> Option<Arc<V>> {
        let values = self.values.lock();
        values.get(&key).map(|shared| shared.value.clone())
    }

    /// Keeps a value; not this copy of it, if there is one already.
    pub(super) fn keep(self: &Arc<Self>, key: K, value: &Arc<V>) -> Result<Kept<K, V>> {
        let new = Shared {
            value: value.clone(),
            users: 1,
        };
        let node = RBTreeNode::new(key, new, GFP_KERNEL_ACCOUNT)?;
        let mut values = self.values.lock();
        let value = match values.get_mut(&key) {
            Some(shared) => {
                shared.users = shared.users.saturating_add(1);
                shared.value.clone()
            }
            None => {
                // There is none that it would replace.
                let _ = values.insert(node);
                value.clone()
            }
        };
        drop(values);
        Ok(Kept {
            values: self.clone(),
            key,
            value,
        })
    }
}

impl<K: Ord + Unpin, V> core::ops::Deref for Kept<K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}

impl<K: Ord + Unpin, V> Drop for Kept<K, V> {
    fn drop(&mut self) {
        let mut values = self.values.values.lock();
        let Some(shared) = values.get_mut(&self.key) else {
            return;
        };
        shared.users = shared.users.saturating_sub(1);
        // Our own reference stays until the lock is given back.
        if shared.users == 0 {
            let _ = values.remove(&self.key);
        }
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(peerfs_kept)]
mod tests {
    use super::*;

    #[test]
    fn of_many_copies_one_is_kept_until_its_last_user_is_gone() -> Result {
        let values = KeptValues::new()?;
        let copies = [Arc::new(1, GFP_KERNEL)?, Arc::new(1, GFP_KERNEL)?];
        let first = values.keep(7, &copies[0])?;
        let second = values.keep(7, &copies[1])?;
        let is_first = |value: Arc<i32>| Arc::ptr_eq(&value, &copies[0]);
        assert!(core::ptr::eq::<i32>(&*second, &*copies[0]));
        drop(first);
        assert!(values.get(7).is_some_and(is_first));
        assert!(values.get(8).is_none());
        drop(second);
        assert!(values.get(7).is_none());
        Ok(())
    }
}
