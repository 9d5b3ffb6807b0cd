// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a client says.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use peerfs_format::Digest;

use super::{put_header, Fields, Frame, FrameError, Header, FROM_SERVER};
use crate::limits::{CHUNKS_PER_REQUEST, REQUEST_MAX, SUGGESTED_MAX};
use crate::Priority;

/// A frame from the node that opened the stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// The peer may send this many more bytes of data.
    Credit {
        /// Bytes.
        bytes: u32,
    },
    /// How much of this blob or pack is there?
    Have {
        /// The request's id.
        request: u32,
        /// The blob or pack.
        digest: Digest,
    },
    /// Send this blob.
    WantBlob {
        /// The request's id.
        request: u32,
        /// How urgent it is.
        priority: Priority,
        /// The blob.
        digest: Digest,
        /// Bytes that the blob may have.
        maximum: u64,
        /// Whether it may come as a zstd frame.
        zstd: bool,
    },
    /// Send these chunks.
    WantChunks {
        /// The request's id.
        request: u32,
        /// How urgent it is.
        priority: Priority,
        /// The pack.
        pack: Digest,
        /// Its index.
        index: Digest,
        /// Whether the server is asked to fetch what it lacks of its origin, and to send it then.
        through: bool,
        /// The chunks' numbers: 1 to [`CHUNKS_PER_REQUEST`], each once.
        chunks: Vec<u32>,
    },
    /// Tell how much of each pack of this image is there, now and when it changes, until the request is cancelled.
    Follow {
        /// The request's id.
        request: u32,
        /// The image's manifest.
        manifest: Digest,
    },
    /// Suggest which chunks of this pack to ask for.
    Suggest {
        /// The request's id.
        request: u32,
        /// The pack.
        pack: Digest,
        /// Its index.
        index: Digest,
        /// How many at most: 1 to [`SUGGESTED_MAX`].
        count: u32,
    },
    /// How much of this pack is there by this index, which the client has?
    HavePack {
        /// The request's id.
        request: u32,
        /// The pack.
        pack: Digest,
        /// Its index.
        index: Digest,
    },
    /// Name peers that follow this image.
    Peers {
        /// The request's id.
        request: u32,
        /// The image's manifest.
        manifest: Digest,
    },
    /// The answers to this request are not wanted any more.
    Cancel {
        /// The request's id.
        request: u32,
    },
    /// Something that is not served here.
    Other {
        /// The request's id.
        request: u32,
        /// The frame's type.
        kind: u8,
        /// What it says.
        payload: Bytes,
    },
}

const CREDIT: u8 = 1;
const HAVE: u8 = 2;
const WANT_BLOB: u8 = 3;
const WANT_CHUNKS: u8 = 4;
const CANCEL: u8 = 5;
const FOLLOW: u8 = 6;
const SUGGEST: u8 = 7;
const PEERS: u8 = 8;
const HAVE_PACK: u8 = 9;

/// The flag of a WantBlob that may be answered by a zstd frame.
const ZSTD_IS_WELCOME: u32 = 1;
/// The flag of WantChunks that asks the server to fetch what it lacks.
const FETCH_THROUGH: u32 = 1;

impl Frame for Request {
    const SIZE_MAX: usize = REQUEST_MAX;

    fn encode(&self, to: &mut BytesMut) {
        match self {
            Request::Credit { bytes } => {
                put_header(to, CREDIT, Priority::Demand, 0, 4);
                to.put_u32_le(*bytes);
            }
            Request::Have { request, digest } => {
                put_header(to, HAVE, Priority::Demand, *request, Digest::SIZE);
                to.put_slice(&digest.0);
            }
            Request::WantBlob {
                request,
                priority,
                digest,
                maximum,
                zstd,
            } => {
                put_header(to, WANT_BLOB, *priority, *request, Digest::SIZE + 12);
                to.put_slice(&digest.0);
                to.put_u64_le(*maximum);
                to.put_u32_le(if *zstd { ZSTD_IS_WELCOME } else { 0 });
            }
            Request::WantChunks {
                request,
                priority,
                pack,
                index,
                through,
                chunks,
            } => {
                let payload = 2 * Digest::SIZE + 4 + 4 * chunks.len();
                put_header(to, WANT_CHUNKS, *priority, *request, payload);
                to.put_slice(&pack.0);
                to.put_slice(&index.0);
                to.put_u32_le(if *through { FETCH_THROUGH } else { 0 });
                for number in chunks {
                    to.put_u32_le(*number);
                }
            }
            Request::Follow { request, manifest } => {
                put_header(to, FOLLOW, Priority::Demand, *request, Digest::SIZE);
                to.put_slice(&manifest.0);
            }
            Request::Suggest {
                request,
                pack,
                index,
                count,
            } => {
                let payload = 2 * Digest::SIZE + 4;
                put_header(to, SUGGEST, Priority::Demand, *request, payload);
                to.put_slice(&pack.0);
                to.put_slice(&index.0);
                to.put_u32_le(*count);
            }
            Request::HavePack {
                request,
                pack,
                index,
            } => {
                put_header(to, HAVE_PACK, Priority::Demand, *request, 2 * Digest::SIZE);
                to.put_slice(&pack.0);
                to.put_slice(&index.0);
            }
            Request::Peers { request, manifest } => {
                put_header(to, PEERS, Priority::Demand, *request, Digest::SIZE);
                to.put_slice(&manifest.0);
            }
            Request::Cancel { request } => put_header(to, CANCEL, Priority::Demand, *request, 0),
            Request::Other {
                request,
                kind,
                payload,
            } => {
                put_header(to, *kind, Priority::Demand, *request, payload.len());
                to.put_slice(payload);
            }
        }
    }

    fn decode(header: Header, payload: Bytes) -> Result<Self, FrameError> {
        let request = header.request;
        let frame = match header.kind {
            CREDIT => "Credit",
            HAVE => "Have",
            WANT_BLOB => "WantBlob",
            WANT_CHUNKS => "WantChunks",
            CANCEL => "Cancel",
            FOLLOW => "Follow",
            SUGGEST => "Suggest",
            PEERS => "Peers",
            HAVE_PACK => "HavePack",
            other if other & FROM_SERVER != 0 => return Err(FrameError::Direction(other)),
            _ => "unknown",
        };
        let priority = header.priority(frame)?;
        let mut fields = Fields {
            rest: payload,
            frame,
        };
        let decoded = match header.kind {
            CREDIT if request != 0 => return Err(fields.malformed()),
            CREDIT => Request::Credit {
                bytes: fields.u32()?,
            },
            HAVE => Request::Have {
                request,
                digest: fields.digest()?,
            },
            WANT_BLOB => Request::WantBlob {
                request,
                priority,
                digest: fields.digest()?,
                maximum: fields.u64()?,
                zstd: fields.u32()? & ZSTD_IS_WELCOME != 0,
            },
            WANT_CHUNKS => {
                let (pack, index) = (fields.digest()?, fields.digest()?);
                // Hints: a server that heeds none is right.
                let flags = fields.u32()?;
                Request::WantChunks {
                    request,
                    priority,
                    pack,
                    index,
                    through: flags & FETCH_THROUGH != 0,
                    chunks: chunk_numbers(&mut fields)?,
                }
            }
            CANCEL => Request::Cancel { request },
            FOLLOW => Request::Follow {
                request,
                manifest: fields.digest()?,
            },
            SUGGEST => Request::Suggest {
                request,
                pack: fields.digest()?,
                index: fields.digest()?,
                count: suggested_count(&mut fields)?,
            },
            HAVE_PACK => Request::HavePack {
                request,
                pack: fields.digest()?,
                index: fields.digest()?,
            },
            PEERS => Request::Peers {
                request,
                manifest: fields.digest()?,
            },
            kind => Request::Other {
                request,
                kind,
                payload: fields.rest(),
            },
        };
        fields.end()?;
        Ok(decoded)
    }
}

fn suggested_count(fields: &mut Fields) -> Result<u32, FrameError> {
    let count = fields.u32()?;
    let is_allowed = (1..=SUGGESTED_MAX as u32).contains(&count);
    is_allowed.then_some(count).ok_or(fields.malformed())
}

/// The rest of a payload as numbers of chunks, each of them once.
fn chunk_numbers(fields: &mut Fields) -> Result<Vec<u32>, FrameError> {
    let mut rest = fields.rest();
    let count = rest.len() / 4;
    if count * 4 != rest.len() || !(1..=CHUNKS_PER_REQUEST).contains(&count) {
        return Err(fields.malformed());
    }
    let mut numbers = Vec::with_capacity(count);
    while let Ok(number) = rest.try_get_u32_le() {
        numbers.push(number);
    }
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(fields.malformed());
    }
    Ok(numbers)
}

/// The kind of a frame of a client: as a number, its type.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum RequestKind {
    /// See [`Request::Credit`].
    Credit = CREDIT,
    /// See [`Request::Have`].
    Have = HAVE,
    /// See [`Request::WantBlob`].
    WantBlob = WANT_BLOB,
    /// See [`Request::WantChunks`].
    WantChunks = WANT_CHUNKS,
    /// See [`Request::Cancel`].
    Cancel = CANCEL,
    /// See [`Request::Follow`].
    Follow = FOLLOW,
    /// See [`Request::Suggest`].
    Suggest = SUGGEST,
    /// See [`Request::Peers`].
    Peers = PEERS,
    /// See [`Request::HavePack`].
    HavePack = HAVE_PACK,
    /// See [`Request::Other`]. Its number is one of the types that it stands for.
    Other = 0,
}

impl Request {
    /// The frame's kind.
    pub fn kind(&self) -> RequestKind {
        match self {
            Request::Credit { .. } => RequestKind::Credit,
            Request::Have { .. } => RequestKind::Have,
            Request::WantBlob { .. } => RequestKind::WantBlob,
            Request::WantChunks { .. } => RequestKind::WantChunks,
            Request::Cancel { .. } => RequestKind::Cancel,
            Request::Follow { .. } => RequestKind::Follow,
            Request::Suggest { .. } => RequestKind::Suggest,
            Request::Peers { .. } => RequestKind::Peers,
            Request::HavePack { .. } => RequestKind::HavePack,
            Request::Other { .. } => RequestKind::Other,
        }
    }
}
