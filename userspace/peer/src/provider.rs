// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node serves: the side of the exchange that the owner of the store implements.

use async_trait::async_trait;
use bytes::Bytes;
use peerfs_exchange::Have;
use peerfs_format::Digest;

use crate::Work;

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

    /// Exactly `length` bytes of a complete blob from `offset` on; `None` if they are not there.
    /// `length` is at most [`DATA_MAX`](peerfs_exchange::limits::DATA_MAX).
    async fn read_blob(
        &self,
        blob: &Digest,
        offset: u64,
        length: u32,
        work: &Work,
    ) -> Option<Bytes>;

    /// How much of a blob or a pack is there.
    async fn have(&self, digest: &Digest, work: &Work) -> Have;

    /// The stored bytes of a chunk of `pack`, which the pack index `index` describes: at most
    /// [`DATA_MAX`](peerfs_exchange::limits::DATA_MAX) of them, longer ones count as missing.
    async fn read_chunk(
        &self,
        pack: &Digest,
        index: &Digest,
        number: u32,
        work: &Work,
    ) -> Option<Bytes>;
}
