// SPDX-License-Identifier: GPL-2.0

//! What makes two files the same, whichever images they are in.
//!
//! The digest that an image gives for a file's content is not verified by anybody, and so proves
//! nothing. The digests of its chunks are: a file whose every byte comes from the same place of a chunk
//! with the same digest has the same bytes. That is said by one walk from the beginning of the file, and its pages
//! are filled by searches that begin anywhere. Both come to the same chunks because extents and pack indexes were
//! checked when they were read: they ascend, without overlapping (`format/tests/hostile`).
#![forbid(unsafe_code)]

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use peerfs_format::{pieces, ChunkPart, ExtentList, Iv, Source};

use super::{Origin, Store};
use crate::rust::crypto::sha256;
use crate::rust::fs::ContentId;
use crate::rust::task::is_being_killed;

/// Files of more chunks and holes keep their pages for themselves: some 1 GiB, where the list is 1 MiB.
const CHUNKS_MAX: usize = 16 * 1024;
/// Bytes of pack indexes that are gone through for a file: that of a pack each time that the file comes to it, since it
/// may have to be read and hashed anew. Files that go to and fro more keep their pages for themselves, too.
const INDEXES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of the list for a chunk.
const ENTRY: usize = 64;

impl<O: Origin> Store<O> {
    /// The id of a file's content: the digest of the list of its parts. `None` if it is empty or too
    /// large. May fetch pack indexes.
    pub(crate) fn content_id(
        &self,
        extents: &impl ExtentList,
        size: u64,
    ) -> Result<Option<ContentId>> {
        if extents.count() == 0 {
            return Ok(None);
        }
        let mut list = KVVec::new();
        let mut last = None;
        let mut indexes: u64 = 0;
        for piece in pieces(extents, 0..size) {
            if list.len() >= CHUNKS_MAX * ENTRY {
                return Ok(None);
            }
            let Source::Pack { pack, offset } = piece.source else {
                // No chunk has this digest: nobody knows bytes for it.
                entry(&mut list, &[0; 32], piece.length, 0, None)?;
                continue;
            };
            if is_being_killed() {
                return Err(EINTR);
            }
            let view = match last.take() {
                Some((number, view)) if number == pack => view,
                _ => {
                    let pack = self.pack(pack)?;
                    indexes = indexes.saturating_add(pack.record.index_length.into());
                    if indexes > INDEXES_MAX {
                        return Ok(None);
                    }
                    self.view_of(pack)?
                }
            };
            for part in self.parts(&view, offset, piece.length) {
                if list.len() >= CHUNKS_MAX * ENTRY {
                    return Ok(None);
                }
                let ChunkPart {
                    record: chunk,
                    iv,
                    skipped,
                    length,
                    ..
                } = part?;
                entry(
                    &mut list,
                    &chunk.digest.0,
                    u64::from(skipped) << 32 | u64::from(length),
                    u64::from(chunk.codec) << 32 | u64::from(chunk.logical_length),
                    iv,
                )?;
            }
            last = Some((pack, view));
        }
        // Of an encrypted image it is keyed, so that nobody who has no key can make a plain one that comes to the same.
        let id = self.realm.as_ref();
        let id = id.map_or_else(|| sha256(&list), |realm| realm.content_id(&list));
        Ok(Some(ContentId(id)))
    }
}

/// Appends a part: what it is of, which bytes, and how they are decoded, since one digest of stored bytes
/// may be that of a raw chunk here and of a compressed one there, or decrypted otherwise.
fn entry(
    list: &mut KVVec<u8>,
    digest: &[u8; 32],
    bytes: u64,
    decoding: u64,
    iv: Option<Iv>,
) -> Result {
    list.reserve(ENTRY, GFP_KERNEL_ACCOUNT)?;
    list.extend_from_slice(digest, GFP_KERNEL_ACCOUNT)?;
    list.extend_from_slice(&bytes.to_le_bytes(), GFP_KERNEL_ACCOUNT)?;
    list.extend_from_slice(&decoding.to_le_bytes(), GFP_KERNEL_ACCOUNT)?;
    list.extend_from_slice(&iv.map_or([0; Iv::SIZE], |iv| iv.0), GFP_KERNEL_ACCOUNT)?;
    Ok(())
}
