// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The numbers that the protocol fixes. Sizes are in bytes.

use std::time::Duration;

use peerfs_format::{Digest, CHUNK_MAX};

use crate::frame::HEADER_SIZE;
use crate::ChunkMap;

/// The longest frame from a server, its length field included: a `HaveMap` of the longest pack.
pub const FRAME_MAX: usize = HEADER_SIZE + Digest::SIZE + 8 + ChunkMap::CHUNKS_MAX as usize / 8;
/// The longest frame from a client, its length field included: a `WantChunks` with all its numbers.
pub const REQUEST_MAX: usize = HEADER_SIZE + 2 * Digest::SIZE + 4 + 4 * CHUNKS_PER_REQUEST;
/// The most bytes of a blob or a chunk in one frame: what is more urgent waits for no more than that. All frames
/// of a blob or chunk have as many, but the last.
pub const PIECE_MAX: u32 = 32 * 1024;
/// The runs of chunks in one `HaveDelta`.
pub const RUNS_MAX: usize = 4096;
/// The chunks that a server suggests at once.
pub const SUGGESTED_MAX: usize = 256;
/// The images that a client may follow on a stream; a server is `Busy` for more.
pub const FOLLOWS_PER_STREAM: usize = 64;
/// Between two times that a server tells who follows what has come.
pub const NEWS_INTERVAL: Duration = Duration::from_millis(100);
/// The peers in one `PeerList`.
pub const PEERS_MAX: usize = 50;
/// The addresses of each.
pub const ADDRESSES_MAX: usize = 8;
/// Bytes of an address, and of the id of a peer.
pub const ADDRESS_SIZE_MAX: usize = 256;
/// The credit that a server needs before it reads a chunk, whose length it knows afterwards.
pub const CHUNK_CREDIT: u32 = CHUNK_MAX;
/// The most chunks that one `WantChunks` frame asks for.
pub const CHUNKS_PER_REQUEST: usize = 256;
/// The most requests that may be outstanding on a stream; a server is `Busy` for more.
pub const REQUESTS_PER_STREAM: usize = 256;
/// The most chunks that may be outstanding on a stream; a server is `Busy` for more.
pub const CHUNKS_PER_STREAM: usize = 4096;
/// When somebody is to ask again who has asked for more than that.
pub const CROWDED_RETRY: Duration = Duration::from_secs(1);
/// The longest that a peer that is `Busy` is left alone, whatever it says.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// The refusals that a server keeps for a client that does not take them; more of them are a violation.
pub const REFUSALS_MAX: usize = 1024;
/// The most credit that a server may hold on a stream; more is a violation.
pub const CREDIT_MAX: u32 = 32 * 1024 * 1024;
/// The most exchange streams that a node may open to one peer.
pub const STREAMS_PER_PEER: usize = 4;

/// How long a frame may take from its first byte to its last one, at either end: the least rate at which a blob or
/// chunk may come is a piece in that time.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a server waits for the peer to take what it collected for it: up to three pieces.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client keeps a stream on which it waits for nothing.
pub const LANE_IDLE: Duration = Duration::from_secs(60);
/// How long a server keeps such a stream: longer, so that it does not close one that is just being used.
pub const STREAM_IDLE: Duration = Duration::from_secs(150);
/// The replies without a request that a client takes on a stream. A correct server sends none, but for
/// requests that were cancelled so long ago that the client has forgotten them.
pub const STRAYS_MAX: u32 = 1024;
/// The bytes of data in those; none of it is given back as credit.
pub const STRAY_BYTES_MAX: u32 = WINDOW / 4;
/// The cancelled requests that a client remembers on a stream.
pub const CANCELLED_MAX: usize = 1024;
/// How long a server waits for its own store.
pub const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The credit that a client gives on a stream: what may be on the way or waiting for its taker.
/// Fills 1 Gbit/s at 60 ms.
pub const WINDOW: u32 = 8 * 1024 * 1024;
/// Taken bytes are given back as credit when they have become this many, to save frames. Small
/// enough that a server with nothing on the way always has credit for a longest chunk.
pub const CREDIT_STEP: u32 = 256 * 1024;
/// The requests that a client has outstanding on a stream. With as many chunks in each it stays
/// under [`CHUNKS_PER_STREAM`].
pub const CLIENT_REQUESTS: usize = 64;
/// The chunks in one request of a client.
pub const CLIENT_CHUNKS: usize = CHUNKS_PER_STREAM / CLIENT_REQUESTS;
/// What a server reads ahead of what it is writing to a stream: so many chunks, pieces of blobs and answers to
/// questions; and one more for each priority that is more urgent than the least, so that nobody's readahead is in
/// the way of a reader.
pub const READS_AHEAD: usize = 4;
/// The reads of all streams together.
pub const READS_MAX: usize = 64;
/// The chunks that a server fetches of origins for its neighbours at a time.
pub const THROUGHS_MAX: usize = 256;
/// How long it waits for one of them. Who has asked for it has asked the origin itself by then.
pub const THROUGH_TIMEOUT: Duration = Duration::from_secs(2);
/// The streams that a node serves.
pub const STREAMS_MAX: usize = 1024;

/// The bytes of the piece at `offset` of a blob or chunk of `total` bytes; 0 at its end.
pub fn piece_size(total: u64, offset: u64) -> u32 {
    total.saturating_sub(offset).min(u64::from(PIECE_MAX)) as u32
}
