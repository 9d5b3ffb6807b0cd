// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The frames of an exchange stream as bytes. See `Documentation/peer-protocol.md`.
//!
//! A frame is a header of [`HEADER_SIZE`] bytes and a payload, all integers little-endian:
//! length (u32, of all that follows it), type (u8), priority (u8), zero (u16), request (u32).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use peerfs_format::Digest;

use crate::limits::{CHUNKS_PER_REQUEST, DATA_MAX, FRAME_MAX, REQUEST_MAX};
use crate::{ChunkMap, Have, Priority};

/// Bytes of a header.
pub const HEADER_SIZE: usize = 12;
/// Bytes of the length field, which does not count itself.
const LENGTH_SIZE: usize = 4;

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A length that no frame has.
    #[error("a frame of {0} bytes")]
    Length(u32),
    /// A type that does not exist, or not in this direction.
    #[error("unknown frame type {0}")]
    Type(u8),
    /// A field or a payload that does not fit the type: names it.
    #[error("malformed {0} frame")]
    Malformed(&'static str),
}

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
        /// The chunks' numbers: 1 to [`CHUNKS_PER_REQUEST`], each once.
        chunks: Vec<u32>,
    },
    /// The answers to this request are not wanted any more.
    Cancel {
        /// The request's id.
        request: u32,
    },
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
        /// Bytes of the whole blob.
        length: u64,
        /// The piece.
        data: Bytes,
    },
    /// A chunk. A `WantChunks` request ends when each of its chunks was answered.
    ChunkData {
        /// The request's id.
        request: u32,
        /// The chunk's number.
        number: u32,
        /// Its stored bytes.
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
            | Reply::Busy { request } => request,
        }
    }

    /// The bytes that need credit.
    pub fn data_length(&self) -> u32 {
        match self {
            // Checked when it was made: at most DATA_MAX.
            Reply::BlobData { data, .. } | Reply::ChunkData { data, .. } => data.len() as u32,
            _ => 0,
        }
    }
}

const CREDIT: u8 = 1;
const HAVE: u8 = 2;
const WANT_BLOB: u8 = 3;
const WANT_CHUNKS: u8 = 4;
const CANCEL: u8 = 5;
const PRESENCE: u8 = 16;
const BLOB_DATA: u8 = 17;
const CHUNK_DATA: u8 = 18;
const BLOB_NOT_FOUND: u8 = 19;
const CHUNK_NOT_FOUND: u8 = 20;
const TOO_LARGE: u8 = 21;
const BUSY: u8 = 22;

const ABSENT: u32 = 0;
const COMPLETE: u32 = 1;
const PARTIAL: u32 = 2;

/// A frame of one direction.
pub trait Frame: Sized {
    /// Bytes of the longest frame of this direction, its length field included.
    const SIZE_MAX: usize;

    /// Appends the frame's bytes.
    fn encode(&self, to: &mut BytesMut);

    /// Reads the payload that follows this header.
    fn decode(header: Header, payload: Bytes) -> Result<Self, FrameError>;
}

/// A header after its length field.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    kind: u8,
    priority: u8,
    request: u32,
}

impl Header {
    fn priority(&self, frame: &'static str) -> Result<Priority, FrameError> {
        Priority::from_number(self.priority).ok_or(FrameError::Malformed(frame))
    }
}

/// Takes a frame from the front of `from`; `None` if it is not complete yet. After an error the
/// stream is of no more use.
pub fn decode<F: Frame>(from: &mut BytesMut) -> Result<Option<F>, FrameError> {
    let Some(length_field) = from.first_chunk::<LENGTH_SIZE>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length_field);
    // Checked before anything is reserved for the frame.
    let size = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_add(LENGTH_SIZE))
        .filter(|size| (HEADER_SIZE..=F::SIZE_MAX).contains(size))
        .ok_or(FrameError::Length(length))?;
    if from.len() < size {
        from.reserve(size - from.len());
        return Ok(None);
    }
    let mut frame = from.split_to(size).freeze();
    frame.advance(LENGTH_SIZE);
    let kind = frame.get_u8();
    let priority = frame.get_u8();
    let reserved = frame.get_u16_le();
    let request = frame.get_u32_le();
    if reserved != 0 {
        return Err(FrameError::Malformed("header of a"));
    }
    let header = Header {
        kind,
        priority,
        request,
    };
    F::decode(header, frame).map(Some)
}

fn put_header(to: &mut BytesMut, kind: u8, priority: Priority, request: u32, payload: usize) {
    let size = HEADER_SIZE + payload;
    debug_assert!(size <= FRAME_MAX);
    to.reserve(size);
    to.put_u32_le((size - LENGTH_SIZE) as u32);
    to.put_u8(kind);
    to.put_u8(priority as u8);
    to.put_u16_le(0);
    to.put_u32_le(request);
}

/// Reads the fields of a payload one after the other; the frame is malformed if one is missing.
struct Fields {
    rest: Bytes,
    frame: &'static str,
}

impl Fields {
    fn malformed(&self) -> FrameError {
        FrameError::Malformed(self.frame)
    }

    fn digest(&mut self) -> Result<Digest, FrameError> {
        let mut bytes = [0; Digest::SIZE];
        self.rest
            .try_copy_to_slice(&mut bytes)
            .map_err(|_| self.malformed())?;
        Ok(Digest(bytes))
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.rest.try_get_u32_le().map_err(|_| self.malformed())
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.rest.try_get_u64_le().map_err(|_| self.malformed())
    }

    /// The rest of the payload.
    fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// The rest of the payload, as bytes of a blob or a chunk. Only an empty blob has none.
    fn data(&mut self, empty: bool) -> Result<Bytes, FrameError> {
        let data = self.rest();
        match u32::try_from(data.len()) {
            Ok(length) if length <= DATA_MAX && (length == 0) == empty => Ok(data),
            _ => Err(self.malformed()),
        }
    }

    /// Checks that nothing follows.
    fn end(self) -> Result<(), FrameError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }
}

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
            } => {
                put_header(to, WANT_BLOB, *priority, *request, Digest::SIZE + 8);
                to.put_slice(&digest.0);
                to.put_u64_le(*maximum);
            }
            Request::WantChunks {
                request,
                priority,
                pack,
                index,
                chunks,
            } => {
                let payload = 2 * Digest::SIZE + 4 * chunks.len();
                put_header(to, WANT_CHUNKS, *priority, *request, payload);
                to.put_slice(&pack.0);
                to.put_slice(&index.0);
                for number in chunks {
                    to.put_u32_le(*number);
                }
            }
            Request::Cancel { request } => put_header(to, CANCEL, Priority::Demand, *request, 0),
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
            unknown => return Err(FrameError::Type(unknown)),
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
            },
            WANT_CHUNKS => Request::WantChunks {
                request,
                priority,
                pack: fields.digest()?,
                index: fields.digest()?,
                chunks: chunk_numbers(&mut fields)?,
            },
            _cancel => Request::Cancel { request },
        };
        fields.end()?;
        Ok(decoded)
    }
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

impl Frame for Reply {
    const SIZE_MAX: usize = FRAME_MAX;

    fn encode(&self, to: &mut BytesMut) {
        let header = |to: &mut BytesMut, kind, payload| {
            put_header(to, kind, Priority::Demand, self.request(), payload);
        };
        match self {
            Reply::Presence { have, .. } => {
                let (state, chunk_count, bits) = match have {
                    Have::Absent => (ABSENT, 0, Bytes::new()),
                    Have::Complete => (COMPLETE, 0, Bytes::new()),
                    Have::Partial(map) => (PARTIAL, map.chunk_count(), map.bits().clone()),
                };
                header(to, PRESENCE, 8 + bits.len());
                to.put_u32_le(state);
                to.put_u32_le(chunk_count);
                to.put_slice(&bits);
            }
            Reply::BlobData { length, data, .. } => {
                header(to, BLOB_DATA, 8 + data.len());
                to.put_u64_le(*length);
                to.put_slice(data);
            }
            Reply::ChunkData { number, data, .. } => {
                header(to, CHUNK_DATA, 4 + data.len());
                to.put_u32_le(*number);
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
            Reply::Busy { .. } => header(to, BUSY, 0),
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
            unknown => return Err(FrameError::Type(unknown)),
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
            BLOB_DATA => {
                let length = fields.u64()?;
                Reply::BlobData {
                    request,
                    length,
                    data: fields.data(length == 0)?,
                }
            }
            CHUNK_DATA => Reply::ChunkData {
                request,
                number: fields.u32()?,
                data: fields.data(false)?,
            },
            BLOB_NOT_FOUND => Reply::BlobNotFound { request },
            CHUNK_NOT_FOUND => Reply::ChunkNotFound {
                request,
                number: fields.u32()?,
            },
            TOO_LARGE => Reply::TooLarge {
                request,
                length: fields.u64()?,
            },
            _busy => Reply::Busy { request },
        };
        fields.end()?;
        Ok(decoded)
    }
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

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
