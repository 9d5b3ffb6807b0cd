// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Extended headers: records of keywords and values, which say what does not fit into a header.
//!
//! Sources: POSIX.1-2017, `pax`, "pax Extended Header"; `tar(5)` of libarchive; star's `star(5)` (SCHILY).

use std::collections::BTreeMap;
use std::mem;

use super::acl;
use super::header::Problem;
use super::sparse::{add_run, decimal, Run};

/// The values of extended attributes by their full names.
type Values = BTreeMap<Vec<u8>, Vec<u8>>;

/// What extended headers say of an entry. Of a keyword that comes twice the last one counts.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds, and nanoseconds after them.
    pub(super) mtime: Option<(i64, u32)>,
    xattrs: Values,
    /// Access control lists as text, by the names of their attributes.
    acls: BTreeMap<&'static [u8], Vec<u8>>,
    pub(super) sparse: SparseKeywords,
}

/// What they say of a sparse file.
#[derive(Debug, Default)]
pub(super) struct SparseKeywords {
    /// Its path in formats 0.1 and 1.0, in which the entry's own is made up.
    name: Option<Vec<u8>>,
    /// Its bytes, holes included.
    real_size: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
    /// Formats 0.0 and 0.1.
    runs: Vec<Run>,
    offset: Option<u64>,
}

/// A sparse file of one of the formats.
#[derive(Debug)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: u64,
    /// None if they are in front of the data.
    pub(super) runs: Option<Vec<Run>>,
}

impl Extensions {
    /// Adds what an extended header of the next entry says.
    pub(super) fn add(&mut self, records: &[u8]) -> Result<(), Problem> {
        each_record(records, |key, value| self.set(key, value))
    }

    /// Adds what a header says of all entries that follow. Of those that somebody writes all concern people.
    pub(super) fn add_global(&mut self, records: &[u8]) -> Result<(), Problem> {
        const ONES: [&[u8]; 3] = [b"mtime", b"uid", b"gid"];
        const NOT_FOR_ALL: [&[u8]; 4] = [b"path", b"linkpath", b"size", b"GNU.sparse."];
        each_record(records, |key, value| {
            if ONES.contains(&key) {
                return self.set(key, value);
            }
            let is_prefixed = |prefix: &[u8]| key.starts_with(prefix);
            if NOT_FOR_ALL.iter().any(|prefix| is_prefixed(prefix))
                || is_prefixed(b"SCHILY.xattr.")
                || is_prefixed(b"SCHILY.acl.")
                || is_prefixed(b"LIBARCHIVE.xattr.")
            {
                return Err("an extended header gives all entries what only one can have");
            }
            Ok(())
        })
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let is_empty = value.is_empty();
        let number = |problem| match is_empty {
            true => Ok(None),
            false => decimal(value).map(Some).ok_or(problem),
        };
        let bytes = || {
            Some(value)
                .filter(|value| !value.is_empty())
                .map(<[u8]>::to_vec)
        };
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = number("its size is no number")?,
            b"uid" => self.uid = number("its owner is no number")?,
            b"gid" => self.gid = number("its group is no number")?,
            b"mtime" => {
                self.mtime = match is_empty {
                    true => None,
                    false => Some(time(value).ok_or("its time is no number")?),
                }
            }
            b"SCHILY.acl.access" => {
                self.acls.insert(acl::ACCESS, value.to_vec());
            }
            b"SCHILY.acl.default" => {
                self.acls.insert(acl::DEFAULT, value.to_vec());
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(keyword_decoded(name), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    const PROBLEM: Problem = "an extended attribute is encoded wrongly";
                    let name = percent_decoded(name).ok_or(PROBLEM)?;
                    let value = base64_decoded(value).ok_or(PROBLEM)?;
                    // Whoever writes both means the same.
                    self.xattrs.entry(name).or_insert(value);
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value)?;
                }
            }
        }
        Ok(())
    }

    /// The extended attributes, and the permissions as the access control list has them that is among these.
    pub(super) fn xattrs(&mut self, permissions: u32) -> Result<(Values, u32), Problem> {
        let mut xattrs = mem::take(&mut self.xattrs);
        for (name, text) in mem::take(&mut self.acls) {
            // Whoever writes both means the same, and the attribute has no names that mean nothing elsewhere.
            if !xattrs.contains_key(name) {
                if let Some(value) = acl::encode(&text)? {
                    xattrs.insert(name.to_vec(), value);
                }
            }
        }
        let mut permissions = permissions;
        if let Some(value) = xattrs.get(acl::ACCESS) {
            let effect = acl::effect(value)?;
            permissions = (permissions & 0o7000) | effect.permissions;
            if effect.is_as_mode {
                xattrs.remove(acl::ACCESS);
            }
        }
        Ok((xattrs, permissions))
    }
}

impl SparseKeywords {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        const PROBLEM: Problem = "its map of holes has something that is no number";
        let number = || decimal(value).ok_or(PROBLEM);
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(number()?),
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"offset" => self.offset = Some(number()?),
            b"numbytes" => {
                let offset = self.offset.take();
                let offset = offset.ok_or("its map of holes has a length without an offset")?;
                let length = number()?;
                add_run(&mut self.runs, Run { offset, length })?;
            }
            b"map" => {
                self.runs.clear();
                let mut numbers = value.split(|&byte| byte == b',');
                while let Some(offset) = numbers.next().filter(|text| !text.is_empty()) {
                    let offset = decimal(offset).ok_or(PROBLEM)?;
                    let length = numbers.next().and_then(decimal).ok_or(PROBLEM)?;
                    add_run(&mut self.runs, Run { offset, length })?;
                }
            }
            _ => (),
        }
        Ok(())
    }

    /// The sparse file that they describe, if they do.
    pub(super) fn sparse(self) -> Result<Option<Sparse>, Problem> {
        let in_front = match (self.major, self.minor) {
            (None | Some(0), _) => false,
            (Some(1), None | Some(0)) => true,
            _ => return Err("it is a sparse file of a format that is not known"),
        };
        let Some(real_size) = self.real_size else {
            return match self.runs.is_empty() && !in_front {
                true => Ok(None),
                false => Err("it is a sparse file without a size"),
            };
        };
        Ok(Some(Sparse {
            name: self.name,
            real_size,
            runs: (!in_front).then_some(self.runs),
        }))
    }
}

/// Calls `act` with the keyword and value of each record: its length in decimal, a space, `keyword=value`, a newline.
fn each_record(
    mut records: &[u8],
    mut act: impl FnMut(&[u8], &[u8]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    const PROBLEM: Problem = "an extended header is not what it should be";
    // Some pad with NULs.
    while !records.is_empty() && records.iter().any(|&byte| byte != 0) {
        let space = records.iter().take(20).position(|&byte| byte == b' ');
        let (digits, _) = records.split_at(space.ok_or(PROBLEM)?);
        let length = decimal(digits).and_then(|length| usize::try_from(length).ok());
        let record = records.get(..length.ok_or(PROBLEM)?).ok_or(PROBLEM)?;
        let text = record.get(digits.len() + 1..).ok_or(PROBLEM)?;
        let text = text.strip_suffix(b"\n").ok_or(PROBLEM)?;
        let equals = text.iter().position(|&byte| byte == b'=').ok_or(PROBLEM)?;
        let (key, value) = text.split_at(equals);
        act(key, value.get(1..).unwrap_or_default())?;
        records = records.get(record.len()..).unwrap_or_default();
    }
    Ok(())
}

/// Seconds since 1970 with a fraction, which is cut off after the nanoseconds: towards the past.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (seconds, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(point) => (text.get(..point)?, text.get(point + 1..)?),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = match seconds {
        b"" if !fraction.is_empty() => 0,
        _ => i64::try_from(decimal(seconds)?).ok()?,
    };
    let digits = fraction.iter().map(|digit| u32::from(digit - b'0'));
    let nanoseconds = digits.chain(std::iter::repeat(0)).take(9);
    let nanoseconds = nanoseconds.fold(0, |value, digit| value * 10 + digit);
    let is_cut = fraction.iter().skip(9).any(|&digit| digit != b'0');
    if !is_negative {
        return Some((seconds, nanoseconds));
    }
    match nanoseconds + u32::from(is_cut) {
        0 => Some((-seconds, 0)),
        nanoseconds => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

/// A name in which GNU tar has written `%3D` for an equals sign, which would end the keyword, and `%25` for a percent sign.
/// Whatever else there is stays.
fn keyword_decoded(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, behind)) = rest.split_first() {
        let (byte, behind) = match behind.split_at_checked(2) {
            Some((b"3D", behind)) if first == b'%' => (b'=', behind),
            Some((b"25", behind)) if first == b'%' => (b'%', behind),
            _ => (first, behind),
        };
        decoded.push(byte);
        rest = behind;
    }
    decoded
}

/// A name in which `%` and two hexadecimal digits stand for a byte.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(*bytes.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    Some(decoded)
}

/// Bytes from base64, whose padding is often left out.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|&byte| byte != b'=');
    let text = text.get(..end.map_or(0, |end| end + 1))?;
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for &letter in group {
            let value = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = (bits << 6) | u32::from(value);
        }
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        let count = match group.len() {
            1 => return None,
            length => length - 1,
        };
        decoded.extend(bytes.iter().skip(1).take(count));
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let length = (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length);
        [length.unwrap().to_string().as_bytes(), &rest].concat()
    }

    #[test]
    fn times_are_cut_towards_the_past() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1234567890.123456789", Some((1_234_567_890, 123_456_789))),
            ("1.5", Some((1, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            (".5", Some((0, 500_000_000))),
            ("-1", Some((-1, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.0000000001", Some((-1, 999_999_999))),
            ("-9223372036854775807", Some((-i64::MAX, 0))),
            ("9223372036854775808", None),
            ("1.2.3", None),
            ("1e3", None),
            ("--1", None),
            (".", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn values_are_bytes() {
        let mut extensions = Extensions::default();
        let value = b"\0a=b\n\xff";
        let records = [
            record("path", b"first"),
            record("path", value),
            record("SCHILY.xattr.user.empty", b""),
            record("LIBARCHIVE.xattr.user.a%20b", b"AP8"),
            record("SCHILY.xattr.user.a%3Db%253D%2", b""),
            record("uid", b"4294967294"),
            record("uid", b""),
        ]
        .concat();
        extensions.add(&records).unwrap();
        assert_eq!(extensions.path.as_deref(), Some(&value[..]));
        assert_eq!(extensions.uid, None);
        assert_eq!(extensions.xattrs[&b"user.empty"[..]], b"");
        assert_eq!(extensions.xattrs[&b"user.a b"[..]], b"\0\xff");
        assert!(extensions.xattrs.contains_key(&b"user.a=b%3D%2"[..]));
    }

    #[test]
    fn wrong_records_are_refused() {
        for wrong in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"99999999999999999999 a=b\n",
            b"6 a=b",
            b"a=b\n",
            b"0 \n",
            b"5 ab\n",
            b"-6 a=b\n",
        ] {
            assert!(Extensions::default().add(wrong).is_err(), "{wrong:?}");
        }
        for record in [record("size", b"-1"), record("uid", b"1.5")] {
            assert!(Extensions::default().add(&record).is_err());
        }
        let path = record("path", b"x");
        assert!(Extensions::default().add_global(&path).is_err());
        let comment = record("comment", b"of git");
        assert!(Extensions::default().add_global(&comment).is_ok());
    }

    #[test]
    fn base64_may_be_padded() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg", b"f"),
            ("Zg==", b"f"),
            ("Zm9v", b"foo"),
        ] {
            assert_eq!(base64_decoded(text.as_bytes()).as_deref(), Some(bytes));
        }
        assert_eq!(base64_decoded(b"Z"), None);
        assert_eq!(base64_decoded(b"Z\n"), None);
    }
}
