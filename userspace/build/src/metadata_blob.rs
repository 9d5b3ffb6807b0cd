// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writing a Cap'n Proto metadata blob.

use capnp::message::{Builder, HeapAllocator};
use capnp::serialize::write_message_to_words;
use capnp::traits::Owned;

/// Room for the root struct and the words that fields are rounded up to.
const OVERHEAD_WORDS: usize = 64;

/// A metadata blob being written: one segment, so that the same content is the same bytes.
pub(crate) struct MetadataBlob {
    message: Builder<HeapAllocator>,
}

impl MetadataBlob {
    /// A blob with so many bytes of fields.
    pub(crate) fn new(field_bytes: usize) -> Self {
        let words = field_bytes / 8 + OVERHEAD_WORDS;
        // More than 2^32 words do not come about: fields of one blob are far smaller.
        let words = u32::try_from(words).unwrap_or(u32::MAX);
        MetadataBlob {
            message: Builder::new(HeapAllocator::new().first_segment_words(words)),
        }
    }

    /// The root struct.
    pub(crate) fn root<T: Owned>(&mut self) -> T::Builder<'_> {
        self.message.init_root()
    }

    /// The blob.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        write_message_to_words(&self.message)
    }
}
