// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The envelope that all metadata blobs have: one Cap'n Proto message.

use capnp::message::{Reader, ReaderOptions};
use capnp::serialize::{read_message_from_flat_slice_no_alloc, NoAllocSliceSegments};

use crate::{Error, Result, METADATA_MAX};

/// Reads a blob as a message, which may be walked over once, with room for headers. `what` names it in the
/// error.
pub(crate) fn read_message<'a>(
    mut blob: &'a [u8],
    what: &'static str,
) -> Result<Reader<NoAllocSliceSegments<'a>>> {
    let options = ReaderOptions {
        // In words of 8 bytes.
        traversal_limit_in_words: Some(2 * METADATA_MAX as usize / 8),
        nesting_limit: 4,
    };
    read_message_from_flat_slice_no_alloc(&mut blob, options).map_err(|_| Error::Malformed(what))
}

/// Checks that a field is empty, which belongs to a feature that the image does not have. `what` names it in the error.
pub(crate) fn check_absent(data: capnp::Result<&[u8]>, what: &'static str) -> Result<()> {
    match data.map(<[u8]>::is_empty) {
        Ok(true) => Ok(()),
        _ => Err(Error::Malformed(what)),
    }
}
