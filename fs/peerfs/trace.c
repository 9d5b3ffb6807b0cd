// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints, as functions for Rust: declare_trace!() is for those that the kernel's own bindings know.
 */
#define CREATE_TRACE_POINTS
#include "trace.h"

void peerfs_trace_read(dev_t dev, u64 ino, u64 pos, u64 length, int error)
{
	trace_peerfs_read(dev, ino, pos, length, error);
}

void peerfs_trace_readahead(dev_t dev, u64 ino, u64 pos, u64 length, u64 wide_pos, u64 wide_length, bool waits)
{
	trace_peerfs_readahead(dev, ino, pos, length, wide_pos, wide_length, waits);
}

void peerfs_trace_miss(u64 id, u64 digest, u32 first, u32 count, u64 microseconds, int error)
{
	trace_peerfs_miss(id, digest, first, count, microseconds, error);
}
