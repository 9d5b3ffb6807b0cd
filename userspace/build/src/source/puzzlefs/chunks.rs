// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The chunks of an image of PuzzleFS, in which the content of its files is.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use peerfs_format::Digest;
use peerfs_store::sha256;

use super::ReadBlob;
use crate::source::{FileReader, Flaw, SourceFile};
use crate::xattrs::XattrSet;
use crate::{Error, Result};

/// The most bytes of a chunk, however it is stored. PuzzleFS makes none of more than 256 KiB.
const CHUNK_MAX: u64 = 4 * 1024 * 1024;
/// The largest window of a compressed chunk, as a power of two: that of the longest one.
const WINDOW_LOG_MAX: u32 = 22;
/// Chunks that are kept, since small files lie in one beside each other.
const KEPT: usize = 8;

/// Gets chunks, verified and decompressed.
pub(super) struct Chunks {
    /// For messages.
    path: PathBuf,
    read: Box<ReadBlob>,
    /// Those that were read last, the last one at the end.
    kept: Mutex<VecDeque<(Key, Arc<Vec<u8>>)>>,
}

/// A chunk, and whether it is compressed.
type Key = (Digest, bool);

/// A run of a file's bytes: in which chunk they are, and where in it.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Of the chunk as it is stored.
    pub(super) digest: Digest,
    /// In the chunk, once it is decompressed.
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) is_compressed: bool,
}

impl Chunks {
    pub(super) fn new(path: &Path, read: Box<ReadBlob>) -> Self {
        Chunks {
            path: path.to_owned(),
            read,
            kept: Mutex::default(),
        }
    }

    /// The content of the chunk that a piece is in.
    fn get(&self, piece: &Piece) -> Result<Arc<Vec<u8>>> {
        let key = (piece.digest, piece.is_compressed);
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, content)) = kept().iter().find(|(other, _)| *other == key) {
            return Ok(content.clone());
        }
        let stored = (self.read)(&piece.digest, CHUNK_MAX)?;
        let actual = sha256(&stored);
        if actual != piece.digest {
            return Err(Error::Mismatch {
                path: self.path_of(piece),
                what: "has the digest",
                expected: format!("sha256:{}", piece.digest),
                actual: format!("sha256:{actual}"),
            });
        }
        let content = match piece.is_compressed {
            false => stored,
            true => decompress(&stored).map_err(|source| Error::Decompress {
                path: self.path_of(piece),
                source,
            })?,
        };
        let content = Arc::new(content);
        let mut kept = kept();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((key, content.clone()));
        Ok(content)
    }

    /// A chunk's name in messages.
    fn path_of(&self, piece: &Piece) -> PathBuf {
        self.path.join(piece.digest.to_string())
    }
}

/// All of what frames of zstd hold. What is no frame of data, such as PuzzleFS's table of them, is passed over.
fn decompress(stored: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::Decoder::with_buffer(stored)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut content = Vec::new();
    decoder.take(CHUNK_MAX + 1).read_to_end(&mut content)?;
    match content.len() as u64 <= CHUNK_MAX {
        true => Ok(content),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is longer than a chunk may be",
        )),
    }
}

/// A regular file of an image of PuzzleFS.
pub struct PuzzleFile {
    chunks: Arc<Chunks>,
    pieces: Vec<Piece>,
    size: u64,
    xattrs: XattrSet,
    /// The piece that is read, and where in the file it begins.
    current: usize,
    start: u64,
}

impl PuzzleFile {
    /// The pieces have no more bytes together than a file may have.
    pub(super) fn new(chunks: &Arc<Chunks>, pieces: Vec<Piece>, xattrs: XattrSet) -> Self {
        PuzzleFile {
            chunks: chunks.clone(),
            size: pieces.iter().map(|piece| piece.length).sum(),
            pieces,
            xattrs,
            current: 0,
            start: 0,
        }
    }
}

impl SourceFile for PuzzleFile {
    type Reader = Self;

    fn size(&self) -> u64 {
        self.size
    }

    fn open(self) -> Result<Self> {
        Ok(self)
    }
}

impl FileReader for PuzzleFile {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let position = offset + done as u64;
            // There is one, since all that is asked for lies within the file.
            let Some(piece) = self.pieces.get(self.current) else {
                break;
            };
            let inside = position - self.start;
            if inside >= piece.length {
                self.start += piece.length;
                self.current += 1;
                continue;
            }
            let content = self.chunks.get(piece)?;
            let length = (piece.length - inside).min(rest.len() as u64) as usize;
            let from = usize::try_from(piece.offset).ok();
            let from = from.and_then(|from| from.checked_add(inside as usize));
            let part = from.and_then(|from| content.get(from..)?.get(..length));
            let part = part.ok_or_else(|| {
                let reason = "the chunk is shorter than the image says";
                Flaw::Refused(reason).of(self.chunks.path_of(piece))
            })?;
            rest.get_mut(..length)
                .unwrap_or_default()
                .copy_from_slice(part);
            done += length;
        }
        Ok(())
    }

    fn finish(self) -> Result<XattrSet> {
        Ok(self.xattrs)
    }
}
