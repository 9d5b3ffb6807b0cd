// SPDX-License-Identifier: GPL-2.0

//! Bindings to what `kernel::bindings` lacks, and to the shims in `helpers.c`. Only the other files of `rust` use them.

#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    improper_ctypes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    dead_code,
    unknown_lints,
    unnecessary_transmutes,
    unused_imports
)]

mod generated {
    include!(env!("PEERFS_BINDINGS"));
}
mod helpers;

pub(crate) use generated::*;
pub(crate) use helpers::*;
