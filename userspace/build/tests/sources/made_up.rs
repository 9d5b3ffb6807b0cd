// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Trees that are made up, and making them on the disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{lchown, symlink, FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use peerfs_build::{DeviceNumber, Kind, Metadata, XattrSet};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::{
    lsetxattr, makedev, mknodat, utimensat, AtFlags, FileType, Mode, Timespec, Timestamps,
    XattrFlags, CWD,
};

/// A file of a tree that is made up: its path, and what it is.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) metadata: Metadata,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Regular(Content),
    /// Another name of an earlier entry: its number.
    Link(usize),
    Other(Kind),
}

/// A file's size, and where it has which bytes.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
}

impl Content {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        for (start, piece) in &self.pieces {
            bytes[*start as usize..][..piece.len()].copy_from_slice(piece);
        }
        bytes
    }
}

impl Entry {
    pub(crate) fn xattr_set(&self) -> XattrSet {
        let mut set = XattrSet::default();
        for (name, value) in &self.xattrs {
            let name = name.as_bytes();
            set.insert(name, value.clone(), Path::new("")).unwrap();
        }
        set
    }
}

fn content() -> impl Strategy<Value = Content> {
    let hole = prop_oneof![
        3 => Just(0),
        1 => 0..100_000_u64,
        1 => (0..60_u64).prop_map(|blocks| blocks * 4096),
    ];
    let length = prop_oneof![3 => 0..200_usize, 1 => 0..30_000_usize];
    // The same bytes and zeros come about, too.
    let piece = (hole.clone(), length, 0..4_u8).prop_map(|(hole, length, seed)| {
        let mut state = u32::from(seed);
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(seed.into());
            (state >> 24) as u8
        });
        (hole, bytes.take(length).collect::<Vec<u8>>())
    });
    (vec(piece, 0..4), hole).prop_map(|(pieces, hole)| {
        let mut content = Content {
            size: 0,
            pieces: Vec::new(),
        };
        for (hole, bytes) in pieces {
            let start = content.size + hole;
            content.size = start + bytes.len() as u64;
            content.pieces.push((start, bytes));
        }
        content.size += hole;
        content
    })
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let time = (-2_000_000_000..2_000_000_000_i64, 0..1_000_000_000_u32);
    (0..=0o7777_u32, 0..70_000_u32, 0..70_000_u32, time).prop_map(
        |(permissions, uid, gid, (mtime_seconds, mtime_nanoseconds))| Metadata {
            permissions,
            uid,
            gid,
            mtime_seconds,
            mtime_nanoseconds,
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    let number = (0..=0xfff_u32, 0..=0xfffff_u32);
    let number = number.prop_map(|(major, minor)| DeviceNumber { major, minor });
    prop_oneof![
        4 => Just(Kind::Directory),
        2 => name().prop_map(Kind::SymbolicLink),
        1 => number.clone().prop_map(Kind::CharacterDevice),
        1 => number.prop_map(Kind::BlockDevice),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ]
}

/// Names that often come twice, and names of any bytes.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("a name has neither", |byte| !matches!(byte, 0 | b'/'));
    let odd = vec(byte, 1..=255).prop_filter("those are taken", |name| {
        !matches!(name.as_slice(), b"." | b"..")
    });
    prop_oneof![2 => "[a-e]".prop_map(String::into_bytes), 1 => odd]
}

/// A tree: the root first, directories before what is in them.
pub(crate) fn tree() -> impl Strategy<Value = Vec<Entry>> {
    #[derive(Clone, Debug)]
    enum New {
        Regular(Content),
        Link(Index),
        Other(Kind),
    }
    let new = prop_oneof![
        4 => content().prop_map(New::Regular),
        1 => any::<Index>().prop_map(New::Link),
        4 => kind().prop_map(New::Other),
    ];
    let names = prop_oneof![
        Just("user.a".to_owned()),
        Just("user.b".to_owned()),
        Just("trusted.c".to_owned())
    ];
    let value = prop_oneof![Just(b"same".to_vec()), vec(any::<u8>(), 0..300)];
    let xattrs = btree_map(names, value, 0..3);
    let entry = (any::<Index>(), name(), metadata(), xattrs, new);
    (metadata(), vec(entry, 0..30)).prop_map(|(root, entries)| {
        let mut tree = vec![Entry {
            path: Vec::new(),
            metadata: root,
            xattrs: BTreeMap::new(),
            what: What::Other(Kind::Directory),
        }];
        for (parent, name, metadata, xattrs, new) in entries {
            let is_directory = |entry: &&Entry| matches!(entry.what, What::Other(Kind::Directory));
            let directories: Vec<_> = tree.iter().filter(is_directory).collect();
            let parent = &parent.get(&directories).path;
            let path = match parent.as_slice() {
                b"" => name,
                parent => [parent, b"/", &name].concat(),
            };
            let files = (0..tree.len()).filter(|number| {
                !matches!(
                    tree[*number].what,
                    What::Link(_) | What::Other(Kind::Directory)
                )
            });
            let files: Vec<_> = files.collect();
            let what = match new {
                New::Regular(content) => What::Regular(content),
                New::Other(kind) => What::Other(kind),
                New::Link(_) if files.is_empty() => continue,
                New::Link(index) => What::Link(*index.get(&files)),
            };
            if tree.iter().all(|entry| entry.path != path) {
                tree.push(Entry {
                    path,
                    metadata,
                    xattrs,
                    what,
                });
            }
        }
        tree
    })
}

/// Whether this process may give files away, and make devices and attributes that only root can.
pub(crate) fn is_root(folder: &Path) -> bool {
    let probe = folder.join("probe");
    let number = makedev(1, 3);
    mknodat(
        CWD,
        &probe,
        FileType::CharacterDevice,
        Mode::empty(),
        number,
    )
    .is_ok()
        && lchown(&probe, Some(1), Some(1)).is_ok()
        && lsetxattr(&probe, "trusted.c", b"", XattrFlags::empty()).is_ok()
}

/// Takes out of a tree what Linux does not have, and what only root can make.
pub(crate) fn make_possible(tree: &mut [Entry], folder: &Path, is_root: bool) {
    let owner = fs::metadata(folder).unwrap();
    for entry in tree {
        if !matches!(entry.what, What::Regular(_) | What::Other(Kind::Directory)) {
            entry.xattrs.retain(|name, _| !name.starts_with("user."));
        }
        if matches!(entry.what, What::Other(Kind::SymbolicLink(_))) {
            entry.metadata.permissions = 0o777;
        }
        if is_root {
            continue;
        }
        entry.metadata.uid = owner.uid();
        entry.metadata.gid = owner.gid();
        entry.metadata.permissions |= 0o700;
        entry.xattrs.remove("trusted.c");
        if let What::Other(kind) = &mut entry.what {
            if matches!(kind, Kind::CharacterDevice(_) | Kind::BlockDevice(_)) {
                *kind = Kind::Fifo;
            }
        }
    }
}

/// Makes the tree at `root`, which does not exist.
pub(crate) fn make(tree: &[Entry], root: &Path) {
    let place = |path: &[u8]| root.join(OsStr::from_bytes(path));
    for entry in tree {
        let path = &place(&entry.path);
        let device = |kind, number: &DeviceNumber| {
            let number = makedev(number.major, number.minor);
            mknodat(CWD, path, kind, Mode::empty(), number).unwrap()
        };
        let none = DeviceNumber { major: 0, minor: 0 };
        match &entry.what {
            What::Regular(content) => {
                let file = File::create(path).unwrap();
                file.set_len(content.size).unwrap();
                for (start, bytes) in &content.pieces {
                    file.write_all_at(bytes, *start).unwrap();
                }
            }
            What::Link(number) => fs::hard_link(place(&tree[*number].path), path).unwrap(),
            What::Other(Kind::Directory) => fs::create_dir(path).unwrap(),
            What::Other(Kind::SymbolicLink(target)) => {
                symlink(OsStr::from_bytes(target), path).unwrap()
            }
            What::Other(Kind::CharacterDevice(number)) => device(FileType::CharacterDevice, number),
            What::Other(Kind::BlockDevice(number)) => device(FileType::BlockDevice, number),
            What::Other(Kind::Fifo) => device(FileType::Fifo, &none),
            What::Other(Kind::Socket) => device(FileType::Socket, &none),
        }
    }
    // What is made in a directory changes its time, and permissions that a user has not may be needed.
    for entry in tree
        .iter()
        .rev()
        .filter(|entry| !matches!(entry.what, What::Link(_)))
    {
        let path = place(&entry.path);
        let metadata = &entry.metadata;
        lchown(&path, Some(metadata.uid), Some(metadata.gid)).unwrap();
        for (name, value) in &entry.xattrs {
            lsetxattr(&path, name.as_str(), value, XattrFlags::empty()).unwrap();
        }
        if !matches!(entry.what, What::Other(Kind::SymbolicLink(_))) {
            fs::set_permissions(&path, Permissions::from_mode(metadata.permissions)).unwrap();
        }
        let time = Timespec {
            tv_sec: metadata.mtime_seconds,
            tv_nsec: metadata.mtime_nanoseconds.into(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}
