// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the fuzz targets run: the walks of the format's property tests, and the two ends of an exchange stream.

pub mod frames;

#[path = "../../../fs/peerfs/format/tests/walk/mod.rs"]
pub mod walk;
