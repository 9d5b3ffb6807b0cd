// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A tree with everything that a tree can hold. The same on every machine, but for the root's owner.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{lchown, symlink, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use rustix::fs::{
    lsetxattr, makedev, mknodat, utimensat, AtFlags, FileType, Mode, Timespec, Timestamps,
    XattrFlags, CWD,
};

use crate::{Error, Result};

const KIB: usize = 1024;
const MIB: u64 = 1024 * 1024;

/// The sizes at which something changes: a page, and the shortest, average and longest chunk.
const BORDERS: [usize; 4] = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB];

/// Makes the tree in `root`, which must not exist.
pub(crate) fn make_tree(root: &Path, small: bool) -> Result<()> {
    let mut tree = Tree {
        rng: Rng::with_seed(0x7065_6572_6673),
        root: root.to_owned(),
    };
    tree.directory("")?;
    tree.contents(small)?;
    tree.sparse_files(small)?;
    tree.links(small)?;
    tree.special_files()?;
    tree.names()?;
    tree.modes_and_owners()?;
    tree.xattrs()?;
    tree.nesting(if small { 20 } else { 500 })?;
    if !small {
        tree.crowd("crowd", 5000)?;
    }
    // Last, since what is made in a directory changes its time.
    tree.times()
}

/// Makes a directory with this many entries, names of one inode each.
pub(crate) fn make_crowd(directory: &Path, entries: u32) -> Result<()> {
    let mut tree = Tree {
        rng: Rng::with_seed(1),
        root: directory.to_owned(),
    };
    tree.directory("")?;
    tree.crowd("crowd", entries)
}

struct Tree {
    root: PathBuf,
    rng: Rng,
}

impl Tree {
    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    fn directory(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir(&path).map_err(Error::io("create", &path))?;
        Ok(path)
    }

    fn file(&self, name: impl AsRef<Path>, content: &[u8]) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content).map_err(Error::io("write", &path))?;
        Ok(path)
    }

    fn random(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.rng.fill(&mut bytes);
        bytes
    }

    /// Words in a random order: compresses, but not to nothing.
    fn text(&mut self, length: usize) -> Vec<u8> {
        const WORDS: [&str; 8] = [
            "chunk ",
            "pack ",
            "index ",
            "shard ",
            "manifest ",
            "store ",
            "image\n",
            "verify\t",
        ];
        let mut bytes = Vec::with_capacity(length + 16);
        while bytes.len() < length {
            bytes.extend_from_slice(WORDS[self.rng.usize(..WORDS.len())].as_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    fn contents(&mut self, small: bool) -> Result<()> {
        self.directory("content")?;
        self.file("content/empty", b"")?;
        self.file("content/one-byte", b"x")?;
        for border in BORDERS {
            for size in [border - 1, border, border + 1] {
                let random = self.random(size);
                self.file(format!("content/random-{size}"), &random)?;
                if !small {
                    let text = self.text(size);
                    self.file(format!("content/text-{size}"), &text)?;
                    self.file(format!("content/zeros-{size}"), &vec![0; size])?;
                }
            }
        }
        let large = if small { 512 * KIB } else { 3072 * KIB };
        let text = self.text(large + 12_345);
        self.file("content/large-text", &text)?;
        let random = self.random(large + 54_321);
        self.file("content/large-random", &random)?;
        self.file("content/same-as-large-random", &random)?;
        // The same again behind other bytes: what content-defined chunks are for.
        let shifted = [b"shifted by these bytes".as_slice(), &random].concat();
        self.file("content/shifted-large-random", &shifted)?;
        for number in 0..if small { 20 } else { 200 } {
            let length = self.rng.usize(..3000);
            let text = self.text(length);
            self.file(format!("content/tiny-{number}"), &text)?;
        }
        Ok(())
    }

    fn sparse_files(&mut self, small: bool) -> Result<()> {
        self.directory("sparse")?;
        let data = self.random(100 * KIB);
        let make = |name: &str, size: u64, places: &[u64]| -> Result<()> {
            let path = self.root.join("sparse").join(name);
            let write = || -> std::io::Result<()> {
                let file = File::create(&path)?;
                file.set_len(size)?;
                for place in places {
                    let length = data.len().min((size - place) as usize);
                    file.write_all_at(&data[..length], *place)?;
                }
                Ok(())
            };
            write().map_err(Error::io("write", &path))
        };
        make("hole-first", MIB + 100 * KIB as u64, &[MIB])?;
        make("hole-between", 2 * MIB, &[0, 2 * MIB - 100 * KIB as u64])?;
        make("hole-last", 2 * MIB, &[0])?;
        make("hole-only", 3 * MIB + 77, &[])?;
        make("hole-to-odd-end", MIB + 777, &[64 * 1024])?;
        if !small {
            // Beyond 32 bits, with data at both sides of the border.
            let far = 4096 * MIB;
            let last = 4200 * MIB;
            make(
                "huge",
                last + 1,
                &[0, far - 65_536, far + MIB, last - 65_536],
            )?;
            make("huge-hole", 1024 * 1024 * MIB, &[])?;
        }
        Ok(())
    }

    fn links(&mut self, small: bool) -> Result<()> {
        self.directory("links")?;
        self.directory("links/elsewhere")?;
        let link =
            |from: &Path, to: &Path| fs::hard_link(from, to).map_err(Error::io("create", to));
        let first = self.file("links/name-0", b"one inode with many names")?;
        for number in 1..if small { 10 } else { 300 } {
            let folder = if number % 7 == 0 {
                "links/elsewhere"
            } else {
                "links"
            };
            link(&first, &self.path(format!("{folder}/name-{number}")))?;
        }
        let soft = |target: &OsStr, name: &str| -> Result<PathBuf> {
            let path = self.path(format!("links/{name}"));
            symlink(target, &path).map_err(Error::io("create", &path))?;
            Ok(path)
        };
        soft(OsStr::new("name-0"), "relative")?;
        soft(OsStr::new("/etc/passwd"), "absolute")?;
        soft(OsStr::new("elsewhere"), "to-directory")?;
        soft(OsStr::new("there is nothing"), "dangling")?;
        soft(OsStr::new("loop"), "loop")?;
        soft(OsStr::from_bytes(b"\xff\n not UTF-8"), "odd-target")?;
        soft(OsStr::new(&"t".repeat(63)), "target-63")?;
        soft(OsStr::new(&"x/".repeat(2047)), "target-4094")?;
        // PATH_MAX without its NUL.
        let longest = soft(
            OsStr::new(&format!("{}x", "y/".repeat(2047))),
            "target-4095",
        )?;
        link(&longest, &self.path("links/target-4095-again"))
    }

    fn special_files(&mut self) -> Result<()> {
        self.directory("special")?;
        let make = |name: &str, kind: FileType, device: u64| -> Result<PathBuf> {
            let path = self.path(format!("special/{name}"));
            mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), device)
                .map_err(Error::io("create", &path))?;
            Ok(path)
        };
        make("null", FileType::CharacterDevice, makedev(1, 3))?;
        make("disk", FileType::BlockDevice, makedev(8, 17))?;
        make(
            "largest-numbers",
            FileType::BlockDevice,
            makedev(4095, (1 << 20) - 1),
        )?;
        make(
            "minor-above-8-bits",
            FileType::CharacterDevice,
            makedev(259, 70_000),
        )?;
        let fifo = make("fifo", FileType::Fifo, 0)?;
        make("socket", FileType::Socket, 0)?;
        let again = self.path("special/fifo-again");
        fs::hard_link(&fifo, &again).map_err(Error::io("create", &again))
    }

    fn names(&mut self) -> Result<()> {
        self.directory("names")?;
        let longest = [b'n'; 255];
        let names: [&[u8]; 12] = [
            b" ",
            b"with space",
            b"new\nline",
            b"tab\tand \\ and \" and '",
            b"\xff\xfe not UTF-8",
            "f\u{fc}r \u{4e2d}\u{6587}".as_bytes(),
            b"...",
            b"-rf",
            b"*?[a]",
            b"a\x01b\x7f",
            &longest,
            b"\x01",
        ];
        for name in names {
            self.file(Path::new("names").join(OsStr::from_bytes(name)), name)?;
        }
        // A directory whose name sorts before and after others', byte by byte.
        for name in ["dir", "dir.", "dir-", "dir0", "Dir"] {
            self.directory(Path::new("names").join(name))?;
        }
        Ok(())
    }

    fn modes_and_owners(&mut self) -> Result<()> {
        self.directory("modes")?;
        for mode in [
            0o0, 0o1, 0o777, 0o644, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777,
        ] {
            let file = self.file(format!("modes/file-{mode:o}"), b"mode")?;
            let folder = self.directory(format!("modes/dir-{mode:o}"))?;
            for path in [file, folder] {
                // Before the mode: a change of the owner clears bits of it.
                lchown(&path, Some(mode + 1000), Some(mode + 2000))
                    .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
                    .map_err(Error::io("change", &path))?;
            }
        }
        let path = self.file("modes/largest-ids", b"")?;
        lchown(&path, Some(u32::MAX - 1), Some(u32::MAX - 1)).map_err(Error::io("change", &path))
    }

    fn xattrs(&mut self) -> Result<()> {
        self.directory("xattrs")?;
        let set = |path: &Path, name: &str, value: &[u8]| {
            lsetxattr(path, name, value, XattrFlags::empty())
                .map_err(Error::io("set an xattr of", path))
        };
        let long: Vec<u8> = self.random(3000);
        let every = self.file("xattrs/every-namespace", b"xattrs")?;
        set(&every, "user.empty", b"")?;
        set(&every, "user.binary", &[0, 255, 10, 0])?;
        set(&every, "user.long", &long)?;
        set(&every, "trusted.peerfs", b"trusted")?;
        set(&every, "security.peerfs", b"security")?;
        set(
            &every,
            &format!("user.{}", "n".repeat(250)),
            b"the longest name",
        )?;
        // VFS_CAP_REVISION_2 with the effective bit: CAP_NET_RAW permitted.
        let capability = [0x0200_0001_u32, 1 << 13, 0, 0, 0]
            .map(u32::to_le_bytes)
            .concat();
        let program = self.file("xattrs/capability", b"#!/bin/sh\n")?;
        set(&program, "security.capability", &capability)?;
        for number in 0..5 {
            let path = self.file(format!("xattrs/same-set-{number}"), b"")?;
            set(&path, "user.same", b"set")?;
            set(&path, "trusted.same", b"set")?;
        }
        let folder = self.directory("xattrs/acl-directory")?;
        set(&folder, "system.posix_acl_default", &acl(0o7, 0o5))?;
        set(&folder, "system.posix_acl_access", &acl(0o7, 0o1))?;
        // Has an ACL that it inherited.
        self.file("xattrs/acl-directory/heir", b"")?;
        let file = self.file("xattrs/acl-file", b"for user 1234 and group 5678")?;
        set(&file, "system.posix_acl_access", &acl(0o4, 0o4))?;
        let link = self.path("xattrs/link");
        symlink("every-namespace", &link).map_err(Error::io("create", &link))?;
        set(&link, "trusted.link", b"of the link itself")?;
        set(&self.root, "user.root", b"of the root")
    }

    fn nesting(&mut self, depth: usize) -> Result<()> {
        let mut path = PathBuf::from("deep");
        self.directory(&path)?;
        for level in 0..depth {
            path.push(format!("{}", level % 10));
            self.directory(&path)?;
        }
        self.file(path.join("bottom"), b"at the bottom")?;
        Ok(())
    }

    /// A directory with many entries, some of them with inodes of their own.
    fn crowd(&mut self, name: &str, entries: u32) -> Result<()> {
        self.directory(name)?;
        for number in 0..entries {
            let path = format!("{name}/entry-{number:07}");
            if number % 50 == 0 {
                self.file(&path, path.as_bytes())?;
            } else {
                let path = self.path(path);
                symlink("somewhere", &path).map_err(Error::io("create", &path))?;
            }
        }
        Ok(())
    }

    /// Times that are hard to keep, and for everything else those that are not today's.
    fn times(&mut self) -> Result<()> {
        let special: [(&str, i64, i64); 5] = [
            ("content/one-byte", -1, 999_999_999),
            ("content/empty", 0, 1),
            ("content/tiny-0", -2_000_000_000, 123_456_789),
            ("content/tiny-1", 4_294_967_296, 5),
            ("content/tiny-2", 5_000_000_000, 987_654_321),
        ];
        let paths = crate::entry::walk(&self.root).map_err(Error::io("read", &self.root))?;
        for path in paths {
            let chosen = special.iter().find(|(name, ..)| path == Path::new(name));
            let (seconds, nanoseconds) = match chosen {
                Some((_, seconds, nanoseconds)) => (*seconds, *nanoseconds),
                None => (
                    self.rng.i64(1_000_000_000..1_700_000_000),
                    self.rng.i64(0..1_000_000_000),
                ),
            };
            let time = Timespec {
                tv_sec: seconds,
                tv_nsec: nanoseconds,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            let path = self.root.join(path);
            utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(Error::io("set the time of", &path))?;
        }
        Ok(())
    }
}

/// An ACL with an entry for a user and a group, as the xattr has it.
fn acl(user: u16, group: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 6] = [
        (0x01, 0o7, NOBODY),
        (0x02, user, 1234),
        (0x04, 0o5, NOBODY),
        (0x08, group, 5678),
        (0x10, 0o7, NOBODY),
        (0x20, 0o0, NOBODY),
    ];
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}
