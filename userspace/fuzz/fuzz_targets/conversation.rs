// SPDX-License-Identifier: GPL-2.0 OR MIT

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| peerfs_fuzz::conversation::converse(bytes));
