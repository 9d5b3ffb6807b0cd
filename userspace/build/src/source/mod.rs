// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The sources of trees.

mod archive;
mod directory;
mod puzzlefs;

use std::ops::Range;
use std::path::{Path, PathBuf};

use peerfs_format::{FileType, NAME_MAX, SYMLINK_MAX};

use crate::read::ReadQueue;
use crate::tree::Tree;
use crate::xattrs::XattrSet;
use crate::{Error, Result};

pub use archive::{
    ArchiveFile, ArchiveTree, Blob, Layer, LayersSource, Limits, Promise, ReadProgress,
};
pub use directory::{Attributes, DirectorySource, Owner, PatternError};
pub use puzzlefs::{PuzzleFile, PuzzleFsSource, ReadBlob};

/// A tree that an image is built from.
///
/// [`build`](crate::build()) calls [`walk`](TreeSource::walk) on a thread of its own. It hands the regular files
/// over to a [`ReadQueue`], where [`Options::threads`](crate::Options::threads) other threads read those that
/// came first while it looks for the next ones, and returns the [`Tree`] that a
/// [`TreeBuilder`](crate::TreeBuilder) made.
///
/// # What the stages behind it need
/// Of a file its size, before it is read, and its bytes once, from the first one to the last. It is opened by
/// whichever thread comes to it, some time after it was handed over; only holes that the source knows of may
/// be passed over, and which those are is not seen in the image.
///
/// Content is stored in the order in which files were handed over. If it is the order of the tree, as
/// [`TreeBuilder::finish`](crate::TreeBuilder::finish) has it, the same tree makes the same image, whatever it
/// comes from: images of different sources share their packs, and digests can be compared.
///
/// # Sources that can open any file
/// Where a file's content is makes a good [`SourceFile`]: an open directory and a name, a range of an archive that
/// is not compressed, bytes in memory. The walk fills a builder with them and finishes it with
/// [`ReadQueue::add`], as the example does.
///
/// # Sources that can be read in order only
/// A compressed archive tells of its files in an order of its own, and only at its end which names they have:
/// a later entry replaces an earlier one, or links to it. There are two ways.
///
/// - **Two passes.** The walk writes content to a temporary file as it comes, and fills a builder with where it
///   put it. From there on it is a source that can open any file. The image is that of the tree.
/// - **One pass.** The walk hands each file over as it comes, and fills a builder with the
///   [`QueuedFile`](crate::QueuedFile)s. A file of [`Layout::large_file`](crate::Layout::large_file) bytes or more
///   goes to a reader at once, so that its content may come through a bounded channel, which the walk fills next
///   (if nobody listens any more, the build has failed); a shorter one has to have its content with it, since it
///   waits for others. The image depends on the order of the archive, and what was replaced in it is stored
///   for nobody.
///
/// # Example
/// Files in memory:
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use peerfs_build::{
///     build, FileReader, Metadata, Options, Progress, ReadQueue, Result, SourceFile, Tree, TreeBuilder,
///     TreeSource, XattrSet,
/// };
/// use peerfs_store::Store;
///
/// struct Bytes(&'static [u8]);
///
/// impl SourceFile for Bytes {
///     type Reader = Self;
///
///     fn size(&self) -> u64 {
///         self.0.len() as u64
///     }
///
///     fn open(self) -> Result<Self> {
///         Ok(self)
///     }
/// }
///
/// impl FileReader for Bytes {
///     fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
///         buffer.copy_from_slice(&self.0[offset as usize..][..buffer.len()]);
///         Ok(())
///     }
///
///     fn finish(self) -> Result<XattrSet> {
///         Ok(XattrSet::default())
///     }
/// }
///
/// struct Files(Vec<(&'static str, &'static str)>);
///
/// impl TreeSource for Files {
///     type File = Bytes;
///
///     fn path(&self) -> &Path {
///         Path::new("memory:")
///     }
///
///     fn walk(self, queue: &mut ReadQueue<'_, Bytes>) -> Result<Tree> {
///         let mut builder = TreeBuilder::new(self.path());
///         for (path, content) in self.0 {
///             let metadata = Metadata { permissions: 0o644, ..Metadata::default() };
///             builder.add_file(path.as_bytes(), metadata, Bytes(content.as_bytes()))?;
///         }
///         builder.finish(queue, ReadQueue::add)
///     }
/// }
///
/// # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = Arc::new(Store::create(&folder.path().join("store"))?);
/// let files = Files(vec![("etc/hostname", "here\n"), ("etc/motd", "Welcome.\n")]);
/// let image = build(files, &store, &Options::default(), &Progress::default())?;
/// assert_eq!(image.inode_count, 4);
/// # Ok(())
/// # }
/// ```
pub trait TreeSource: Send {
    /// A regular file that can be opened.
    type File: SourceFile;

    /// The tree's name in messages, which its files' names begin with.
    fn path(&self) -> &Path;

    /// Hands all regular files over, and returns the tree that they are in.
    ///
    /// # Errors
    /// The tree can't be read, or is nothing that an image can hold. What the queue fails with is to be
    /// passed on.
    fn walk(self, queue: &mut ReadQueue<'_, Self::File>) -> Result<Tree>;
}

/// A regular file of a [`TreeSource`], which is opened at most once.
pub trait SourceFile: Send {
    /// The open file.
    type Reader: FileReader;

    /// Bytes of the file, holes included.
    fn size(&self) -> u64;

    /// Opens the file. It must not wait for the walk.
    ///
    /// # Errors
    /// The file can't be opened, or is not what it was when it was handed over.
    fn open(self) -> Result<Self::Reader>;
}

/// An open [`SourceFile`], which is read from its beginning to its end.
pub trait FileReader {
    /// Fills the buffer with the bytes that begin at `offset`, those of holes as zeros. All of it lies within the
    /// file; no byte is asked for twice, nor one before another that was asked for.
    ///
    /// # Errors
    /// The file can't be read, or has become shorter.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// The next bytes that are in no hole, from `offset` on; those before them are not asked for. Only for speed:
    /// runs of zeros become holes wherever they come from. Asked of large files only.
    ///
    /// # Errors
    /// The file can't be read.
    fn next_data(&mut self, offset: u64) -> Result<Range<u64>> {
        Ok(offset..u64::MAX)
    }

    /// Returns the file's extended attributes, after all of it was read.
    ///
    /// # Errors
    /// They can't be read, or the file changed since it was handed over.
    fn finish(self) -> Result<XattrSet>;
}

/// The metadata of an inode, of whatever type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metadata {
    /// Permission bits, and those for set-user-ID, set-group-ID and sticky: at most `0o7777`.
    pub permissions: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Modification time: seconds since 1970, negative before.
    pub mtime_seconds: i64,
    /// Modification time: nanoseconds after the seconds, below 1,000,000,000.
    pub mtime_nanoseconds: u32,
}

impl Default for Metadata {
    /// Those of a directory of root's that everybody may read, of 1970.
    fn default() -> Self {
        Metadata {
            permissions: 0o755,
            uid: 0,
            gid: 0,
            mtime_seconds: 0,
            mtime_nanoseconds: 0,
        }
    }
}

impl Metadata {
    /// Fails if an image can't hold it.
    pub(crate) fn check(&self) -> std::result::Result<(), Flaw> {
        if self.permissions > 0o7777 {
            Err(Flaw::Refused("its permissions are none"))
        } else if self.mtime_nanoseconds >= 1_000_000_000 {
            Err(Flaw::Refused("its time has a billion nanoseconds or more"))
        } else {
            Ok(())
        }
    }
}

/// An inode's type and what only that has, but for regular files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    SymbolicLink(Vec<u8>),
    /// A character device.
    CharacterDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// The driver of a device, and which of its devices it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceNumber {
    /// The driver: at most `0xfff`.
    pub major: u32,
    /// The device: at most `0xfffff`.
    pub minor: u32,
}

impl Kind {
    pub(crate) fn file_type(&self) -> FileType {
        match self {
            Kind::Directory => FileType::Directory,
            Kind::SymbolicLink(_) => FileType::SymbolicLink,
            Kind::CharacterDevice(_) => FileType::CharacterDevice,
            Kind::BlockDevice(_) => FileType::BlockDevice,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
        }
    }

    /// Fails if an image can't hold it.
    pub(crate) fn check(&self) -> std::result::Result<(), Flaw> {
        match self {
            Kind::SymbolicLink(target) if target.contains(&0) => {
                Err(Flaw::Refused("its target has a NUL"))
            }
            Kind::SymbolicLink(target) if !(1..=SYMLINK_MAX).contains(&target.len()) => {
                Err(Flaw::TooLarge {
                    what: "bytes in its target",
                    count: target.len() as u64,
                    limit: SYMLINK_MAX as u64,
                })
            }
            Kind::CharacterDevice(number) | Kind::BlockDevice(number) => number.check(),
            _ => Ok(()),
        }
    }
}

impl DeviceNumber {
    const MAJOR_MAX: u32 = 0xfff;
    const MINOR_MAX: u32 = 0xfffff;

    fn check(self) -> std::result::Result<(), Flaw> {
        let (what, count, limit) = if self.major > Self::MAJOR_MAX {
            ("as its major number", self.major, Self::MAJOR_MAX)
        } else if self.minor > Self::MINOR_MAX {
            ("as its minor number", self.minor, Self::MINOR_MAX)
        } else {
            return Ok(());
        };
        Err(Flaw::TooLarge {
            what,
            count: count.into(),
            limit: limit.into(),
        })
    }

    /// As `InodeRecord::payload_first` of a device has it.
    pub(crate) fn encode(self) -> u32 {
        (self.minor & 0xff) | (self.major << 8) | ((self.minor & 0xfff00) << 12)
    }
}

/// Fails if an image can't hold such a name.
pub(crate) fn check_name(name: &[u8]) -> std::result::Result<(), Flaw> {
    if name.len() > NAME_MAX {
        return Err(Flaw::TooLarge {
            what: "bytes in its name",
            count: name.len() as u64,
            limit: NAME_MAX as u64,
        });
    }
    match name {
        b"" | b"." | b".." => Err(Flaw::Refused("no file can have such a name")),
        _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => {
            Err(Flaw::Refused("its name has a NUL or a slash"))
        }
        _ => Ok(()),
    }
}

/// A reason why an image can't hold something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flaw {
    /// See [`Error::TooLarge`].
    TooLarge {
        what: &'static str,
        count: u64,
        limit: u64,
    },
    /// See [`Error::Refused`].
    Refused(&'static str),
}

impl Flaw {
    /// The error that says so of a file.
    pub(crate) fn of(self, path: PathBuf) -> Error {
        match self {
            Flaw::TooLarge { what, count, limit } => Error::TooLarge {
                what,
                path,
                count,
                limit,
            },
            Flaw::Refused(reason) => Error::Refused { path, reason },
        }
    }
}
