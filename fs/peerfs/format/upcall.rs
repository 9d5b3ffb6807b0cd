// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The messages on `/dev/peerfs`. See `Documentation/upcall.md`.
//!
//! The kernel writes requests, the daemon answers each one once. A message is a header and a
//! payload, all integers little-endian. `read` returns as many whole requests as fit; what was got is
//! answered with by `ioctl`, and `write` takes the message that it was not.

use crate::table::{FieldReader, FieldWriter, Record};
pub use crate::used::{used_chunks, UsedChunks, UsedRun, USED_PAYLOAD_MAX, USED_SIZE};
use crate::{Digest, Error, Result, Table, SLOTS_MAX};

/// "PRFS" in the order of the bytes.
pub const MAGIC: u32 = u32::from_le_bytes(*b"PRFS");
/// The version of the protocol.
pub const VERSION: u16 = 2;
/// Bytes of a header.
pub const HEADER_SIZE: usize = Header::SIZE;
/// The longest request with its header; a daemon's buffer must have at least this size.
pub const REQUEST_MAX: usize = 4096;
/// The most chunks that one request asks for.
pub const FETCH_CHUNKS_MAX: u32 = 64;
/// Bytes of the longest message that is written, with its header.
pub const REPLY_MAX: usize = HEADER_SIZE + Failure::SIZE;

/// `ioctl` type of the device.
pub const IOCTL_TYPE: u8 = b'P';
/// `_IOW('P', 1, u32)`: attaches the store whose directory is open as this descriptor.
pub const IOCTL_ATTACH: u8 = 1;
/// `_IOW('P', 2, FileReply)`: answers a request with an opened file; see [`FileReply`].
pub const IOCTL_REPLY_FILE: u8 = 2;
/// `_IOW('P', 3, PlacesReply)`: answers a request for chunks with where they are; see [`PlacesReply`].
pub const IOCTL_REPLY_PLACES: u8 = 3;
/// `_IOR('P', 4, [u8; USED_SIZE])`: asks which chunks were read from the store since this was asked last; see
/// [`used_chunks`].
pub const IOCTL_USED: u8 = 4;

/// What a message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub enum Operation {
    /// Kernel: get this metadata blob ([`FetchBlob`]).
    FetchBlob = 1,
    /// Kernel: get these chunks ([`FetchChunks`]).
    FetchChunks = 2,
    /// Kernel: nobody waits for the request with this id any more; it takes no reply (no payload).
    Cancel = 3,
    /// Kernel, when it is asked: these chunks were read from the store ([`used_chunks`]).
    Used = 4,
    /// Daemon: it can't be had ([`Failure`]).
    Failed = 18,
}

impl Operation {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Operation::FetchBlob,
            2 => Operation::FetchChunks,
            3 => Operation::Cancel,
            4 => Operation::Used,
            18 => Operation::Failed,
            _ => return None,
        })
    }
}

/// How urgent a request is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum Priority {
    /// A reader waits.
    Demand = 0,
    /// Readahead: a reader may come soon.
    Readahead = 1,
}

impl Priority {
    /// The priority with this number; unknown ones count as the least urgent.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Priority::Demand,
            _ => Priority::Readahead,
        }
    }
}

/// What a metadata blob is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum BlobKind {
    /// The image's manifest; its length is not known.
    Manifest = 0,
    /// A pack's index.
    PackIndex = 1,
    /// An inode shard.
    InodeShard = 2,
    /// The image's blob table.
    BlobTable = 3,
}

impl BlobKind {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => BlobKind::Manifest,
            1 => BlobKind::PackIndex,
            2 => BlobKind::InodeShard,
            3 => BlobKind::BlobTable,
            _ => return None,
        })
    }
}

/// Begins every message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What the message is.
    pub operation: Operation,
    /// The request's id: unique on this kernel; a reply repeats it.
    pub id: u64,
    /// Bytes of the message, this header included.
    pub length: u32,
}

impl Header {
    const SIZE: usize = 24;

    /// Reads the header of a message and returns it with the payload; there may be more behind.
    pub fn parse(message: &[u8]) -> Result<(Header, &[u8])> {
        const WHAT: Error = Error::Malformed("upcall header");
        let header = Self::decode(message.get(..Self::SIZE).ok_or(WHAT)?)?;
        let payload = message
            .get(Self::SIZE..header.length as usize)
            .ok_or(WHAT)?;
        Ok((header, payload))
    }

    /// Reads a header alone, of exactly [`HEADER_SIZE`] bytes; checks magic, version and operation.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        const WHAT: Error = Error::Malformed("upcall header");
        let raw: RawHeader = payload_record(bytes, "upcall header")?;
        if raw.magic != MAGIC {
            return Err(WHAT);
        }
        if raw.version != VERSION {
            return Err(Error::UnsupportedVersion(u32::from(raw.version)));
        }
        let operation = Operation::from_number(raw.operation).ok_or(WHAT)?;
        Ok(Header {
            operation,
            id: raw.id,
            length: raw.length,
        })
    }
}

struct RawHeader {
    magic: u32,
    version: u16,
    operation: u16,
    id: u64,
    length: u32,
}

impl Record for RawHeader {
    const SIZE: usize = Header::SIZE;

    fn decode(fields: &mut FieldReader<'_>) -> Self {
        let raw = RawHeader {
            magic: fields.u32(),
            version: fields.u16(),
            operation: fields.u16(),
            id: fields.u64(),
            length: fields.u32(),
        };
        let _reserved = fields.u32();
        raw
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u32(self.magic);
        fields.u16(self.version);
        fields.u16(self.operation);
        fields.u64(self.id);
        fields.u32(self.length);
        fields.u32(0);
    }
}

/// Writes a message: calls `append` with pieces of it. The payload must be shorter than 4 GiB.
pub fn write_message(operation: Operation, id: u64, payload: &[u8], mut append: impl FnMut(&[u8])) {
    let raw = RawHeader {
        magic: MAGIC,
        version: VERSION,
        operation: operation as u16,
        id,
        length: (HEADER_SIZE + payload.len()) as u32,
    };
    raw.write_to(&mut append);
    append(payload);
}

pub(crate) fn payload_record<R: Record>(payload: &[u8], what: &'static str) -> Result<R> {
    let table: Table<'_, R> = Table::new(payload, what)?;
    match table.get(0) {
        Some(record) if table.len() == 1 => Ok(record),
        _ => Err(Error::Malformed(what)),
    }
}

/// What a mount is for, as its mounter calls it: requests for the same have it in common. All zeros if it was not said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Workload([u8; Self::SIZE]);

impl Workload {
    /// Bytes in a message: the name, and zeros.
    pub const SIZE: usize = 32;

    /// The workload of this name; `None` unless that has 1 to 31 letters, digits, `.`, `_` and `-`, and begins with
    /// none of the signs: it may become part of a file's name.
    pub fn new(name: &str) -> Option<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = name.bytes().next()?.is_ascii_alphanumeric();
        if !begins || name.len() >= Self::SIZE || !name.bytes().all(is_allowed) {
            return None;
        }
        let mut bytes = [0; Self::SIZE];
        for (place, byte) in bytes.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        Some(Workload(bytes))
    }

    /// The name; `None` if it was not said, or is not one.
    pub fn name(&self) -> Option<&str> {
        let length = self.0.iter().position(|byte| *byte == 0)?;
        let (name, padding) = self.0.split_at_checked(length)?;
        let name = core::str::from_utf8(name).ok()?;
        let is_name = Workload::new(name).is_some() && padding.iter().all(|byte| *byte == 0);
        is_name.then_some(name)
    }
}

/// The payload of [`Operation::FetchBlob`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FetchBlob {
    /// The blob.
    pub digest: Digest,
    /// The image that it belongs to, by its manifest.
    pub manifest: Digest,
    /// What the mount is for.
    pub workload: Workload,
    /// Bytes of the blob; 0 if not known.
    pub length: u64,
    /// A [`BlobKind`].
    pub kind: u32,
    /// A [`Priority`].
    pub priority: u32,
}

impl FetchBlob {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        payload_record(payload, "FetchBlob request")
    }

    /// What the blob is, if this reader knows it.
    pub fn kind(&self) -> Option<BlobKind> {
        BlobKind::from_number(self.kind)
    }
}

impl Record for FetchBlob {
    const SIZE: usize = 112;

    fn decode(fields: &mut FieldReader<'_>) -> Self {
        FetchBlob {
            digest: Digest(fields.bytes()),
            manifest: Digest(fields.bytes()),
            workload: Workload(fields.bytes()),
            length: fields.u64(),
            kind: fields.u32(),
            priority: fields.u32(),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.bytes(&self.digest.0);
        fields.bytes(&self.manifest.0);
        fields.bytes(&self.workload.0);
        fields.u64(self.length);
        fields.u32(self.kind);
        fields.u32(self.priority);
    }
}

/// The payload of [`Operation::FetchChunks`]: a run of chunks of one pack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FetchChunks {
    /// The pack.
    pub pack: Digest,
    /// Its index.
    pub index: Digest,
    /// The image that it belongs to, by its manifest.
    pub manifest: Digest,
    /// What the mount is for.
    pub workload: Workload,
    /// The first chunk.
    pub first_chunk: u32,
    /// The chunks: 1 to [`FETCH_CHUNKS_MAX`].
    pub chunk_count: u32,
    /// A [`Priority`].
    pub priority: u32,
    /// [`FETCH_AGAIN`], or 0.
    pub flags: u32,
}

/// In [`FetchChunks::flags`]: what the store has was read and is wrong; it must be fetched anew.
pub const FETCH_AGAIN: u32 = 1;

impl FetchChunks {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        payload_record(payload, "FetchChunks request")
    }
}

impl Record for FetchChunks {
    const SIZE: usize = 144;

    fn decode(fields: &mut FieldReader<'_>) -> Self {
        FetchChunks {
            pack: Digest(fields.bytes()),
            index: Digest(fields.bytes()),
            manifest: Digest(fields.bytes()),
            workload: Workload(fields.bytes()),
            first_chunk: fields.u32(),
            chunk_count: fields.u32(),
            priority: fields.u32(),
            flags: fields.u32(),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.bytes(&self.pack.0);
        fields.bytes(&self.index.0);
        fields.bytes(&self.manifest.0);
        fields.bytes(&self.workload.0);
        fields.u32(self.first_chunk);
        fields.u32(self.chunk_count);
        fields.u32(self.priority);
        fields.u32(self.flags);
    }
}

/// The payload of [`Operation::Failed`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failure {
    /// A positive errno. The kernel passes on EIO, ENODATA, EHOSTUNREACH, ETIMEDOUT, ENOSPC,
    /// EACCES and ENOMEM, and makes EIO of any other.
    pub errno: u32,
}

impl Failure {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        payload_record(payload, "Failed reply")
    }
}

impl Record for Failure {
    const SIZE: usize = 4;

    fn decode(fields: &mut FieldReader<'_>) -> Self {
        Failure {
            errno: fields.u32(),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u32(self.errno);
    }
}

/// The argument of [`IOCTL_REPLY_FILE`]: what was asked for is in the store, in this file, so that the kernel opens
/// nothing by path while somebody reads. It is the blob, or the whole pack. The descriptor must be open for reading;
/// the kernel keeps the file and the daemon may close the descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileReply {
    /// The request.
    pub id: u64,
    /// The open descriptor.
    pub descriptor: u32,
}

impl FileReply {
    /// Reads the argument.
    pub fn parse(argument: &[u8]) -> Result<Self> {
        payload_record(argument, "file reply")
    }
}

impl Record for FileReply {
    const SIZE: usize = 16;

    fn decode(fields: &mut FieldReader<'_>) -> Self {
        let reply = FileReply {
            id: fields.u64(),
            descriptor: fields.u32(),
        };
        let _reserved = fields.u32();
        reply
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u64(self.id);
        fields.u32(self.descriptor);
        fields.u32(0);
    }
}

/// The argument of [`IOCTL_REPLY_PLACES`]: the chunks that were asked for are where a pack's table of places says
/// ([`PlacesHeader`](crate::PlacesHeader)). The descriptors are those of the table and of the data files in which the
/// chunks are, all open for reading, so that the kernel opens nothing by path while somebody reads. The kernel keeps the
/// files, and the daemon may close the descriptors.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlacesReply {
    /// The request.
    pub id: u64,
    /// The table's open descriptor.
    pub table: u32,
    /// Of each slot the descriptor of its data file, or [`NO_DESCRIPTOR`].
    pub slots: [u32; SLOTS_MAX as usize],
}

/// In a [`PlacesReply`]: no file of this slot is given, the kernel goes on with the one that it has.
pub const NO_DESCRIPTOR: u32 = u32::MAX;

impl PlacesReply {
    /// Reads the argument.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it has another length.
    pub fn parse(argument: &[u8]) -> Result<Self> {
        payload_record(argument, "places reply")
    }
}

impl Record for PlacesReply {
    const SIZE: usize = 16 + 4 * SLOTS_MAX as usize;

    fn decode(fields: &mut FieldReader<'_>) -> Self {
        let (id, table) = (fields.u64(), fields.u32());
        let _reserved = fields.u32();
        let mut slots = [NO_DESCRIPTOR; SLOTS_MAX as usize];
        for slot in &mut slots {
            *slot = fields.u32();
        }
        PlacesReply { id, table, slots }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u64(self.id);
        fields.u32(self.table);
        fields.u32(0);
        for slot in self.slots {
            fields.u32(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_a_short_name_that_no_folder_has() {
        let longest = "0123456789012345678901234567890";
        for name in ["a", "web.v2_blue-green", "7", longest] {
            assert_eq!(Workload::new(name).unwrap().name(), Some(name));
        }
        let too_long = [longest, "1"].concat();
        for name in ["", ".", "..", "-x", "a/b", "a b", "a\0", "ä", &too_long] {
            assert_eq!(Workload::new(name), None);
        }
        assert_eq!(Workload::default().name(), None);
        // What others have written may be anything.
        for bytes in [*b"a", *b"/"].map(|byte| [byte[0]; Workload::SIZE]) {
            assert_eq!(Workload(bytes).name(), None);
        }
        let mut bytes = [0; Workload::SIZE];
        (bytes[0], bytes[5]) = (b'a', b'b');
        assert_eq!(Workload(bytes).name(), None);
    }
}
