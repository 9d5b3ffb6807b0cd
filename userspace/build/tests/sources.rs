// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The same tree makes the same image, whatever source it comes from.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{lchown, symlink, FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use peerfs_build::{
    build, BuiltImage, ChunkSizes, DeviceNumber, DirectorySource, FileReader, Kind, Layout,
    Metadata, Options, Progress, ReadQueue, Result, SourceFile, Tree, TreeBuilder, TreeSource,
    XattrSet,
};
use peerfs_store::{Image, Store};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{
    lsetxattr, makedev, mknodat, utimensat, AtFlags, FileType, Mode, Timespec, Timestamps,
    XattrFlags, CWD,
};

/// A file of a tree that is made up: its path, and what it is.
#[derive(Clone, Debug)]
struct Entry {
    path: Vec<u8>,
    metadata: Metadata,
    xattrs: BTreeMap<String, Vec<u8>>,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Regular(Content),
    /// Another name of an earlier entry: its number.
    Link(usize),
    Other(Kind),
}

/// A file's size, and where it has which bytes.
#[derive(Clone, Debug)]
struct Content {
    size: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        for (start, piece) in &self.pieces {
            bytes[*start as usize..][..piece.len()].copy_from_slice(piece);
        }
        bytes
    }
}

impl Entry {
    fn xattr_set(&self) -> XattrSet {
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
fn tree() -> impl Strategy<Value = Vec<Entry>> {
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
fn is_root(folder: &Path) -> bool {
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
fn make_possible(tree: &mut [Entry], folder: &Path, is_root: bool) {
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
fn make(tree: &[Entry], root: &Path) {
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

/// The tree in memory, as an archive has it: in an order of its own, and with what is replaced later.
struct Archive<'t> {
    tree: &'t [Entry],
    /// Whether files are handed over as they come, and not in the tree's order.
    in_one_pass: bool,
}

struct ArchivedFile<'t> {
    content: &'t Content,
    xattrs: XattrSet,
}

impl<'t> Archive<'t> {
    /// A builder with all that is in the archive; `file` makes of a regular file what it keeps.
    fn fill<F>(
        &self,
        mut file: impl FnMut(ArchivedFile<'t>) -> Result<F>,
    ) -> Result<TreeBuilder<F>> {
        let mut builder = TreeBuilder::new(self.path());
        let is_directory = |entry: &&Entry| matches!(entry.what, What::Other(Kind::Directory));
        let (directories, others): (Vec<_>, Vec<_>) = self.tree.iter().partition(is_directory);
        for entry in &others {
            let path = [b"./", entry.path.as_slice()].concat();
            builder.add(&path, Metadata::default(), XattrSet::default(), Kind::Fifo)?;
        }
        for entry in others.iter().rev() {
            let xattrs = entry.xattr_set();
            match &entry.what {
                What::Regular(content) => {
                    let file = file(ArchivedFile { content, xattrs })?;
                    builder.add_file(&entry.path, entry.metadata, file)?;
                }
                What::Other(kind) => {
                    builder.add(&entry.path, entry.metadata, xattrs, kind.clone())?;
                }
                What::Link(_) => (),
            }
        }
        for entry in &others {
            if let What::Link(number) = entry.what {
                builder.link(&entry.path, &self.tree[number].path)?;
            }
        }
        for entry in directories.iter().rev() {
            let xattrs = entry.xattr_set();
            builder.add(&entry.path, entry.metadata, xattrs, Kind::Directory)?;
        }
        Ok(builder)
    }
}

impl<'t> TreeSource for Archive<'t> {
    type File = ArchivedFile<'t>;

    fn path(&self) -> &Path {
        Path::new("archive")
    }

    fn walk(self, queue: &mut ReadQueue<'_, ArchivedFile<'t>>) -> Result<Tree> {
        if self.in_one_pass {
            let builder = self.fill(|file| queue.add(file))?;
            builder.finish(queue, |_, file| Ok(file))
        } else {
            self.fill(Ok)?.finish(queue, ReadQueue::add)
        }
    }
}

impl SourceFile for ArchivedFile<'_> {
    type Reader = Self;

    fn size(&self) -> u64 {
        self.content.size
    }

    fn open(self) -> Result<Self> {
        Ok(self)
    }
}

impl FileReader for ArchivedFile<'_> {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.content.bytes();
        buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> Result<Range<u64>> {
        let pieces = self.content.pieces.iter();
        let mut pieces = pieces.map(|(start, bytes)| *start..start + bytes.len() as u64);
        let next = pieces.find(|piece| piece.end > offset);
        Ok(next.unwrap_or(self.content.size..self.content.size))
    }

    fn finish(self) -> Result<XattrSet> {
        Ok(self.xattrs)
    }
}

/// Many chunks and shards even of little.
fn options() -> Options {
    Options {
        layout: Layout {
            chunks: ChunkSizes {
                min: 1024,
                average: 4096,
                max: 8192,
            },
            large_file: 10_000,
            shard: 1000,
            ..Layout::default()
        },
        ..Options::default()
    }
}

fn build_from(source: impl TreeSource, store: &Arc<Store>) -> Result<BuiltImage> {
    build(source, store, &options(), &Progress::default())
}

#[test]
fn the_source_of_a_tree_is_not_seen_in_its_image() {
    // In the build's own folder: /tmp may be of a kind that has no user attributes.
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let store = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::create(&store.path().join("store")).unwrap());
    let is_root = is_root(folder.path());
    let root = folder.path().join("tree");
    let mut runner = TestRunner::new(Config::with_cases(40));
    let outcome = runner.run(&tree(), |mut tree| {
        make_possible(&mut tree, folder.path(), is_root);
        make(&tree, &root);
        let expected = build_from(DirectorySource::new(&root, &store), &store);
        fs::remove_dir_all(&root).unwrap();
        let expected = expected.unwrap();
        let in_one_pass = |in_one_pass| {
            let tree = tree.as_slice();
            build_from(Archive { tree, in_one_pass }, &store).unwrap()
        };
        prop_assert_eq!(in_one_pass(false).manifest, expected.manifest);
        let other = in_one_pass(true);
        prop_assert_eq!(other.inode_count, expected.inode_count);
        prop_assert_eq!(other.content_bytes, expected.content_bytes);
        let image = Image::open(store.clone(), &other.manifest).unwrap();
        for entry in &tree {
            if let What::Regular(content) = &entry.what {
                let file = image.lookup(&entry.path, false).unwrap();
                let mut read = Vec::new();
                let append = |bytes: &[u8]| {
                    read.extend_from_slice(bytes);
                    Ok::<_, peerfs_store::Error>(())
                };
                image.read(&file, 0, u64::MAX, append).unwrap();
                prop_assert!(read == content.bytes());
            }
        }
        Ok(())
    });
    outcome.unwrap();
}

/// The message that refuses a step of making a tree.
fn refusal(make: impl FnOnce(&mut TreeBuilder<ArchivedFile<'_>>) -> Result<()>) -> String {
    let mut builder = TreeBuilder::new(Path::new("archive"));
    builder
        .add(
            b"dir",
            Metadata::default(),
            XattrSet::default(),
            Kind::Directory,
        )
        .and_then(|()| {
            builder.add(
                b"dir/fifo",
                Metadata::default(),
                XattrSet::default(),
                Kind::Fifo,
            )
        })
        .unwrap();
    make(&mut builder).unwrap_err().to_string()
}

#[test]
fn what_no_image_can_have_is_refused_and_named() {
    let add = |path: &[u8], kind: Kind| {
        refusal(|builder| builder.add(path, Metadata::default(), XattrSet::default(), kind))
    };
    let device = |major, minor| Kind::CharacterDevice(DeviceNumber { major, minor });
    let long = [b'x'; 256];
    for (message, expected) in [
        (
            add(b"dir/../etc", Kind::Fifo),
            "archive/dir/../etc: no file",
        ),
        (add(b"..", Kind::Directory), "archive/..: no file"),
        (
            add(b"a\0b", Kind::Fifo),
            "archive/a\\0b: its name has a NUL",
        ),
        (add(&long, Kind::Directory), "256 bytes in its name"),
        (add(b"", Kind::Fifo), "archive: the root"),
        (add(b"dir/fifo/below", Kind::Fifo), "something on the way"),
        (
            add(b"a", Kind::SymbolicLink(Vec::new())),
            "0 bytes in its target",
        ),
        (
            add(b"a", Kind::SymbolicLink(vec![b'x'; 4096])),
            "4096 bytes in its target",
        ),
        (
            add(b"a", Kind::SymbolicLink(b"x\0".to_vec())),
            "target has a NUL",
        ),
        (add(b"a", device(0x1000, 0)), "4096 as its major number"),
        (
            add(b"a", device(0, 0x10_0000)),
            "1048576 as its minor number",
        ),
        (
            refusal(|builder| builder.link(b"a", b"dir")),
            "archive/a: it links",
        ),
        (
            refusal(|builder| builder.link(b"a", b"dir/none")),
            "archive/a: it links",
        ),
        (
            refusal(|builder| builder.link(b"dir/fifo/a", b"dir/fifo")),
            "something on the way",
        ),
    ] {
        assert!(message.contains(expected), "{message}");
    }
    let odd = [
        Metadata {
            permissions: 0o10000,
            ..Metadata::default()
        },
        Metadata {
            mtime_nanoseconds: 1_000_000_000,
            ..Metadata::default()
        },
    ];
    for metadata in odd {
        refusal(|builder| builder.add(b"a", metadata, XattrSet::default(), Kind::Fifo));
    }
}
