// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the kernel asks of an image, and is told. Nothing of it ever changes, so the kernel may keep all of it; that files
//! and directories are opened it need not tell.
//!
//! What is here is answered by the thread that takes the request. What has to be fetched is answered by one of its own, so
//! that who reads what is here does not wait for who reads what is not.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;

use fuser::{
    Errno as FuseErrno, FileAttr, FileHandle, FileType as FuseType, Filesystem, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use peerfs_format::{pieces, Source, NAME_MAX};
use peerfs_store::{Error, Image};
use rustix::io::Errno;

use crate::attributes::{attributes, kind, FOREVER};
use crate::directory::{Listing, Listings};
use crate::reader::FilledStore;
use crate::served::Served;

/// Requests that wait at a time for what is fetched. With more, those who take requests wait, too.
const WAITING_MAX: usize = 256;
/// Requests of nobody who waits that the kernel may have outstanding, such as its readahead.
const BACKGROUND_MAX: u16 = 64;
/// The most bytes of a file that the kernel may read ahead: as many as a request can have.
const READAHEAD_MAX: u32 = 1024 * 1024;
/// Bytes of the blocks that statfs counts in.
const BLOCK_SIZE: u32 = 4096;
/// How names of extended attributes begin that a file can have.
const XATTR_SPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];
/// `lseek`'s for what is not a hole, and for what is one.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// An image as a filesystem.
pub(crate) struct ImageFilesystem {
    served: Arc<Served>,
    listings: Arc<Listings>,
    waiting: Arc<AtomicUsize>,
}

impl ImageFilesystem {
    pub(crate) fn new(served: Arc<Served>) -> Self {
        ImageFilesystem {
            served,
            listings: Arc::new(Listings::new()),
            waiting: Arc::default(),
        }
    }

    /// Does something with the image and replies, now or when what is missing is here.
    fn serve<T: Send + 'static>(
        &self,
        operation: impl Fn(&Image<FilledStore>) -> Result<T, Error> + Send + 'static,
        reply: impl FnOnce(Result<T, FuseErrno>) + Send + 'static,
    ) {
        match self.served.attempt(&operation) {
            Ok(done) => reply(Ok(done)),
            Err(Err(errno)) => reply(Err(told(errno))),
            Err(Ok(_)) => {
                let served = Arc::clone(&self.served);
                self.wait(move || reply(served.get(&operation).map_err(told)));
            }
        }
    }

    /// Does what may take long where nobody else waits for it, unless there is too much of that.
    fn wait(&self, work: impl FnOnce() + Send + 'static) {
        let waiting = Arc::clone(&self.waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            waiting.fetch_sub(1, Ordering::Relaxed);
            return work();
        }
        let counted = move || {
            work();
            waiting.fetch_sub(1, Ordering::Relaxed);
        };
        // Without a thread, the request is dropped, which is answered with EIO.
        if thread::Builder::new()
            .name("waits".to_owned())
            .spawn(counted)
            .is_err()
        {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Filesystem for ImageFilesystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each where the kernel has it.
        for flags in [
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            // Always: who reads all names before the first file, as tar does, would have each of them looked up.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_EXPORT_SUPPORT,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            let _ = config.add_capabilities(flags);
        }
        if let Err(most) = config.set_max_readahead(READAHEAD_MAX) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        // Nothing is written; it bounds what one read may ask for.
        let _ = config.set_max_write(READAHEAD_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        if name.len() > NAME_MAX {
            return reply.error(FuseErrno::ENAMETOOLONG);
        }
        let operation = move |image: &Image<FilledStore>| {
            let directory = image.inode(parent.0)?;
            // So the kernel asks for an inode, and for its parent, of which it knows a file handle only.
            match name.as_slice() {
                b"." => return Ok(Some(attributes(&directory))),
                b".." => {
                    let above = image.inode(directory.record().link)?;
                    return Ok(Some(attributes(&above)));
                }
                _ => (),
            }
            let entry = image.child(&directory, &name)?;
            let inode = entry.map(|entry| image.inode_of(&directory, &entry));
            Ok(inode.transpose()?.map(|inode| attributes(&inode)))
        };
        self.serve(operation, move |found| match found {
            Ok(Some(attributes)) => reply.entry(&FOREVER, &attributes, Generation(0)),
            // An entry of no inode: that there is none may be kept, too.
            Ok(None) => {
                let none = only_named(INodeNo(0), FuseType::RegularFile);
                reply.entry(&FOREVER, &none, Generation(0));
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let operation = move |image: &Image<FilledStore>| Ok(attributes(&image.inode(inode.0)?));
        self.serve(operation, move |attributes| match attributes {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(errno) => reply.error(errno),
        });
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        let operation = move |image: &Image<FilledStore>| image.inode(inode.0)?.symlink_target();
        self.serve(operation, move |target| match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // The kernel does not ask again, for any file, and keeps what it has of it.
        reply.error(FuseErrno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(FuseErrno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let inode = inode.0;
        let range = offset..offset.saturating_add(size.into());
        match self.served.attempt_read(inode, &range) {
            Ok(bytes) => {
                self.served.note_end(inode, range.end);
                reply.data(&bytes);
            }
            Err(Err(errno)) => reply.error(told(errno)),
            Err(Ok(_)) => {
                let served = Arc::clone(&self.served);
                self.wait(move || match served.read(inode, &range) {
                    Ok(bytes) => {
                        served.note_end(inode, range.end);
                        reply.data(&bytes);
                    }
                    Err(errno) => reply.error(told(errno)),
                });
            }
        }
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listings = Arc::clone(&self.listings);
        let operation = move |image: &Image<FilledStore>| listings.get(image, inode.0);
        self.serve(operation, move |listing| {
            let listing = match listing {
                Ok(listing) => listing,
                Err(errno) => return reply.error(errno),
            };
            for (place, number, kind, name) in names(&listing, offset) {
                if reply.add(INodeNo(number), place + 1, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (listings, served) = (Arc::clone(&self.listings), Arc::clone(&self.served));
        // With the first inode, which is waited for; the others as far as they are here.
        let operation = move |image: &Image<FilledStore>| {
            let listing = listings.get(image, inode.0)?;
            attributes_at(image, &listing, offset)?;
            Ok(listing)
        };
        self.serve(operation, move |listing| {
            let listing = match listing {
                Ok(listing) => listing,
                Err(errno) => return reply.error(errno),
            };
            for (place, number, kind, name) in names(&listing, offset) {
                let attributes = served.attempt(&|image| attributes_at(image, &listing, place));
                let Ok(attributes) = attributes else {
                    break;
                };
                let number = INodeNo(number);
                let attributes = attributes.unwrap_or_else(|| only_named(number, kind));
                if reply.add(
                    number,
                    place + 1,
                    name,
                    &FOREVER,
                    &attributes,
                    Generation(0),
                ) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let manifest = self.served.manifest();
        let blocks = manifest.content_bytes.div_ceil(BLOCK_SIZE.into());
        let (files, name_max) = (manifest.inode_count, NAME_MAX as u32);
        reply.statfs(blocks, 0, 0, files, 0, BLOCK_SIZE, name_max, BLOCK_SIZE);
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        match XATTR_SPACES.iter().find(|space| name.starts_with(space)) {
            None => return reply.error(FuseErrno::EOPNOTSUPP),
            Some(space) if space.len() == name.len() && space.ends_with(b".") => {
                return reply.error(FuseErrno::EINVAL);
            }
            Some(_) => (),
        }
        let operation = move |image: &Image<FilledStore>| {
            let xattrs = image.inode(inode.0)?.xattrs()?;
            let value = xattrs.into_iter().find(|(other, _)| *other == name);
            Ok(value.map(|(_, value)| value))
        };
        self.serve(operation, move |value| match value {
            Ok(Some(value)) => reply_xattr(reply, size, &value),
            Ok(None) => reply.error(FuseErrno::ENODATA),
            Err(errno) => reply.error(errno),
        });
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        // As elsewhere, these are root's.
        let is_root = request.uid() == 0;
        let operation = move |image: &Image<FilledStore>| {
            let mut names = Vec::new();
            for (name, _) in image.inode(inode.0)?.xattrs()? {
                if is_root || !name.starts_with(b"trusted.") {
                    names.extend_from_slice(&name);
                    names.push(0);
                }
            }
            Ok(names)
        };
        self.serve(operation, move |names| match names {
            Ok(names) => reply_xattr(reply, size, &names),
            Err(errno) => reply.error(errno),
        });
    }

    fn lseek(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let wants_hole = match whence {
            SEEK_DATA => false,
            SEEK_HOLE => true,
            _ => return reply.error(FuseErrno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(FuseErrno::ENXIO);
        };
        let operation = move |image: &Image<FilledStore>| {
            let inode = image.inode(inode.0)?;
            let end = inode.record().size;
            if offset >= end {
                return Ok(None);
            }
            let extents = inode.extents()?;
            let mut pieces = pieces(&extents, offset..end);
            let found = pieces.find(|piece| matches!(piece.source, Source::Hole) == wants_hole);
            let found = found.map(|piece| piece.file_offset.max(offset));
            // There is a hole at the end.
            Ok(found.or(wants_hole.then_some(end)))
        };
        self.serve(operation, move |found| match found {
            Ok(Some(found)) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Ok(None) => reply.error(FuseErrno::ENXIO),
            Err(errno) => reply.error(errno),
        });
    }
}

/// The entries of a directory from a place on, the two that every directory has before all others: place, inode, type, name.
fn names(
    listing: &Listing,
    from: u64,
) -> impl Iterator<Item = (u64, u64, FuseType, OsString)> + '_ {
    let own = [(listing.number, "."), (listing.parent, "..")];
    let own = own.map(|(number, name)| (number, FuseType::Directory, OsString::from(name)));
    let entries = listing.entries.iter().map(|entry| {
        let name = OsString::from_vec(entry.name.clone());
        (entry.inode, kind(entry.file_type), name)
    });
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let all = (0..).zip(own.into_iter().chain(entries)).skip(from);
    all.map(|(place, (number, kind, name))| (place, number, kind, name))
}

/// What the inode at a place of a directory is; of the first two the kernel wants to know nothing, and at the end there is
/// none.
fn attributes_at(
    image: &Image<FilledStore>,
    listing: &Listing,
    place: u64,
) -> Result<Option<FileAttr>, Error> {
    let entry = place
        .checked_sub(2)
        .and_then(|place| listing.entries.get(usize::try_from(place).ok()?));
    let Some(entry) = entry else {
        return Ok(None);
    };
    let directory = image.inode(listing.number)?;
    let inode = image.inode_of(&directory, entry)?;
    Ok(Some(attributes(&inode)))
}

/// Where only the number and the type matter.
fn only_named(number: INodeNo, kind: FuseType) -> FileAttr {
    FileAttr {
        ino: number,
        size: 0,
        blocks: 0,
        atime: std::time::UNIX_EPOCH,
        mtime: std::time::UNIX_EPOCH,
        ctime: std::time::UNIX_EPOCH,
        crtime: std::time::UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// The value, its length if that is asked for, or that there is too little room for it.
fn reply_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(FuseErrno::ERANGE),
    }
}

fn told(errno: Errno) -> FuseErrno {
    FuseErrno::from_i32(errno.raw_os_error())
}
