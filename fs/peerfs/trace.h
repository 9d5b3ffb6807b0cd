/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM peerfs

#if !defined(_PEERFS_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _PEERFS_TRACE_H

#include <linux/types.h>
#include <linux/kdev_t.h>
#include <linux/tracepoint.h>

/* A folio that somebody needs was read, or was not: "error" is negative then. */
TRACE_EVENT(peerfs_read,
	TP_PROTO(dev_t dev, u64 ino, u64 pos, u64 length, int error),
	TP_ARGS(dev, ino, pos, length, error),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(int, error)
		__field(u64, ino)
		__field(u64, pos)
		__field(u64, length)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->error = error;
		__entry->ino = ino;
		__entry->pos = pos;
		__entry->length = length;
	),
	TP_printk("dev %u:%u ino %llu pos %llu length %llu error %d", MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->ino, __entry->pos, __entry->length, __entry->error)
);

/*
 * What was to be read ahead (pos, length), and what is, in whole chunks (wide_pos, wide_length). "waits": somebody
 * needs the first of it.
 */
TRACE_EVENT(peerfs_readahead,
	TP_PROTO(dev_t dev, u64 ino, u64 pos, u64 length, u64 wide_pos, u64 wide_length, bool waits),
	TP_ARGS(dev, ino, pos, length, wide_pos, wide_length, waits),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(bool, waits)
		__field(u64, ino)
		__field(u64, pos)
		__field(u64, length)
		__field(u64, wide_pos)
		__field(u64, wide_length)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->waits = waits;
		__entry->ino = ino;
		__entry->pos = pos;
		__entry->length = length;
		__entry->wide_pos = wide_pos;
		__entry->wide_length = wide_length;
	),
	TP_printk("dev %u:%u ino %llu pos %llu length %llu wide_pos %llu wide_length %llu waits %d",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->ino, __entry->pos, __entry->length,
		  __entry->wide_pos, __entry->wide_length, __entry->waits)
);

/*
 * What the store lacked was asked for, by the request with this id, and came, or did not. "digest" begins the blob's
 * or the pack's. A blob has no chunks.
 */
TRACE_EVENT(peerfs_miss,
	TP_PROTO(u64 id, u64 digest, u32 first, u32 count, u64 microseconds, int error),
	TP_ARGS(id, digest, first, count, microseconds, error),
	TP_STRUCT__entry(
		__field(u64, id)
		__field(u64, digest)
		__field(u32, first)
		__field(u32, count)
		__field(u64, microseconds)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->digest = digest;
		__entry->first = first;
		__entry->count = count;
		__entry->microseconds = microseconds;
		__entry->error = error;
	),
	TP_printk("id %llu digest %016llx first %u count %u microseconds %llu error %d", __entry->id,
		  __entry->digest, __entry->first, __entry->count, __entry->microseconds, __entry->error)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
