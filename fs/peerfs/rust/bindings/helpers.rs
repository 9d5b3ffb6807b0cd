// SPDX-License-Identifier: GPL-2.0

//! The shims in `helpers.c`: each is the inline function of the kernel whose name follows `peerfs_`.

use kernel::bindings::*;
use kernel::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

extern "C" {
    pub(crate) fn peerfs_alloc_inode_sb(
        sb: *mut super_block,
        cache: *mut kmem_cache,
        gfp: gfp_t,
    ) -> *mut inode;
    pub(crate) fn peerfs_inode_is_new(inode: *mut inode) -> bool;
    pub(crate) fn peerfs_i_uid_write(inode: *mut inode, uid: uid_t);
    pub(crate) fn peerfs_i_gid_write(inode: *mut inode, gid: gid_t);
    pub(crate) fn peerfs_inode_set_mtime(inode: *mut inode, seconds: time64_t, nanoseconds: c_long);
    pub(crate) fn peerfs_new_decode_dev(dev: u32) -> dev_t;
    pub(crate) fn peerfs_mapping_set_large_folios(mapping: *mut address_space);
    pub(crate) fn peerfs_mapping_max_folio_order(mapping: *const address_space) -> c_uint;
    pub(crate) fn peerfs_readahead_gfp_mask(mapping: *mut address_space) -> gfp_t;
    pub(crate) fn peerfs_filemap_alloc_folio(gfp: gfp_t, order: c_uint) -> *mut folio;
    pub(crate) fn peerfs_folio_put(folio: *mut folio);
    pub(crate) fn peerfs_readahead_folio(rac: *mut readahead_control) -> *mut folio;
    pub(crate) fn peerfs_folio_pos(folio: *const folio) -> loff_t;
    pub(crate) fn peerfs_folio_size(folio: *const folio) -> usize;
    pub(crate) fn peerfs_folio_page(folio: *mut folio, number: usize) -> *mut page;
    pub(crate) fn peerfs_folio_address(folio: *const folio) -> *mut c_void;
    pub(crate) fn peerfs_flush_dcache_folio(folio: *mut folio);
    pub(crate) fn peerfs_folio_test_uptodate(folio: *const folio) -> bool;
    pub(crate) fn peerfs_folio_lock_killable(folio: *mut folio) -> c_int;
    pub(crate) fn peerfs_memalloc_nofs_save() -> c_uint;
    pub(crate) fn peerfs_memalloc_nofs_restore(flags: c_uint);
    pub(crate) fn peerfs_is_in_nofs_scope() -> bool;
    pub(crate) fn peerfs_is_stacked_read() -> bool;
    pub(crate) fn peerfs_mutex_lock_killable_nested(lock: *mut mutex, subclass: c_uint) -> c_int;
    pub(crate) fn peerfs_wait_for_completion_freezable_timeout(
        x: *mut completion,
        timeout: c_long,
    ) -> c_long;
    pub(crate) fn peerfs_alloc_unbound_workqueue(name: *const c_char) -> *mut workqueue_struct;
    pub(crate) fn peerfs_get_current_cred() -> *const cred;
    pub(crate) fn peerfs_put_cred(cred: *const cred);
    pub(crate) fn peerfs_override_creds(cred: *const cred) -> *const cred;
    pub(crate) fn peerfs_revert_creds(cred: *const cred);
    pub(crate) fn peerfs_i_size_read(inode: *const inode) -> loff_t;
    pub(crate) fn peerfs_seq_show_option(
        m: *mut seq_file,
        name: *const c_char,
        value: *const c_char,
    );
    pub(crate) fn peerfs_secs_to_jiffies(seconds: c_uint) -> c_ulong;
    pub(crate) fn peerfs_inode_cache_create(
        name: *const c_char,
        size: c_uint,
        align: c_uint,
    ) -> *mut kmem_cache;
    pub(crate) fn peerfs_cache_no_acl(inode: *mut inode);
    pub(crate) fn peerfs_dir_emit(
        context: *mut dir_context,
        name: *const c_char,
        length: c_int,
        inode: u64,
        r#type: c_uint,
    ) -> bool;
    pub(crate) fn peerfs_dir_emit_dots(file: *mut file, context: *mut dir_context) -> bool;
    pub(crate) fn peerfs_thp_get_unmapped_area(
        file: *mut file,
        addr: c_ulong,
        len: c_ulong,
        pgoff: c_ulong,
        flags: c_ulong,
    ) -> c_ulong;
    pub(crate) fn peerfs_get_user_ns(ns: *mut user_namespace) -> *mut user_namespace;
    pub(crate) fn peerfs_put_user_ns(ns: *mut user_namespace);
    pub(crate) fn peerfs_i_user_ns(inode: *const inode) -> *mut user_namespace;
    pub(crate) fn peerfs_may_list_trusted() -> bool;
    pub(crate) fn peerfs_set_link(inode: *mut inode, target: *mut c_char);
    pub(crate) fn peerfs_fatal_signal_pending() -> bool;
    pub(crate) fn peerfs_cond_resched();
    pub(crate) fn peerfs_is_unlinked(inode: *const inode) -> bool;
    pub(crate) fn peerfs_is_dax(inode: *const inode) -> bool;
    pub(crate) fn peerfs_inode_is_locked(inode: *mut inode) -> bool;
    pub(crate) fn peerfs_security_file_post_open(file: *mut file, mask: c_int) -> c_int;
    pub(crate) fn peerfs_ratelimit_state_init(rs: *mut ratelimit_state, quiet: bool);
    pub(crate) fn peerfs_ratelimit(rs: *mut ratelimit_state) -> bool;
    pub(crate) fn peerfs_path_permission(path: *const path, mask: c_int) -> c_int;
    pub(crate) fn peerfs_super_share_bdi(sb: *mut super_block, with: *const super_block);
    pub(crate) fn peerfs_super_set_uuid(sb: *mut super_block, uuid: *const u8, len: c_uint);
    pub(crate) fn peerfs_set_lock_classes(inode: *mut inode, depth: c_uint);
    pub(crate) fn peerfs_is_init_user_ns(ns: *const user_namespace) -> bool;
    pub(crate) fn peerfs_memzero_explicit(s: *mut c_void, count: usize);
    pub(crate) fn peerfs_copy_logon_key(
        description: *const c_char,
        secret: *mut u8,
        length: usize,
    ) -> c_int;
    pub(crate) fn peerfs_keyring_alloc(description: *const c_char) -> *mut key;
    pub(crate) fn peerfs_verify_pkcs7_signature(
        data: *const c_void,
        len: usize,
        raw_pkcs7: *const c_void,
        pkcs7_len: usize,
        trusted_keys: *mut key,
    ) -> c_int;
}
