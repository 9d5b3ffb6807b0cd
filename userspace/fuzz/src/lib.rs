// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the fuzz targets run: the walks of the format's property tests, the two ends of an exchange stream, and the
//! conversations between them.

pub mod frames;

#[path = "../../exchange/tests/conversation/mod.rs"]
pub mod conversation;

#[path = "../../../fs/peerfs/format/tests/walk/mod.rs"]
pub mod walk;
