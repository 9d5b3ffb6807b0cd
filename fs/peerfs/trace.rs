// SPDX-License-Identifier: GPL-2.0

//! The tracepoints of `trace.h`, below `/sys/kernel/tracing/events/peerfs`.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::prelude::*;
use kernel::time::Delta;
use peerfs_format::Digest;

use crate::rust::trace;
use crate::Inode;

/// A folio that somebody needs was read, or why not.
pub(crate) fn read<T>(inode: &Inode, range: &Range<u64>, result: &Result<T>) {
    let device = inode.super_block().device();
    let length = range.end.saturating_sub(range.start);
    trace::peerfs_trace_read(
        device.number(),
        inode.number(),
        range.start,
        length,
        errno(result),
    );
}

/// What was to be read ahead, and what is; `waits` if somebody needs the first of it.
pub(crate) fn readahead(inode: &Inode, window: &Range<u64>, wide: &Range<u64>, waits: bool) {
    let device = inode.super_block().device();
    let length = |range: &Range<u64>| range.end.saturating_sub(range.start);
    trace::peerfs_trace_readahead(
        device.number(),
        inode.number(),
        window.start,
        length(window),
        wide.start,
        length(wide),
        waits,
    );
}

/// What came, and how long it took, of a request for a blob, or for chunks of a pack.
pub(crate) fn miss<T>(id: u64, what: &Digest, chunks: Range<u32>, took: Delta, result: &Result<T>) {
    let digest = what.0.first_chunk().copied().map_or(0, u64::from_be_bytes);
    trace::peerfs_trace_miss(
        id,
        digest,
        chunks.start,
        chunks.len() as u32,
        u64::try_from(took.as_micros_ceil()).unwrap_or(0),
        errno(result),
    );
}

fn errno<T>(result: &Result<T>) -> i32 {
    result.as_ref().err().map_or(0, |error| error.to_errno())
}
