// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Computing SHA-256.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use peerfs_format::Digest;
use sha2::{Digest as _, Sha256};

/// Bytes read at once when a file is hashed.
const READ_SIZE: usize = 1024 * 1024;

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// The SHA-256 of what is written to it.
#[derive(Clone, Default)]
pub struct Sha256Writer {
    state: Sha256,
}

impl Sha256Writer {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
    }

    /// The digest of everything that was added.
    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

impl Write for Sha256Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The SHA-256 of a whole file, wherever its cursor is; None if it has more than `limit` bytes, which a file that
/// grows while it is read has some time. `progress` gets the bytes of each step.
pub(crate) fn sha256_file(
    file: &File,
    limit: u64,
    mut progress: impl FnMut(u64),
) -> io::Result<Option<Digest>> {
    let mut hash = Sha256Writer::default();
    let mut buffer = vec![0; READ_SIZE];
    let mut offset = 0;
    loop {
        let count = file.read_at(&mut buffer, offset)?;
        if count == 0 {
            return Ok(Some(hash.finish()));
        }
        offset += count as u64;
        if offset > limit {
            return Ok(None);
        }
        hash.update(buffer.get(..count).unwrap_or_default());
        progress(count as u64);
    }
}
