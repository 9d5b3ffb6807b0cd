// SPDX-License-Identifier: GPL-2.0
/*
 * Functions for what C has only as inline functions or macros: name and arguments are the original's,
 * with peerfs_ before it.
 */
#include "bindings_helper.h"
#include <keys/user-type.h>
#include <linux/key.h>
#include <linux/verification.h>

struct inode *peerfs_alloc_inode_sb(struct super_block *sb, struct kmem_cache *cache, gfp_t gfp)
{
	return alloc_inode_sb(sb, cache, gfp);
}

bool peerfs_inode_is_new(struct inode *inode)
{
	return inode_state_read_once(inode) & I_NEW;
}

void peerfs_i_uid_write(struct inode *inode, uid_t uid)
{
	i_uid_write(inode, uid);
}

void peerfs_i_gid_write(struct inode *inode, gid_t gid)
{
	i_gid_write(inode, gid);
}

void peerfs_inode_set_mtime(struct inode *inode, time64_t seconds, long nanoseconds)
{
	inode_set_mtime(inode, seconds, nanoseconds);
	inode_set_ctime(inode, seconds, nanoseconds);
	inode_set_atime(inode, seconds, nanoseconds);
}

dev_t peerfs_new_decode_dev(u32 dev)
{
	return new_decode_dev(dev);
}

void peerfs_mapping_set_large_folios(struct address_space *mapping)
{
	mapping_set_large_folios(mapping);
}

unsigned int peerfs_mapping_max_folio_order(const struct address_space *mapping)
{
	return mapping_max_folio_order(mapping);
}

gfp_t peerfs_readahead_gfp_mask(struct address_space *mapping)
{
	return readahead_gfp_mask(mapping);
}

struct folio *peerfs_filemap_alloc_folio(gfp_t gfp, unsigned int order)
{
	return filemap_alloc_folio(gfp, order, NULL);
}

void peerfs_folio_put(struct folio *folio)
{
	folio_put(folio);
}

struct folio *peerfs_readahead_folio(struct readahead_control *rac)
{
	return readahead_folio(rac);
}

loff_t peerfs_folio_pos(const struct folio *folio)
{
	return folio_pos(folio);
}

size_t peerfs_folio_size(const struct folio *folio)
{
	return folio_size(folio);
}

struct page *peerfs_folio_page(struct folio *folio, size_t number)
{
	return folio_page(folio, number);
}

void *peerfs_folio_address(const struct folio *folio)
{
	return folio_address(folio);
}

void peerfs_flush_dcache_folio(struct folio *folio)
{
	flush_dcache_folio(folio);
}

bool peerfs_folio_test_uptodate(const struct folio *folio)
{
	return folio_test_uptodate(folio);
}

int peerfs_folio_lock_killable(struct folio *folio)
{
	return folio_lock_killable(folio);
}

unsigned int peerfs_memalloc_nofs_save(void)
{
	return memalloc_nofs_save();
}

void peerfs_memalloc_nofs_restore(unsigned int flags)
{
	memalloc_nofs_restore(flags);
}

bool peerfs_is_in_nofs_scope(void)
{
	return current->flags & PF_MEMALLOC_NOFS;
}

/* Whether it is not a process that reads, on its own behalf, but a filesystem or a device below one. */
bool peerfs_is_stacked_read(void)
{
	return current->flags & (PF_KTHREAD | PF_MEMALLOC_NOFS);
}

int peerfs_mutex_lock_killable_nested(struct mutex *lock, unsigned int subclass)
{
	return mutex_lock_killable_nested(lock, subclass);
}

/*
 * As wait_for_completion_killable_timeout(), but a suspend goes on meanwhile. "Unsafe": the VFS's locks may be
 * held, of a directory or of a file's position. Who waits for these keeps the machine from suspending.
 */
long peerfs_wait_for_completion_freezable_timeout(struct completion *x, long timeout)
{
	if (completion_done(x))
		return timeout ?: 1;
	return ___swait_event(x->wait, ___wait_cond_timeout(completion_done(x)),
			      (TASK_KILLABLE | TASK_FREEZABLE_UNSAFE), timeout,
			      __ret = schedule_timeout(__ret));
}

struct workqueue_struct *peerfs_alloc_unbound_workqueue(const char *name)
{
	/* The limit is divided between NUMA nodes; that of what is queued is much lower, and counted by the caller. */
	return alloc_workqueue("%s", WQ_UNBOUND, WQ_MAX_ACTIVE, name);
}

const struct cred *peerfs_get_current_cred(void)
{
	return get_current_cred();
}

void peerfs_put_cred(const struct cred *cred)
{
	put_cred(cred);
}

const struct cred *peerfs_override_creds(const struct cred *cred)
{
	return override_creds(cred);
}

void peerfs_revert_creds(const struct cred *cred)
{
	revert_creds(cred);
}

loff_t peerfs_i_size_read(const struct inode *inode)
{
	return i_size_read(inode);
}

void peerfs_seq_show_option(struct seq_file *m, const char *name, const char *value)
{
	seq_show_option(m, name, value);
}

unsigned long peerfs_secs_to_jiffies(unsigned int seconds)
{
	return secs_to_jiffies(seconds);
}

static void peerfs_inode_constructor(void *inode)
{
	/* The caller lays out its objects with the inode at the start. */
	inode_init_once(inode);
}

struct kmem_cache *peerfs_inode_cache_create(const char *name, unsigned int size, unsigned int align)
{
	return kmem_cache_create(name, size, align, SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT,
				 peerfs_inode_constructor);
}

void peerfs_cache_no_acl(struct inode *inode)
{
	cache_no_acl(inode);
}

bool peerfs_dir_emit(struct dir_context *context, const char *name, int length, u64 inode,
		     unsigned int type)
{
	return dir_emit(context, name, length, inode, type);
}

bool peerfs_dir_emit_dots(struct file *file, struct dir_context *context)
{
	return dir_emit_dots(file, context);
}

/* Without huge pages the original is a null pointer: the VFS then does this. */
unsigned long peerfs_thp_get_unmapped_area(struct file *file, unsigned long addr, unsigned long len,
					   unsigned long pgoff, unsigned long flags)
{
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	return thp_get_unmapped_area(file, addr, len, pgoff, flags);
#else
	return mm_get_unmapped_area(file, addr, len, pgoff, flags);
#endif
}

struct user_namespace *peerfs_get_user_ns(struct user_namespace *ns)
{
	return get_user_ns(ns);
}

void peerfs_put_user_ns(struct user_namespace *ns)
{
	put_user_ns(ns);
}

struct user_namespace *peerfs_i_user_ns(const struct inode *inode)
{
	return i_user_ns(inode);
}

bool peerfs_may_list_trusted(void)
{
	return capable(CAP_SYS_ADMIN);
}

void peerfs_set_link(struct inode *inode, char *target)
{
	inode_set_cached_link(inode, target, strlen(target));
}

bool peerfs_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

void peerfs_cond_resched(void)
{
	cond_resched();
}

bool peerfs_is_unlinked(const struct inode *inode)
{
	return !inode->i_nlink;
}

bool peerfs_is_dax(const struct inode *inode)
{
	return IS_DAX(inode);
}

bool peerfs_inode_is_locked(struct inode *inode)
{
	return inode_is_locked(inode);
}

int peerfs_security_file_post_open(struct file *file, int mask)
{
	return security_file_post_open(file, mask);
}

/* Who is "quiet" does not add in the log how many lines were suppressed. */
void peerfs_ratelimit_state_init(struct ratelimit_state *rs, bool quiet)
{
	ratelimit_default_init(rs);
	if (quiet)
		ratelimit_set_flags(rs, RATELIMIT_MSG_ON_RELEASE);
}

bool peerfs_ratelimit(struct ratelimit_state *rs)
{
	/* One for all whom the machine does not trust. */
	static DEFINE_RATELIMIT_STATE(others, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	return __ratelimit(rs ?: &others);
}

int peerfs_path_permission(const struct path *path, int mask)
{
	return path_permission(path, mask);
}

/* One for all superblocks that read ahead in the same way. */
void peerfs_super_share_bdi(struct super_block *sb, const struct super_block *with)
{
	sb->s_bdi = bdi_get(with->s_bdi);
}

void peerfs_super_set_uuid(struct super_block *sb, const u8 *uuid, unsigned int len)
{
	super_set_uuid(sb, uuid, len);
}

/*
 * Filesystems of ours may be stacked: locks of one are held while those of another are taken, never the other way
 * round. Tells lockdep which are whose.
 */
void peerfs_set_lock_classes(struct inode *inode, unsigned int depth)
{
	static struct lock_class_key rwsem[FILESYSTEM_MAX_STACK_DEPTH + 1];
	static struct lock_class_key invalidate[FILESYSTEM_MAX_STACK_DEPTH + 1];

	if (depth <= FILESYSTEM_MAX_STACK_DEPTH) {
		lockdep_set_class(&inode->i_rwsem, &rwsem[depth]);
		lockdep_set_class(&inode->i_data.invalidate_lock, &invalidate[depth]);
	}
}

bool peerfs_is_init_user_ns(const struct user_namespace *ns)
{
	return ns == &init_user_ns;
}

void peerfs_memzero_explicit(void *s, size_t count)
{
	memzero_explicit(s, count);
}

/* Copies a logon key of the current task, which must have this length. */
int peerfs_copy_logon_key(const char *description, u8 *secret, size_t length)
{
	struct key *key = request_key(&key_type_logon, description, NULL);
	const struct user_key_payload *payload;
	int error = -EKEYREJECTED;

	if (IS_ERR(key))
		return PTR_ERR(key);
	down_read(&key->sem);
	payload = user_key_payload_locked(key);
	if (!payload) {
		error = -EKEYREVOKED;
	} else if (payload->datalen == length) {
		memcpy(secret, payload->data, length);
		error = 0;
	}
	up_read(&key->sem);
	key_put(key);
	return error;
}

/* A keyring of the kernel's own, in which root alone changes something. */
struct key *peerfs_keyring_alloc(const char *description)
{
	return keyring_alloc(description, GLOBAL_ROOT_UID, GLOBAL_ROOT_GID, current_cred(),
			     KEY_POS_SEARCH | KEY_USR_VIEW | KEY_USR_READ | KEY_USR_WRITE |
				     KEY_USR_SEARCH | KEY_USR_SETATTR,
			     KEY_ALLOC_NOT_IN_QUOTA, NULL, NULL);
}

int peerfs_verify_pkcs7_signature(const void *data, size_t len, const void *raw_pkcs7,
				  size_t pkcs7_len, struct key *trusted_keys)
{
#ifdef CONFIG_SYSTEM_DATA_VERIFICATION
	/* Where nobody is trusted no parser needs to see what somebody has written. */
	if (!READ_ONCE(trusted_keys->keys.nr_leaves_on_tree))
		return -ENOKEY;
	return verify_pkcs7_signature(data, len, raw_pkcs7, pkcs7_len, trusted_keys,
				      VERIFYING_UNSPECIFIED_SIGNATURE, NULL, NULL);
#else
	return -EOPNOTSUPP;
#endif
}
