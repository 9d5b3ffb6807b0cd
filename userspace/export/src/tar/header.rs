// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The headers of a tar archive (POSIX pax, IEEE Std 1003.1), with what others have added to it: extended attributes as
//! `SCHILY.xattr.NAME`, and sparse files as GNU tar has them in its format 1.0.
//!
//! Written here and not by a crate, since the bytes are a promise: the digest of a layer depends on each of them.

use crate::walk::join;

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
/// The longest name or link target in a header; longer ones go into a pax record.
const NAME_MAX: usize = 100;
/// The largest numbers that fit.
const ID_MAX: u32 = 0o7777777;
const SIZE_MAX: u64 = 0o77777777777;

/// What an entry of an archive is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind<'a> {
    File,
    /// Another name of what has this path in the archive.
    HardLink(&'a [u8]),
    /// A link to this target.
    SymbolicLink(&'a [u8]),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Directory,
    Fifo,
    /// A file of which there are only these runs: where each begins, and its bytes.
    Sparse(&'a [(u64, u64)]),
}

/// An entry of an archive.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    /// Its path, of a directory with a slash at the end.
    pub(super) path: &'a [u8],
    pub(super) kind: Kind<'a>,
    /// Permission bits, and those for set-user-ID, set-group-ID and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Bytes of a file, holes included.
    pub(super) size: u64,
    /// Seconds since 1970, and nanoseconds after them.
    pub(super) mtime: (i64, u32),
    /// Full names and values.
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Entry<'_> {
    /// All blocks before the content.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut map = Vec::new();
        let mut path = self.path.to_vec();
        let mut length = self.size;
        let mut records = self.records();
        let link = match self.kind {
            Kind::HardLink(target) | Kind::SymbolicLink(target) => target,
            _ => b"",
        };
        if let Kind::Sparse(runs) = self.kind {
            map = encode_map(runs, self.size);
            length = map.len() as u64 + runs.iter().map(|(_, bytes)| bytes).sum::<u64>();
            // What reads the map takes the name from a record. Others see that it is not the file itself.
            path = join(b"GNUSparseFile.0", base_name(self.path));
        } else if path.len() > NAME_MAX {
            records.add(b"path", &path);
        }
        if link.len() > NAME_MAX {
            records.add(b"linkpath", link);
        }
        if length > SIZE_MAX {
            records.add(b"size", length.to_string().as_bytes());
        }
        let mut blocks = Vec::new();
        if !records.0.is_empty() {
            let name = join(b"PaxHeaders", base_name(self.path));
            blocks.extend(Header::new(&name, b'x', records.0.len() as u64).finish());
            blocks.extend(&records.0);
            pad(&mut blocks);
        }
        let mut header = Header::new(&path, self.type_flag(), length);
        header.number(100, 8, u64::from(self.mode));
        header.number(108, 8, u64::from(within(self.uid, ID_MAX)));
        header.number(116, 8, u64::from(within(self.gid, ID_MAX)));
        header.number(136, 12, self.header_time());
        header.text(157, NAME_MAX, link);
        if let Kind::CharacterDevice(major, minor) | Kind::BlockDevice(major, minor) = self.kind {
            header.number(329, 8, major.into());
            header.number(337, 8, minor.into());
        }
        blocks.extend(header.finish());
        blocks.extend(map);
        blocks
    }

    fn type_flag(&self) -> u8 {
        match self.kind {
            Kind::File | Kind::Sparse(_) => b'0',
            Kind::HardLink(_) => b'1',
            Kind::SymbolicLink(_) => b'2',
            Kind::CharacterDevice(..) => b'3',
            Kind::BlockDevice(..) => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        }
    }

    /// The pax records but for those of names and lengths.
    fn records(&self) -> Records {
        let mut records = Records(Vec::new());
        if let Kind::Sparse(_) = self.kind {
            records.add(b"GNU.sparse.major", b"1");
            records.add(b"GNU.sparse.minor", b"0");
            records.add(b"GNU.sparse.name", self.path);
            records.add(b"GNU.sparse.realsize", self.size.to_string().as_bytes());
        }
        let (seconds, nanoseconds) = self.mtime;
        if nanoseconds != 0 || u64::try_from(seconds).map_or(true, |seconds| seconds > SIZE_MAX) {
            records.add(b"mtime", decimal_time(seconds, nanoseconds).as_bytes());
        }
        for (key, id) in [(b"uid", self.uid), (b"gid", self.gid)] {
            if id > ID_MAX {
                records.add(key, id.to_string().as_bytes());
            }
        }
        for (name, value) in self.xattrs {
            let mut key = b"SCHILY.xattr.".to_vec();
            // What ends the key of a record is written as GNU tar does.
            for byte in name {
                match byte {
                    b'=' => key.extend(b"%3D"),
                    b'%' => key.extend(b"%25"),
                    byte => key.push(*byte),
                }
            }
            records.add(&key, value);
        }
        records
    }

    /// The time for those who do not read records.
    fn header_time(&self) -> u64 {
        u64::try_from(self.mtime.0).map_or(0, |seconds| seconds.min(SIZE_MAX))
    }
}

/// Records of a pax header: `LENGTH KEY=VALUE\n`, where the length is that of all of it.
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        // A space, an equals sign and the end of the line.
        let rest = key.len() + value.len() + 3;
        let digits = |number: usize| number.to_string().len();
        let mut length = rest + digits(rest);
        length = rest + digits(length);
        self.0.extend(format!("{length} ").into_bytes());
        self.0.extend(key);
        self.0.push(b'=');
        self.0.extend(value);
        self.0.push(b'\n');
    }
}

/// A header's block (ustar).
struct Header([u8; BLOCK]);

impl Header {
    /// That of root's, from 1970.
    fn new(path: &[u8], type_flag: u8, length: u64) -> Self {
        let mut header = Header([0; BLOCK]);
        header.text(0, NAME_MAX, path);
        header.number(100, 8, 0o644);
        header.number(108, 8, 0);
        header.number(116, 8, 0);
        header.number(124, 12, if length > SIZE_MAX { 0 } else { length });
        header.number(136, 12, 0);
        header.text(156, 1, &[type_flag]);
        header.text(257, 8, b"ustar\x0000");
        header.number(329, 8, 0);
        header.number(337, 8, 0);
        header
    }

    /// Puts as much of a text as fits.
    fn text(&mut self, place: usize, room: usize, text: &[u8]) {
        let fields = self.0.get_mut(place..place + room).unwrap_or_default();
        for (field, byte) in fields.iter_mut().zip(text) {
            *field = *byte;
        }
    }

    /// Puts a number that fits, in octal and with a NUL.
    fn number(&mut self, place: usize, room: usize, number: u64) {
        let digits = format!("{number:0width$o}\0", width = room - 1);
        self.text(place, room, digits.as_bytes());
    }

    fn finish(mut self) -> [u8; BLOCK] {
        // The sum is made with spaces in its place.
        self.text(148, 8, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.text(148, 8, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// A sparse file's map: the number of its runs, then where each begins and its bytes, a line each.
fn encode_map(runs: &[(u64, u64)], size: u64) -> Vec<u8> {
    let is_hole_last = runs
        .last()
        .is_none_or(|(start, length)| start + length < size);
    let end = is_hole_last.then_some((size, 0));
    let mut map = format!("{}\n", runs.len() + usize::from(is_hole_last)).into_bytes();
    for (start, length) in runs.iter().copied().chain(end) {
        map.extend(format!("{start}\n{length}\n").into_bytes());
    }
    pad(&mut map);
    map
}

/// Seconds with a fraction, such as `-0.5` for half a second before 1970.
fn decimal_time(seconds: i64, nanoseconds: u32) -> String {
    let (sign, seconds, nanoseconds) = match (seconds < 0, nanoseconds) {
        (true, 1..) => (
            "-",
            (seconds + 1).unsigned_abs(),
            1_000_000_000 - nanoseconds,
        ),
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A number that fits, or 0 for one that has a record.
fn within(number: u32, limit: u32) -> u32 {
    if number > limit {
        0
    } else {
        number
    }
}

/// The last name of a path.
fn base_name(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Fills a block up with zeros.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_fractions() {
        for (time, text) in [
            ((5, 0), "5"),
            ((5, 120_000_000), "5.12"),
            ((0, 1), "0.000000001"),
            ((-1, 999_999_999), "-0.000000001"),
            ((-2, 0), "-2"),
            ((-2, 250_000_000), "-1.75"),
            ((i64::MIN, 1), "-9223372036854775807.999999999"),
        ] {
            assert_eq!(decimal_time(time.0, time.1), text);
        }
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for length in [1, 80, 90, 91, 92, 985, 986, 987, 988, 9_975, 9_985, 65_536] {
            let mut records = Records(Vec::new());
            records.add(b"key", &vec![b'v'; length]);
            let text = String::from_utf8(records.0).unwrap();
            let (number, _) = text.split_once(' ').unwrap();
            assert_eq!(number.parse(), Ok(text.len()));
        }
    }

    #[test]
    fn a_map_ends_where_the_file_does() {
        assert!(encode_map(&[], 10).starts_with(b"1\n10\n0\n\0"));
        assert!(encode_map(&[(5, 5)], 10).starts_with(b"1\n5\n5\n\0"));
        assert!(encode_map(&[(5, 1)], 10).starts_with(b"2\n5\n1\n10\n0\n\0"));
        assert_eq!(encode_map(&[(5, 1)], 10).len(), BLOCK);
    }
}
