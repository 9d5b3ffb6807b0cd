// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The architecture that the programs of an image are for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The longest name.
const NAME_MAX: usize = 64;

/// An architecture as OCI names it, which is what Go calls it: `amd64`, `arm64`; or `unknown`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Architecture(String);

impl Architecture {
    /// Bytes of a program that say what it is for.
    pub const ELF_HEADER: usize = 20;

    /// That of an image that has no programs, or as many for one as for another.
    pub fn unknown() -> Self {
        Architecture("unknown".to_owned())
    }

    /// The architecture that most of these programs are for.
    pub fn of_most(programs: impl IntoIterator<Item = Architecture>) -> Self {
        let mut counts: BTreeMap<Architecture, u64> = BTreeMap::new();
        for program in programs {
            *counts.entry(program).or_default() += 1;
        }
        let most = counts.values().copied().max();
        let mut found = counts
            .into_iter()
            .filter(|(_, count)| Some(*count) == most)
            .map(|(architecture, _)| architecture);
        match (found.next(), found.next()) {
            (Some(architecture), None) => architecture,
            _ => Self::unknown(),
        }
    }

    /// The architecture of a program, by its first [`Architecture::ELF_HEADER`] bytes; None if it is no ELF file, or
    /// for a processor that has no name in OCI.
    pub fn of_elf(header: &[u8]) -> Option<Self> {
        let header: &[u8; Self::ELF_HEADER] = header.first_chunk()?;
        let [0x7f, b'E', b'L', b'F', class, order, ..] = *header else {
            return None;
        };
        let machine = [header[18], header[19]];
        let (machine, is_little) = match order {
            1 => (u16::from_le_bytes(machine), true),
            2 => (u16::from_be_bytes(machine), false),
            _ => return None,
        };
        let is_64 = class == 2;
        // Numbers of the ELF specification's e_machine.
        let name = match (machine, is_64, is_little) {
            (3, ..) => "386",
            (62, ..) => "amd64",
            (40, ..) => "arm",
            (183, ..) => "arm64",
            (8, false, false) => "mips",
            (8, false, true) => "mipsle",
            (8, true, false) => "mips64",
            (8, true, true) => "mips64le",
            (20, ..) => "ppc",
            (21, _, false) => "ppc64",
            (21, _, true) => "ppc64le",
            (22, false, _) => "s390",
            (22, true, _) => "s390x",
            (2, ..) => "sparc",
            (43, ..) => "sparc64",
            (243, false, _) => "riscv",
            (243, true, _) => "riscv64",
            (258, true, _) => "loong64",
            _ => return None,
        };
        Some(Architecture(name.to_owned()))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Architecture {
    type Err = String;

    /// Accepts what OCI's names look like, for there will be others.
    fn from_str(name: &str) -> Result<Self, String> {
        let is_valid = (1..=NAME_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if is_valid {
            Ok(Architecture(name.to_owned()))
        } else {
            Err("a name as OCI has it is expected, such as amd64 or arm64".to_owned())
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(class: u8, order: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut header = vec![0x7f, b'E', b'L', b'F', class, order];
        header.resize(18, 0);
        header.extend(machine);
        header
    }

    #[test]
    fn programs_say_what_they_are_for() {
        let of = |class, order, machine| {
            let found = Architecture::of_elf(&header(class, order, machine));
            found.map(|architecture| architecture.to_string())
        };
        assert_eq!(of(2, 1, [62, 0]).unwrap(), "amd64");
        assert_eq!(of(2, 1, [183, 0]).unwrap(), "arm64");
        assert_eq!(of(2, 2, [0, 21]).unwrap(), "ppc64");
        assert_eq!(of(2, 1, [21, 0]).unwrap(), "ppc64le");
        assert_eq!(of(2, 2, [0, 22]).unwrap(), "s390x");
        assert_eq!(of(2, 1, [2, 1]).unwrap(), "loong64");
        // Bytes in the other order, no such processor, no such order.
        assert_eq!(of(2, 2, [62, 0]), None);
        assert_eq!(of(2, 1, [0xff, 0xff]), None);
        assert_eq!(of(2, 3, [62, 0]), None);
        assert_eq!(Architecture::of_elf(b"#!/bin/sh\nexec something"), None);
        assert_eq!(Architecture::of_elf(&header(2, 1, [62, 0])[..19]), None);
    }

    #[test]
    fn the_most_programs_decide() {
        let of = |names: &[&str]| {
            let programs = names.iter().map(|name| name.parse().unwrap());
            Architecture::of_most(programs).to_string()
        };
        assert_eq!(of(&["arm64", "386", "386"]), "386");
        assert_eq!(of(&["arm64", "386", "386", "arm64"]), "unknown");
        assert_eq!(of(&[]), "unknown");
    }

    #[test]
    fn names_are_those_of_oci() {
        for name in ["amd64", "arm64", "386", "unknown"] {
            assert_eq!(name.parse::<Architecture>().unwrap().as_str(), name);
        }
        for name in ["", "x86_64", "AMD64", "a b", &"a".repeat(65)] {
            assert!(name.parse::<Architecture>().is_err(), "{name:?}");
        }
    }
}
