// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a server says.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use peerfs_format::{Digest, CHUNK_MAX};

use super::news::{
    put_records, put_runs, put_suggestion, records, runs, suggestion, suggestion_size, PeerRecord,
};
use super::{put_header, Fields, Frame, FrameError, Header, FROM_SERVER};
use crate::limits::{piece_size, FRAME_MAX, PIECE_MAX};
use crate::{ChunkMap, Have, Priority, Suggestion};

/// How a blob is sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Encoding {
    /// As it is.
    #[default]
    Plain,
    /// As one zstd frame, which is shorter.
    Zstd,
}

/// A frame from the node that accepted the stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// How much is there. Ends a `Have` request.
    Presence {
        /// The request's id.
        request: u32,
        /// How much.
        have: Have,
    },
    /// The next piece of a blob. The one with the last byte ends the request.
    BlobData {
        /// The request's id.
        request: u32,
        /// How the blob is sent.
        encoding: Encoding,
        /// Bytes of the whole blob as it is sent.
        sent_length: u64,
        /// Bytes of the whole blob: as many if it is sent plain, otherwise more.
        length: u64,
        /// The piece.
        data: Bytes,
    },
    /// The next piece of a chunk. A `WantChunks` request ends when each of its chunks was answered.
    ChunkData {
        /// The request's id.
        request: u32,
        /// The chunk's number.
        number: u32,
        /// Where in the chunk's stored bytes the piece begins.
        offset: u32,
        /// All stored bytes of the chunk.
        total: u32,
        /// The piece.
        data: Bytes,
    },
    /// The blob is not there. Ends a `WantBlob` request.
    BlobNotFound {
        /// The request's id.
        request: u32,
    },
    /// The chunk is not there.
    ChunkNotFound {
        /// The request's id.
        request: u32,
        /// The chunk's number.
        number: u32,
    },
    /// The blob is longer than the request allows. Ends a `WantBlob` request.
    TooLarge {
        /// The request's id.
        request: u32,
        /// Bytes of the blob.
        length: u64,
    },
    /// The server has too much to do and forgets the request.
    Busy {
        /// The request's id.
        request: u32,
        /// When to ask again, in milliseconds from now.
        retry_after: u32,
    },
    /// How much is there of a pack of an image that is followed: it replaces what was said before.
    HaveMap {
        /// The id of the `Follow`.
        request: u32,
        /// The pack.
        pack: Digest,
        /// How much.
        have: Have,
    },
    /// Chunks that have come to be there, of a pack of an image that is followed.
    HaveDelta {
        /// The id of the `Follow`.
        request: u32,
        /// The pack.
        pack: Digest,
        /// Their numbers: 1 to [`RUNS_MAX`](crate::limits::RUNS_MAX) runs in ascending order, none of them empty, and
        /// with a gap between each two.
        runs: Vec<Range<u32>>,
    },
    /// Peers that follow an image. Ends a `Peers` request.
    PeerList {
        /// The request's id.
        request: u32,
        /// At most [`PEERS_MAX`](crate::limits::PEERS_MAX) of them.
        peers: Vec<PeerRecord>,
    },
    /// What to ask for. Ends a `Suggest` request.
    Suggestion {
        /// The request's id.
        request: u32,
        /// What.
        suggestion: Suggestion,
    },
    /// The server does not serve requests of this type.
    NotServed {
        /// The request's id.
        request: u32,
    },
    /// Something that was not asked for: nothing that is asked for here is answered so.
    Other {
        /// The request's id.
        request: u32,
        /// The frame's type.
        kind: u8,
        /// What it says.
        payload: Bytes,
    },
}

impl Reply {
    /// The request that is answered.
    pub fn request(&self) -> u32 {
        match *self {
            Reply::Presence { request, .. }
            | Reply::BlobData { request, .. }
            | Reply::ChunkData { request, .. }
            | Reply::BlobNotFound { request }
            | Reply::ChunkNotFound { request, .. }
            | Reply::TooLarge { request, .. }
            | Reply::Busy { request, .. }
            | Reply::HaveMap { request, .. }
            | Reply::HaveDelta { request, .. }
            | Reply::PeerList { request, .. }
            | Reply::Suggestion { request, .. }
            | Reply::NotServed { request }
            | Reply::Other { request, .. } => request,
        }
    }

    /// The bytes that need credit.
    pub fn data_length(&self) -> u32 {
        match self {
            // Checked when it was made: at most PIECE_MAX.
            Reply::BlobData { data, .. } | Reply::ChunkData { data, .. } => data.len() as u32,
            _ => 0,
        }
    }
}

const PRESENCE: u8 = 16;
const BLOB_DATA: u8 = 17;
const CHUNK_DATA: u8 = 18;
const BLOB_NOT_FOUND: u8 = 19;
const CHUNK_NOT_FOUND: u8 = 20;
const TOO_LARGE: u8 = 21;
const BUSY: u8 = 22;
const HAVE_MAP: u8 = 23;
const HAVE_DELTA: u8 = 24;
const PEER_LIST: u8 = 25;
const NOT_SERVED: u8 = 26;
const SUGGESTION: u8 = 27;

const ABSENT: u32 = 0;
const COMPLETE: u32 = 1;
const PARTIAL: u32 = 2;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

impl Frame for Reply {
    const SIZE_MAX: usize = FRAME_MAX;

    fn encode(&self, to: &mut BytesMut) {
        let header = |to: &mut BytesMut, kind, payload| {
            put_header(to, kind, Priority::Demand, self.request(), payload);
        };
        match self {
            Reply::Presence { have, .. } => {
                header(to, PRESENCE, presence_size(have));
                put_presence(to, have);
            }
            Reply::HaveMap { pack, have, .. } => {
                header(to, HAVE_MAP, Digest::SIZE + presence_size(have));
                to.put_slice(&pack.0);
                put_presence(to, have);
            }
            Reply::HaveDelta { pack, runs, .. } => {
                header(to, HAVE_DELTA, Digest::SIZE + 8 * runs.len());
                to.put_slice(&pack.0);
                put_runs(to, runs);
            }
            Reply::PeerList { peers, .. } => {
                header(to, PEER_LIST, peers.iter().map(PeerRecord::size).sum());
                put_records(to, peers);
            }
            Reply::BlobData {
                encoding,
                sent_length,
                length,
                data,
                ..
            } => {
                header(to, BLOB_DATA, 17 + data.len());
                to.put_u8(match encoding {
                    Encoding::Plain => PLAIN,
                    Encoding::Zstd => ZSTD,
                });
                to.put_u64_le(*sent_length);
                to.put_u64_le(*length);
                to.put_slice(data);
            }
            Reply::ChunkData {
                number,
                offset,
                total,
                data,
                ..
            } => {
                header(to, CHUNK_DATA, 12 + data.len());
                to.put_u32_le(*number);
                to.put_u32_le(*offset);
                to.put_u32_le(*total);
                to.put_slice(data);
            }
            Reply::BlobNotFound { .. } => header(to, BLOB_NOT_FOUND, 0),
            Reply::ChunkNotFound { number, .. } => {
                header(to, CHUNK_NOT_FOUND, 4);
                to.put_u32_le(*number);
            }
            Reply::TooLarge { length, .. } => {
                header(to, TOO_LARGE, 8);
                to.put_u64_le(*length);
            }
            Reply::Busy { retry_after, .. } => {
                header(to, BUSY, 4);
                to.put_u32_le(*retry_after);
            }
            Reply::Suggestion { suggestion, .. } => {
                header(to, SUGGESTION, suggestion_size(suggestion));
                put_suggestion(to, suggestion);
            }
            Reply::NotServed { .. } => header(to, NOT_SERVED, 0),
            Reply::Other { kind, payload, .. } => {
                header(to, *kind, payload.len());
                to.put_slice(payload);
            }
        }
    }

    fn decode(header: Header, payload: Bytes) -> Result<Self, FrameError> {
        let request = header.request;
        let frame = match header.kind {
            PRESENCE => "Presence",
            BLOB_DATA => "BlobData",
            CHUNK_DATA => "ChunkData",
            BLOB_NOT_FOUND => "BlobNotFound",
            CHUNK_NOT_FOUND => "ChunkNotFound",
            TOO_LARGE => "TooLarge",
            BUSY => "Busy",
            HAVE_MAP => "HaveMap",
            HAVE_DELTA => "HaveDelta",
            PEER_LIST => "PeerList",
            NOT_SERVED => "NotServed",
            SUGGESTION => "Suggestion",
            other if other & FROM_SERVER == 0 => return Err(FrameError::Direction(other)),
            _ => "unknown",
        };
        let mut fields = Fields {
            rest: payload,
            frame,
        };
        let decoded = match header.kind {
            PRESENCE => Reply::Presence {
                request,
                have: presence(&mut fields)?,
            },
            BLOB_DATA => blob_data(request, &mut fields)?,
            CHUNK_DATA => chunk_data(request, &mut fields)?,
            BLOB_NOT_FOUND => Reply::BlobNotFound { request },
            CHUNK_NOT_FOUND => Reply::ChunkNotFound {
                request,
                number: fields.u32()?,
            },
            TOO_LARGE => Reply::TooLarge {
                request,
                length: fields.u64()?,
            },
            BUSY => Reply::Busy {
                request,
                retry_after: fields.u32()?,
            },
            HAVE_MAP => Reply::HaveMap {
                request,
                pack: fields.digest()?,
                have: presence(&mut fields)?,
            },
            HAVE_DELTA => Reply::HaveDelta {
                request,
                pack: fields.digest()?,
                runs: runs(&mut fields)?,
            },
            PEER_LIST => Reply::PeerList {
                request,
                peers: records(&mut fields)?,
            },
            NOT_SERVED => Reply::NotServed { request },
            SUGGESTION => Reply::Suggestion {
                request,
                suggestion: suggestion(&mut fields)?,
            },
            kind => Reply::Other {
                request,
                kind,
                payload: fields.rest(),
            },
        };
        fields.end()?;
        Ok(decoded)
    }
}

fn presence_size(have: &Have) -> usize {
    match have {
        Have::Absent | Have::Complete => 8,
        Have::Partial(map) => 8 + map.bits().len(),
    }
}

fn put_presence(to: &mut BytesMut, have: &Have) {
    let (state, chunk_count, bits) = match have {
        Have::Absent => (ABSENT, 0, Bytes::new()),
        Have::Complete => (COMPLETE, 0, Bytes::new()),
        Have::Partial(map) => (PARTIAL, map.chunk_count(), map.bits().clone()),
    };
    to.put_u32_le(state);
    to.put_u32_le(chunk_count);
    to.put_slice(&bits);
}

fn presence(fields: &mut Fields) -> Result<Have, FrameError> {
    let (state, chunk_count) = (fields.u32()?, fields.u32()?);
    let have = match state {
        ABSENT if chunk_count == 0 => Some(Have::Absent),
        COMPLETE if chunk_count == 0 => Some(Have::Complete),
        PARTIAL => ChunkMap::new(chunk_count, fields.rest()).map(Have::Partial),
        _ => None,
    };
    have.ok_or(fields.malformed())
}

/// A piece of a blob, of which the receiver knows where it begins. Only an empty blob has none with bytes.
fn blob_data(request: u32, fields: &mut Fields) -> Result<Reply, FrameError> {
    let (encoding, sent_length, length) = (fields.u8()?, fields.u64()?, fields.u64()?);
    let encoding = match encoding {
        PLAIN if sent_length == length => Encoding::Plain,
        ZSTD if (1..length).contains(&sent_length) => Encoding::Zstd,
        _ => return Err(fields.malformed()),
    };
    let data = fields.rest();
    let size = data.len() as u64;
    if size > u64::from(PIECE_MAX).min(sent_length) || (size == 0) != (sent_length == 0) {
        return Err(fields.malformed());
    }
    Ok(Reply::BlobData {
        request,
        encoding,
        sent_length,
        length,
        data,
    })
}

/// A piece of a chunk: of the length that it has at its place.
fn chunk_data(request: u32, fields: &mut Fields) -> Result<Reply, FrameError> {
    let (number, offset, total) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let data = fields.rest();
    let size = piece_size(total.into(), offset.into());
    if total > CHUNK_MAX || offset % PIECE_MAX != 0 || size == 0 || data.len() != size as usize {
        return Err(fields.malformed());
    }
    Ok(Reply::ChunkData {
        request,
        number,
        offset,
        total,
        data,
    })
}

/// The kind of a frame of a server: as a number, its type.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum ReplyKind {
    /// See [`Reply::Presence`].
    Presence = PRESENCE,
    /// See [`Reply::BlobData`].
    BlobData = BLOB_DATA,
    /// See [`Reply::ChunkData`].
    ChunkData = CHUNK_DATA,
    /// See [`Reply::BlobNotFound`].
    BlobNotFound = BLOB_NOT_FOUND,
    /// See [`Reply::ChunkNotFound`].
    ChunkNotFound = CHUNK_NOT_FOUND,
    /// See [`Reply::TooLarge`].
    TooLarge = TOO_LARGE,
    /// See [`Reply::Busy`].
    Busy = BUSY,
    /// See [`Reply::HaveMap`].
    HaveMap = HAVE_MAP,
    /// See [`Reply::HaveDelta`].
    HaveDelta = HAVE_DELTA,
    /// See [`Reply::PeerList`].
    PeerList = PEER_LIST,
    /// See [`Reply::NotServed`].
    NotServed = NOT_SERVED,
    /// See [`Reply::Suggestion`].
    Suggestion = SUGGESTION,
}

impl ReplyKind {
    /// All of them, by their numbers.
    pub const ALL: &[ReplyKind] = &[
        ReplyKind::Presence,
        ReplyKind::BlobData,
        ReplyKind::ChunkData,
        ReplyKind::BlobNotFound,
        ReplyKind::ChunkNotFound,
        ReplyKind::TooLarge,
        ReplyKind::Busy,
        ReplyKind::HaveMap,
        ReplyKind::HaveDelta,
        ReplyKind::PeerList,
        ReplyKind::NotServed,
        ReplyKind::Suggestion,
    ];
}

impl Reply {
    /// The frame's kind; `None` if it is not known.
    pub fn kind(&self) -> Option<ReplyKind> {
        Some(match self {
            Reply::Presence { .. } => ReplyKind::Presence,
            Reply::BlobData { .. } => ReplyKind::BlobData,
            Reply::ChunkData { .. } => ReplyKind::ChunkData,
            Reply::BlobNotFound { .. } => ReplyKind::BlobNotFound,
            Reply::ChunkNotFound { .. } => ReplyKind::ChunkNotFound,
            Reply::TooLarge { .. } => ReplyKind::TooLarge,
            Reply::Busy { .. } => ReplyKind::Busy,
            Reply::HaveMap { .. } => ReplyKind::HaveMap,
            Reply::HaveDelta { .. } => ReplyKind::HaveDelta,
            Reply::PeerList { .. } => ReplyKind::PeerList,
            Reply::NotServed { .. } => ReplyKind::NotServed,
            Reply::Suggestion { .. } => ReplyKind::Suggestion,
            Reply::Other { .. } => return None,
        })
    }
}
