// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The same tree makes the same image, whatever source it comes from.

mod archives;
mod made_up;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use peerfs_build::{
    build, BuiltImage, ChunkSizes, DeviceNumber, DirectorySource, FileReader, Kind, Layout,
    Metadata, Options, Progress, ReadQueue, Result, SourceFile, Tree, TreeBuilder, TreeSource,
    XattrSet,
};
use peerfs_store::{Image, Store};
use proptest::test_runner::{Config, TestRunner};
use proptest::{prop_assert, prop_assert_eq};

use made_up::{is_root, make, make_possible, tree, Content, Entry, What};

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

/// A tree that a function makes.
struct Made(fn(&mut TreeBuilder<ArchivedFile<'static>>) -> Result<()>);

impl TreeSource for Made {
    type File = ArchivedFile<'static>;

    fn path(&self) -> &Path {
        Path::new("made")
    }

    fn walk(self, queue: &mut ReadQueue<'_, Self::File>) -> Result<Tree> {
        let mut builder = TreeBuilder::new(self.path());
        (self.0)(&mut builder)?;
        builder.finish(queue, ReadQueue::add)
    }
}

#[test]
fn what_comes_later_replaces_what_was_there() {
    static FILE: Content = Content {
        size: 20_000,
        pieces: Vec::new(),
    };
    const OTHER: Metadata = Metadata {
        permissions: 0o600,
        uid: 1,
        gid: 2,
        mtime_seconds: -3,
        mtime_nanoseconds: 4,
    };
    fn file() -> ArchivedFile<'static> {
        let xattrs = XattrSet::default();
        let content = &FILE;
        ArchivedFile { content, xattrs }
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::create(&folder.path().join("store")).unwrap());
    let digest = |made| build_from(Made(made), &store).unwrap().manifest;
    let expected = digest(|tree| {
        tree.add_file(b"kept", OTHER, file())?;
        tree.add(b"file", OTHER, XattrSet::default(), Kind::Fifo)?;
        tree.add(b"dir", OTHER, XattrSet::default(), Kind::Directory)?;
        tree.add_file(b"dir/below", OTHER, file())
    });
    let replaced = digest(|tree| {
        // Another name keeps what the first one had; a directory goes with all that is in it.
        tree.add_file(b"file", OTHER, file())?;
        tree.link(b"kept", b"file")?;
        tree.add(b"file", OTHER, XattrSet::default(), Kind::Directory)?;
        tree.add_file(b"file/below", OTHER, file())?;
        tree.add(b"file", OTHER, XattrSet::default(), Kind::Fifo)?;
        // A directory that is there keeps what is in it.
        tree.add_file(b"/dir//./below", OTHER, file())?;
        tree.add(b"dir", OTHER, XattrSet::default(), Kind::Directory)
    });
    assert_eq!(replaced, expected);
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
