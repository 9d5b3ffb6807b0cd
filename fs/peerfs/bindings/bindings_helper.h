/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers of what kernel::bindings lacks; bindings/allowlist names what is taken from them.
 */
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/exportfs.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/miscdevice.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/poll.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/seq_file.h>
#include <linux/statfs.h>
#include <linux/xattr.h>
#include <linux/zstd.h>
#include <crypto/sha2.h>
