// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Traces that others have written: what is read is written as it was, and adding it twice adds nothing.

#![no_main]

use peerfs_trace::Trace;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(trace) = Trace::parse(bytes) else {
        return;
    };
    assert_eq!(trace.encode(), bytes);
    let mut sum = Trace::new(trace.image, trace.workload);
    sum.add(&trace);
    assert!(!sum.add(&trace));
    assert_eq!(Trace::parse(&sum.encode()).as_ref(), Ok(&sum));
});
