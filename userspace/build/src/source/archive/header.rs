// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The headers of a tar archive: blocks of 512 bytes, as POSIX's ustar, GNU tar, star and Unix V7 write them.
//!
//! Sources: POSIX.1-2017, `pax`, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format"; `tar(5)` of libarchive.

use super::sparse::Run;

/// Bytes of a block, which all of an archive consists of.
pub(super) const BLOCK: usize = 512;

/// What is wrong with an archive.
pub(super) type Problem = &'static str;

/// A block.
pub(super) type Block = [u8; BLOCK];

/// The type of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EntryType {
    /// A regular file; also one of a kind that POSIX wants to be taken for one.
    Regular,
    /// A regular file whose header says where its holes are, as old GNU tar has it.
    GnuSparse,
    /// Another name of a file.
    HardLink,
    SymbolicLink,
    CharacterDevice,
    BlockDevice,
    Directory,
    /// A directory with the names that are in it as its content.
    GnuDirectory,
    Fifo,
    /// Extended headers of the next entry.
    Pax,
    /// Extended headers of all entries that follow.
    PaxGlobal,
    /// The path of the next entry.
    GnuLongPath,
    /// The link target of the next entry.
    GnuLongLink,
    /// The name of the archive.
    Label,
}

/// A header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) entry_type: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) permissions: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Bytes that follow the header, without padding.
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) major: u32,
    pub(super) minor: u32,
    /// Of a [`EntryType::GnuSparse`].
    pub(super) sparse: Option<GnuSparse>,
}

/// What the header of a sparse file says in GNU's old format.
#[derive(Debug)]
pub(super) struct GnuSparse {
    /// The first runs of data.
    pub(super) runs: Vec<Run>,
    /// Whether a block with more of them follows.
    pub(super) is_continued: bool,
    /// Bytes of the file, holes included.
    pub(super) real_size: u64,
}

impl Header {
    /// Reads a header; None if the block is one of zeros, by which archives end.
    pub(super) fn parse(block: &Block) -> Result<Option<Self>, Problem> {
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        check_sum(block)?;
        let magic = part(block, 257, 8);
        let is_gnu = magic == b"ustar  \0";
        let is_posix = magic.starts_with(b"ustar\0");
        let mut path = text(part(block, 0, 100)).to_vec();
        if is_posix {
            // star has two times behind its prefix.
            let is_star = part(block, 508, 4) == b"tar\0";
            let prefix = text(part(block, 345, if is_star { 131 } else { 155 }));
            if !prefix.is_empty() {
                path = [prefix, b"/", &path].concat();
            }
        }
        let is_device_numbered = is_gnu || is_posix;
        let device = |start| match is_device_numbered {
            true => unsigned(part(block, start, 8), "a device number is no number"),
            false => Ok(0),
        };
        let entry_type = entry_type(part(block, 156, 1))?;
        let mode = number(part(block, 100, 8)).ok_or("its mode is no number")?;
        let size = unsigned(part(block, 124, 12), "its size is no number")?;
        let header = Header {
            entry_type,
            path,
            link: text(part(block, 157, 100)).to_vec(),
            permissions: (mode & 0o7777) as u32,
            uid: unsigned(part(block, 108, 8), "its owner is no number")?,
            gid: unsigned(part(block, 116, 8), "its group is no number")?,
            // Some write the size of the file that a link leads to.
            size: if entry_type.has_content() { size } else { 0 },
            mtime: number(part(block, 136, 12))
                .and_then(|mtime| i64::try_from(mtime).ok())
                .ok_or("its time is no number")?,
            major: narrow(device(329)?)?,
            minor: narrow(device(337)?)?,
            sparse: match entry_type {
                EntryType::GnuSparse => Some(GnuSparse {
                    runs: gnu_runs(part(block, 386, 96))?,
                    is_continued: block.get(482).is_some_and(|&byte| byte != 0),
                    real_size: unsigned(part(block, 483, 12), "its real size is no number")?,
                }),
                _ => None,
            },
        };
        Ok(Some(header))
    }
}

impl EntryType {
    fn has_content(self) -> bool {
        use EntryType::*;
        match self {
            Regular | GnuSparse | GnuDirectory | Pax | PaxGlobal | GnuLongPath | GnuLongLink
            | Label => true,
            HardLink | SymbolicLink | CharacterDevice | BlockDevice | Directory | Fifo => false,
        }
    }
}

/// The runs of data in a block that continues a header of GNU's old format, and whether another one follows.
pub(super) fn continued_runs(block: &Block) -> Result<(Vec<Run>, bool), Problem> {
    let is_continued = block.get(504).is_some_and(|&byte| byte != 0);
    Ok((gnu_runs(part(block, 0, 504))?, is_continued))
}

/// Runs up to the first that has no offset.
fn gnu_runs(bytes: &[u8]) -> Result<Vec<Run>, Problem> {
    const PROBLEM: Problem = "its map of holes has something that is no number";
    let records = bytes.chunks_exact(24);
    let used = records.take_while(|record| record.first() != Some(&0));
    used.map(|record| {
        Ok(Run {
            offset: unsigned(part(record, 0, 12), PROBLEM)?,
            length: unsigned(part(record, 12, 12), PROBLEM)?,
        })
    })
    .collect()
}

fn entry_type(flag: &[u8]) -> Result<EntryType, Problem> {
    Ok(match flag {
        // '7' asks for the file to be in one piece on the disk.
        [0 | b'0' | b'7'] => EntryType::Regular,
        b"1" => EntryType::HardLink,
        b"2" => EntryType::SymbolicLink,
        b"3" => EntryType::CharacterDevice,
        b"4" => EntryType::BlockDevice,
        b"5" => EntryType::Directory,
        b"6" => EntryType::Fifo,
        // Solaris had its own letter for them.
        b"x" | b"X" => EntryType::Pax,
        b"g" => EntryType::PaxGlobal,
        b"L" => EntryType::GnuLongPath,
        b"K" => EntryType::GnuLongLink,
        b"S" => EntryType::GnuSparse,
        b"D" => EntryType::GnuDirectory,
        b"V" => EntryType::Label,
        b"M" => return Err("it is the rest of a file that begins in another archive"),
        _ => return Err("it is of a type that is not known"),
    })
}

/// The sum of all bytes, its own taken as spaces. Some have added up signed ones.
fn check_sum(block: &Block) -> Result<(), Problem> {
    const PROBLEM: Problem = "there is no header of a tar archive, or its checksum is wrong";
    let expected = number(part(block, 148, 8)).ok_or(PROBLEM)?;
    let bytes = || {
        let bytes = block.iter().enumerate();
        bytes.map(|(place, &byte)| {
            if (148..156).contains(&place) {
                b' '
            } else {
                byte
            }
        })
    };
    let unsigned: i128 = bytes().map(i128::from).sum();
    let signed: i128 = bytes().map(|byte| i128::from(byte as i8)).sum();
    if expected == unsigned || expected == signed {
        Ok(())
    } else {
        Err(PROBLEM)
    }
}

/// A number: octal digits, among spaces and NULs, or binary if the highest bit is set.
fn number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        let is_blank = |byte: &u8| matches!(byte, 0 | b' ');
        let start = field.iter().position(|byte| !is_blank(byte));
        let Some(start) = start else { return Some(0) };
        let end = field.iter().rposition(|byte| !is_blank(byte))?;
        return octal(field.get(start..=end)?);
    }
    // Two's complement, of which the first bit is the one after the mark.
    let negative: i128 = if first & 0x40 == 0 { 0 } else { -1 };
    let head = (negative << 6) | i128::from(first & 0x3f);
    let rest = field.iter().skip(1);
    // At most twelve bytes.
    Some(rest.fold(head, |value, &byte| (value << 8) | i128::from(byte)))
}

fn octal(digits: &[u8]) -> Option<i128> {
    digits.iter().try_fold(0_i128, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i128::from(digit - b'0')),
        _ => None,
    })
}

fn unsigned(field: &[u8], problem: Problem) -> Result<u64, Problem> {
    let value = number(field).and_then(|value| u64::try_from(value).ok());
    value.ok_or(problem)
}

fn narrow(number: u64) -> Result<u32, Problem> {
    u32::try_from(number).map_err(|_| "its device number is too large")
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn part(bytes: &[u8], start: usize, length: usize) -> &[u8] {
    bytes.get(start..start + length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777", Some(0o77777777)),
            (b"\0\0\0\0", Some(0)),
            (b"    ", Some(0)),
            (b"\x80\0\0\0\0\x20\0\0", Some(1 << 21)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
                Some(-2),
            ),
            (b"0x12\0\0\0\0", None),
            (b"12 34\0\0\0", None),
            (b"-1\0", None),
            (b"888", None),
            (b"", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
        // More than any archive has, but no overflow.
        let most = [0xbf; 12];
        assert!(number(&most).is_some());
        assert!(unsigned(&most, "").is_err());
    }
}
