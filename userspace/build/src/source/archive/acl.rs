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
    "its access control list has names, which mean nothing elsewhere; have tar write numbers (--xattrs-include='*')";
/// The version of the value.
const VERSION: u32 = 2;
/// The user or group of an entry that has none.
const NO_ID: u32 = u32::MAX;

/// The value for a list as text, its entries separated by commas or newlines; None for an empty one.
pub(super) fn encode(text: &[u8]) -> Result<Option<Vec<u8>>, Problem> {
    let text = std::str::from_utf8(text).map_err(|_| PROBLEM)?;
    let entries = text.split([',', '\n']).map(|entry| {
        // Behind a # are comments.
        entry.split('#').next().unwrap_or_default().trim()
    });
    let mut parsed = Vec::new();
    for entry in entries.filter(|entry| !entry.is_empty()) {
        parsed.push(parse(entry)?);
    }
    if parsed.is_empty() {
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

/// What a list of access makes of a file, as the kernel does when the attribute is set.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Effect {
    /// The permission bits, the last nine.
    pub(super) permissions: u32,
    /// Whether the list says no more than they do, and is not kept.
    pub(super) is_as_mode: bool,
}

/// The effect of the list that a value of the attribute has.
pub(super) fn effect(value: &[u8]) -> Result<Effect, Problem> {
    let (version, entries) = value.split_first_chunk().ok_or(PROBLEM)?;
    let entries = entries.chunks(8);
    if u32::from_le_bytes(*version) != VERSION {
        return Err(PROBLEM);
    }
    let (mut user, mut group, mut mask, mut other) = (None, None, None, None);
    let mut is_as_mode = true;
    for entry in entries {
        let [tag, tag_high, permissions, 0, _, _, _, _] = *entry else {
            return Err(PROBLEM);
        };
        if permissions > 7 {
            return Err(PROBLEM);
        }
        let place = match u16::from_le_bytes([tag, tag_high]) {
            USER_OWN => &mut user,
            GROUP_OWN => &mut group,
            MASK => &mut mask,
            OTHER => &mut other,
            USER | GROUP => {
                is_as_mode = false;
                continue;
            }
            _ => return Err(PROBLEM),
        };
        *place = Some(u32::from(permissions));
    }
    let (Some(user), Some(group), Some(other)) = (user, group, other) else {
        return Err(PROBLEM);
    };
    Ok(Effect {
        permissions: (user << 6) | (mask.unwrap_or(group) << 3) | other,
        is_as_mode: is_as_mode && mask.is_none(),
    })
}

struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

const USER_OWN: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OWN: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

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
        "user" | "u" => id(USER, USER_OWN)?,
        "group" | "g" => id(GROUP, GROUP_OWN)?,
        "mask" | "m" if qualifier.is_empty() => (MASK, NO_ID),
        "other" | "o" if qualifier.is_empty() => (OTHER, NO_ID),
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
        let value = encode(b"user::rw-,user:1000:r--,group::r-x,mask::r-x,other::---").unwrap();
        let expected = "02000000 01000600ffffffff 02000400e8030000 04000500ffffffff \
                        10000500ffffffff 20000000ffffffff";
        let hexadecimal: String = value
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hexadecimal, expected.replace(' ', ""));
        let of_star = encode(b"user::rw-\nuser:joe:r--:1000\ngroup::r-x\nmask::r-x\nother::---\n");
        let of_gnu = encode(b"u::rw-,o::---,u:1000:r--\t#effective:r--,g::r-x,m::r-x");
        assert_eq!(of_star, of_gnu);
        assert_eq!(encode(b"\n"), Ok(None));
        for wrong in [
            "user:joe:r--",
            "user",
            "x::rwx",
            "user::rwz",
            "mask:1:rwx",
            "user:4294967295:r",
        ] {
            assert!(encode(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_of_access_decide_on_the_mode() {
        let of = |text: &[u8]| effect(&encode(text).unwrap().unwrap());
        let found = |permissions, is_as_mode| {
            Ok(Effect {
                permissions,
                is_as_mode,
            })
        };
        assert_eq!(of(b"u::rw-,g::r--,o::---"), found(0o640, true));
        assert_eq!(
            of(b"u::rw-,u:7:rwx,g::---,m::r-x,o::r--"),
            found(0o654, false)
        );
        assert_eq!(of(b"u::rw-,g::r--"), Err(PROBLEM));
        for wrong in [
            &b""[..],
            b"\x02\0\0",
            b"\x01\0\0\0",
            b"\x02\0\0\0\x01\0\x07\0",
        ] {
            assert_eq!(effect(wrong), Err(PROBLEM), "{wrong:?}");
        }
    }
}
