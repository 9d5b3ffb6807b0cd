/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers of what kernel::bindings lacks; bindings/allowlist names what is taken from them.
 */
#include <linux/backing-dev.h>
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/exportfs.h>
#include <linux/fadvise.h>
#include <linux/file.h>
#include <linux/filelock.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/key.h>
#include <linux/lz4.h>
#include <linux/magic.h>
#include <linux/miscdevice.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/poll.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/pseudo_fs.h>
#include <linux/ratelimit.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/seq_file.h>
#include <linux/statfs.h>
#include <linux/swait.h>
#include <linux/uio.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <linux/xattr.h>
#include <linux/zstd.h>
#include <crypto/chacha.h>
#include <crypto/sha2.h>

/* Macros that bindgen does not recognise as constants. */
static const unsigned long PEERFS_SB_RDONLY __maybe_unused = SB_RDONLY;
static const unsigned long PEERFS_SB_POSIXACL __maybe_unused = SB_POSIXACL;
static const unsigned int PEERFS_LOOKUP_DIRECTORY __maybe_unused = LOOKUP_FOLLOW | LOOKUP_DIRECTORY;
static const unsigned int PEERFS_LOOKUP_NO_SYMLINKS __maybe_unused = LOOKUP_NO_SYMLINKS;
static const int PEERFS_O_RDONLY __maybe_unused = O_RDONLY | O_LARGEFILE;
static const int PEERFS_O_RDONLY_NONBLOCK __maybe_unused = O_RDONLY | O_LARGEFILE | O_NONBLOCK;
static const int PEERFS_MAY_OPEN_READ __maybe_unused = MAY_OPEN | MAY_READ;
static const int PEERFS_ACL_TYPE_ACCESS __maybe_unused = ACL_TYPE_ACCESS;
static const unsigned int PEERFS_FOP_DONTCACHE __maybe_unused = (__force unsigned int)FOP_DONTCACHE;
static const int PEERFS_RWF_DONTCACHE __maybe_unused = (__force int)RWF_DONTCACHE;
static const int PEERFS_RWF_NOWAIT __maybe_unused = (__force int)RWF_NOWAIT;
static const int PEERFS_IOCB_DIRECT_NOWAIT __maybe_unused = IOCB_DIRECT | IOCB_NOWAIT;
static const unsigned int PEERFS_FMODE_NOWAIT __maybe_unused = (__force unsigned int)FMODE_NOWAIT;
static const unsigned int PEERFS_FMODE_DIRECT_NOWAIT __maybe_unused =
	(__force unsigned int)(FMODE_CAN_ODIRECT | FMODE_NOWAIT);
static const int PEERFS_MAY_CHANGE_DIRECTORY __maybe_unused = MAY_WRITE | MAY_EXEC;
