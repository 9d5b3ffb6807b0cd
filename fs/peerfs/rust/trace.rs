// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of the module, as its C file has them.
//!
//! Locking: none; for any context.

use kernel::bindings::dev_t;
use kernel::ffi::c_int;

unsafe extern "C" {
    pub(crate) safe fn peerfs_trace_read(dev: dev_t, ino: u64, pos: u64, length: u64, error: c_int);
    pub(crate) safe fn peerfs_trace_readahead(
        dev: dev_t,
        ino: u64,
        pos: u64,
        length: u64,
        wide_pos: u64,
        wide_length: u64,
        waits: bool,
    );
    pub(crate) safe fn peerfs_trace_miss(
        id: u64,
        digest: u64,
        first: u32,
        count: u32,
        microseconds: u64,
        error: c_int,
    );
}
