// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Access control lists: from their text, as `acl(5)` has it, to the value of an extended attribute.
//!
//! Source of the value: `struct posix_acl_xattr_header` and `_entry` of Linux.

use super::header::Problem;

/// The extended attribute with the list that access is checked by.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// That with the list which new files in a directory get.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const PROBLEM: Problem = "its access control list is not what it should be";
const NAMES: Problem =
    "its access control list has names of users or groups; make the archive with --numeric-owner";
/// The version of the value.
const VERSION: u32 = 2;
/// The user or group of an entry that has none.
const NO_ID: u32 = u32::MAX;

/// The value of the attribute `name` for a list as text, its entries separated by commas or newlines. None for an empty
/// one, and for one of access that says no more than the mode does: the kernel does not keep that either.
pub(super) fn encode(name: &[u8], text: &[u8]) -> Result<Option<Vec<u8>>, Problem> {
    let text = std::str::from_utf8(text).map_err(|_| PROBLEM)?;
    let entries = text.split([',', '\n']).map(|entry| {
        // Behind a # are comments.
        entry.split('#').next().unwrap_or_default().trim()
    });
    let mut parsed = Vec::new();
    for entry in entries.filter(|entry| !entry.is_empty()) {
        parsed.push(parse(entry)?);
    }
    if parsed.is_empty() || (name == ACCESS && is_as_mode(&parsed)) {
        return Ok(None);
    }
    // The kernel wants them sorted.
    parsed.sort_unstable_by_key(|entry| (entry.tag, entry.id));
    let mut value = VERSION.to_le_bytes().to_vec();
    for entry in &parsed {
        value.extend(entry.tag.to_le_bytes());
        value.extend(entry.permissions.to_le_bytes());
        value.extend(entry.id.to_le_bytes());
    }
    Ok(Some(value))
}

struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

fn is_as_mode(entries: &[Entry]) -> bool {
    entries
        .iter()
        .all(|entry| matches!(entry.tag, 0x01 | 0x04 | 0x20))
}

fn parse(entry: &str) -> Result<Entry, Problem> {
    let mut fields = entry.split(':').map(str::trim);
    let mut next = || fields.next().ok_or(PROBLEM);
    let (kind, mut qualifier, mut permissions) = (next()?, next()?, next());
    let is_bare = matches!(kind, "mask" | "m" | "other" | "o");
    if is_bare && permissions.is_err() {
        (qualifier, permissions) = ("", Ok(qualifier));
    }
    // star writes the number behind the name.
    let number = fields.next().filter(|number| !number.is_empty());
    let id = |named: u16, own: u16| match (qualifier, number) {
        ("", _) => Ok((own, NO_ID)),
        (_, Some(number)) | (number, None) => match number.parse() {
            Ok(NO_ID) => Err(PROBLEM),
            Ok(id) => Ok((named, id)),
            Err(_) => Err(NAMES),
        },
    };
    let (tag, id) = match kind {
        "user" | "u" => id(0x02, 0x01)?,
        "group" | "g" => id(0x08, 0x04)?,
        "mask" | "m" if qualifier.is_empty() => (0x10, NO_ID),
        "other" | "o" if qualifier.is_empty() => (0x20, NO_ID),
        _ => return Err(PROBLEM),
    };
    let mut bits = 0;
    for letter in permissions?.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return Err(PROBLEM),
        };
    }
    Ok(Entry {
        tag,
        permissions: bits,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_the_kernel_has_them() {
        let value = encode(
            ACCESS,
            b"user::rw-,user:1000:r--,group::r-x,mask::r-x,other::---",
        )
        .unwrap();
        let expected = "02000000 01000600ffffffff 02000400e8030000 04000500ffffffff \
                        10000500ffffffff 20000000ffffffff";
        let hexadecimal: String = value
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hexadecimal, expected.replace(' ', ""));
        let of_star = encode(
            ACCESS,
            b"user::rw-\nuser:joe:r--:1000\ngroup::r-x\nmask::r-x\nother::---\n",
        );
        let of_gnu = encode(
            ACCESS,
            b"u::rw-,o::---,u:1000:r--\t#effective:r--,g::r-x,m::r-x",
        );
        assert_eq!(of_star, of_gnu);
        assert_eq!(encode(ACCESS, b"user::rw-,group::r--,other::---"), Ok(None));
        assert!(encode(DEFAULT, b"user::rw-,group::r--,other::---")
            .unwrap()
            .is_some());
        for wrong in [
            "user:joe:r--",
            "user",
            "x::rwx",
            "user::rwz",
            "mask:1:rwx",
            "user:4294967295:r",
        ] {
            assert!(encode(ACCESS, wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
