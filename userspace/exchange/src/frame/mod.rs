// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The frames of an exchange stream as bytes. See `Documentation/peer-protocol.md`.
//!
//! A frame is a header of [`HEADER_SIZE`] bytes and a payload, all integers little-endian:
//! length (u32, of all that follows it), type (u8), priority (u8), zero (u16), request (u32).
//! Bit 4 of the type says who sends it.

mod news;
mod protocol;
mod reply;
mod request;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use peerfs_format::Digest;

use crate::Priority;

pub use news::PeerRecord;
pub use protocol::{Conversation, Pattern, Protocol, Rule, State, Unfit, PROTOCOLS};
pub use reply::{Encoding, Reply, ReplyKind};
pub use request::{Request, RequestKind};

/// Bytes of a header.
pub const HEADER_SIZE: usize = 12;
/// Bytes of the length field, which does not count itself.
const LENGTH_SIZE: usize = 4;
/// In the types of a server's frames, and not in those of a client's.
const FROM_SERVER: u8 = 16;

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A length that no frame has.
    #[error("a frame of {0} bytes")]
    Length(u32),
    /// A type of the other direction.
    #[error("a frame of type {0}, which the other end sends")]
    Direction(u8),
    /// A field or a payload that does not fit the type: names it.
    #[error("malformed {0} frame")]
    Malformed(&'static str),
}

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

/// The request that a frame belongs to whose header has come, and perhaps no more of it.
pub fn request_of(begun: &[u8]) -> Option<u32> {
    let header = begun.first_chunk::<HEADER_SIZE>()?;
    header.last_chunk().copied().map(u32::from_le_bytes)
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

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.rest.try_get_u8().map_err(|_| self.malformed())
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

    /// Checks that nothing follows.
    fn end(self) -> Result<(), FrameError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }
}

#[cfg(test)]
mod tests;
