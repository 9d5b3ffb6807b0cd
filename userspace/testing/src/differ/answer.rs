// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Answers of system calls, as far as two filesystems must agree.

use rustix::fs::FileType;
use rustix::io::Errno;

use super::FileId;

/// A success.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// Nothing to tell.
    Done,
    /// A count, or a position.
    Number(u64),
    /// The offset that SEEK_DATA or SEEK_HOLE found.
    Place(u64),
    /// The bytes that were read.
    Bytes(Vec<u8>),
    /// Names in order.
    Names(Vec<Vec<u8>>),
    /// A directory, in the order of the names.
    Entries(Vec<(Vec<u8>, FileType)>),
    /// A file's metadata.
    Status(Status),
    /// Something that a filesystem need not offer is not offered.
    Refused,
    /// A directory contradicts itself.
    Inconsistent(String),
}

/// The answer of stat(2).
#[derive(Clone, Debug)]
pub(super) struct Status {
    /// Not compared here, but see [`super::Numbers`].
    pub(super) id: FileId,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u64,
    /// `None` for directories.
    pub(super) size: Option<u64>,
    pub(super) block_size: u64,
    pub(super) mtime: (i64, u64),
    pub(super) device: u64,
}

impl PartialEq for Status {
    fn eq(&self, other: &Self) -> bool {
        let told = |status: &Status| {
            (
                (status.mode, status.uid, status.gid, status.nlink),
                (status.size, status.block_size, status.mtime, status.device),
            )
        };
        told(self) == told(other)
    }
}

/// An answer in a few words.
pub(super) fn describe(answer: &Result<Answer, Errno>) -> String {
    match answer {
        Ok(Answer::Bytes(bytes)) => {
            let shown = &bytes[..bytes.len().min(16)];
            format!("{} bytes: {shown:02x?}...", bytes.len())
        }
        Ok(Answer::Entries(entries)) => format!("{} entries", entries.len()),
        Ok(answer) => format!("{answer:?}"),
        Err(errno) => format!("{errno:?} ({errno})"),
    }
}

/// The second answer, and where it departs from the first.
pub(super) fn describe_difference(
    expected: &Result<Answer, Errno>,
    found: &Result<Answer, Errno>,
) -> String {
    let place = match (expected, found) {
        (Ok(Answer::Bytes(one)), Ok(Answer::Bytes(other))) => first_difference(one, other),
        (Ok(Answer::Entries(one)), Ok(Answer::Entries(other))) => first_difference(one, other),
        _ => None,
    };
    match (place, found) {
        (Some(place), Ok(Answer::Bytes(bytes))) => {
            let shown = bytes.get(place..).unwrap_or_default();
            let shown = &shown[..shown.len().min(16)];
            format!(
                "{} bytes, the first other one at {place}: {shown:02x?}...",
                bytes.len()
            )
        }
        (Some(place), _) => format!("{}, the first other one is {place}", describe(found)),
        (None, _) => describe(found),
    }
}

/// The place at which two lists differ first; that they have different lengths counts.
fn first_difference<T: PartialEq>(one: &[T], other: &[T]) -> Option<usize> {
    let common = one.iter().zip(other).position(|(one, other)| one != other);
    common.or((one.len() != other.len()).then(|| one.len().min(other.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
        let bytes = |bytes: &[u8]| Ok(Answer::Bytes(bytes.to_vec()));
        let text = describe_difference(&bytes(b"abc"), &bytes(b"abx"));
        assert_eq!(text, "3 bytes, the first other one at 2: [78]...");
    }
}
