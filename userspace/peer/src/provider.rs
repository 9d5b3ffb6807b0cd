// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node serves: the side of the exchange that the owner of the store implements.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use peerfs_exchange::frame::Encoding;
use peerfs_exchange::limits::piece_size;
use peerfs_exchange::{Have, Priority};
use peerfs_format::Digest;

use crate::Work;

/// A piece of a blob, as it is sent.
#[derive(Clone, Debug)]
pub struct BlobPiece {
    /// How the blob is sent.
    pub encoding: Encoding,
    /// Bytes of the whole blob as it is sent.
    pub sent_length: u64,
    /// The piece.
    pub data: Bytes,
}

impl BlobPiece {
    /// The piece at `offset` of what is sent for a blob: at most [`PIECE_MAX`](peerfs_exchange::limits::PIECE_MAX)
    /// bytes. `None` if it is not that long.
    pub fn of(encoding: Encoding, sent: &Bytes, offset: u64) -> Option<Self> {
        let sent_length = sent.len() as u64;
        let start = usize::try_from(offset)
            .ok()
            .filter(|start| *start <= sent.len())?;
        let end = start + piece_size(sent_length, offset) as usize;
        Some(BlobPiece {
            encoding,
            sent_length,
            data: sent.slice(start..end),
        })
    }
}

/// The store behind a node. Peers call this for anything they like to ask, so an implementation
/// must treat every argument as untrusted; it need not limit concurrency, the node does. What it reads or
/// hashes it [charges](Work::charge) before, and does not if it may not.
///
/// An I/O error is answered with `None`: to a peer it is the same as not having the bytes.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// The length of a blob in bytes, if all of it is there; nothing of it is read for that.
    async fn blob_length(&self, blob: &Digest, work: &Work) -> Option<u64>;

    /// The longest blob that [`Provider::read_blob`] is asked for. Longer ones are refused with their length.
    fn blob_max(&self) -> u64;

    /// The piece of a complete blob at `offset` of what is sent for it; `None` if it is not there. Only if `zstd` may
    /// it be sent as a zstd frame, and then it always is the same one.
    async fn read_blob(
        &self,
        blob: &Digest,
        zstd: bool,
        offset: u64,
        work: &Work,
    ) -> Option<BlobPiece>;

    /// How much of a blob or a pack is there.
    async fn have(&self, digest: &Digest, work: &Work) -> Have;

    /// The packs of an image of which the manifest and the blob table are here, in ascending order, each once; `None`
    /// if they are not. When that changes, the owner of the node says so: [`Arrival::Image`](peerfs_exchange::Arrival).
    /// None is here if nothing else is said.
    async fn packs_of(&self, _manifest: &Digest, _work: &Work) -> Option<Arc<[Digest]>> {
        None
    }

    /// How much of a pack is there by this pack index; `None` if the index is not known here. A peer that has it is then asked
    /// for it, and what it sends is given to [`Provider::lend_index`]. It never is if nothing else is said.
    async fn have_by(&self, _pack: &Digest, _index: &Digest, _work: &Work) -> Option<Have> {
        Some(Have::Absent)
    }

    /// Takes what a peer sent as the pack index `index`, which it need not be. What is here of `pack` by it may be in other
    /// packs.
    async fn lend_index(&self, _pack: &Digest, _index: &Digest, _blob: Bytes, _work: &Work) {}

    /// How many chunks a pack has by its pack index `index`, if all of it is here; then some of them are suggested to peers.
    /// None are if nothing else is said.
    async fn whole_pack(&self, _pack: &Digest, _index: &Digest, _work: &Work) -> Option<u32> {
        None
    }

    /// Fetches a chunk of a pack of an origin, for a peer on the link or in the swarm that asks for it; returns when it is here,
    /// or when it is known that it does not come. Only for images that are read here, and never by asking another peer to do
    /// the same. Dropping the future gives it up. Nothing is fetched if nothing else is said.
    async fn fetch_through(
        &self,
        _pack: &Digest,
        _index: &Digest,
        _number: u32,
        _priority: Priority,
    ) {
    }

    /// The stored bytes of a chunk of `pack`, which the pack index `index` describes: at most
    /// [`CHUNK_CREDIT`](peerfs_exchange::limits::CHUNK_CREDIT) of them, longer ones count as missing.
    async fn read_chunk(
        &self,
        pack: &Digest,
        index: &Digest,
        number: u32,
        work: &Work,
    ) -> Option<Bytes>;
}
