// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image into a directory.
//!
//! One thread goes through the tree, and makes directories and whatever has no content; others write files, which come
//! to them in batches of neighbours, since these share chunks. Then come further names of files, and at last the
//! attributes of directories, those of the deepest ones first: until then nobody but who extracts may go into them.

mod attributes;
mod ladder;
mod target;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use peerfs_format::FileType;
use peerfs_store::{ChunkReader, Image, Inode};

use crate::walk::{join, Step, Visited, Walk};
use crate::{Error, Result, Selection, Stop};
use attributes::{remove_default_acl, Attributes, Object, Xattrs};
use target::{Directory, Target};

/// A batch of files is handed over when it has so many.
const BATCH_FILES: usize = 64;
/// Or so many bytes: some chunks, so that few are decoded by two threads.
const BATCH_BYTES: u64 = 1024 * 1024;

/// What is extracted, and how.
#[derive(Clone, Debug)]
pub struct ExtractOptions {
    /// Which paths.
    pub selection: Selection,
    /// Whether the directory may hold something already: directories stay, all else is replaced by what has its name.
    pub overwrite: bool,
    /// Whether owners are set, which only root may. Else all belongs to who extracts, and what has set-user-ID or
    /// set-group-ID bits loses them if it belonged to somebody else.
    pub same_owner: bool,
    /// Whether extended attributes are set: without `same_owner` those that an ordinary user may set.
    pub xattrs: bool,
    /// Threads that write files.
    pub threads: NonZeroUsize,
    /// Whether somebody wants it to end.
    pub is_cancelled: fn() -> bool,
}

/// How far an extraction is. May be looked at meanwhile.
#[derive(Debug, Default)]
pub struct Progress {
    /// Files that were written.
    pub files: AtomicU64,
    /// Bytes of content that were written.
    pub bytes: AtomicU64,
}

/// What was extracted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Extracted {
    /// Files and directories that are not there, or not as they are in the image; the caller was told of each.
    pub failures: u64,
    /// Files that have extended attributes which only root may set, and which were left out.
    pub without_xattrs: u64,
}

/// Extracts an image into the directory `target`, which is made if there is none. Tells `failed` of what can't be made
/// as it is in the image, from any thread, and goes on with the rest.
///
/// # Errors
/// [`Error::NotEmpty`]; [`Error::Io`] if the directory can't be opened, or the disk is full;
/// [`Error::Content`] and [`Error::Image`] if the image is not all here, or damaged; [`Error::Cancelled`]. What was extracted
/// until then stays, but no half of a file; directories that were made have not got their modes.
pub fn extract<R: ChunkReader>(
    image: &Image<R>,
    target: &Path,
    options: &ExtractOptions,
    progress: &Progress,
    failed: &(dyn Fn(&Error) + Sync),
) -> Result<Extracted> {
    let xattrs = match (options.xattrs, options.same_owner) {
        (true, true) => Xattrs::All,
        (true, false) => Xattrs::Unprivileged,
        (false, _) => Xattrs::None,
    };
    let extraction = Extraction {
        image,
        target: Target::open(target, options.overwrite)?,
        attributes: Attributes {
            same_owner: options.same_owner,
            xattrs,
        },
        options,
        progress,
        failed,
        failures: AtomicU64::new(0),
        without_xattrs: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        final_error: Mutex::new(None),
    };
    let mut tree = Tree::default();
    let walked = extraction.make_tree(&mut tree);
    extraction.end(walked)?;
    extraction.make_links(&tree)?;
    extraction.finish_directories(&tree)?;
    Ok(Extracted {
        failures: extraction.failures.into_inner(),
        without_xattrs: extraction.without_xattrs.into_inner(),
    })
}

struct Extraction<'a, R: ChunkReader> {
    image: &'a Image<R>,
    target: Target,
    attributes: Attributes,
    options: &'a ExtractOptions,
    progress: &'a Progress,
    failed: &'a (dyn Fn(&Error) + Sync),
    failures: AtomicU64,
    without_xattrs: AtomicU64,
    /// Whether something happened after which nothing more is written.
    is_over: AtomicBool,
    /// The first such thing.
    final_error: Mutex<Option<Error>>,
}

/// What is known of the tree after it was made, for what comes then.
#[derive(Default)]
struct Tree {
    /// The first names of inodes that have several: directory and name.
    first_names: HashMap<u64, (Vec<u8>, Vec<u8>)>,
    /// The other ones.
    links: Vec<Link>,
    /// Directories that could not be made or opened: nothing in them was.
    lost: HashSet<Vec<u8>>,
    /// Directories that were there already and only lead to what is wanted: they stay as they are.
    kept: HashSet<Vec<u8>>,
}

/// A further name of an inode.
struct Link {
    directory: Vec<u8>,
    name: Vec<u8>,
    inode: u64,
}

/// A regular file that is to be written.
struct Job {
    directory: Arc<Directory>,
    name: Vec<u8>,
    inode: Inode,
}

#[derive(Default)]
struct Batch {
    jobs: Vec<Job>,
    bytes: u64,
}

impl<R: ChunkReader> Extraction<'_, R> {
    /// Makes all but further names of files and the attributes of directories.
    fn make_tree(&self, tree: &mut Tree) -> Result<()> {
        let threads = self.options.threads.get();
        let (sender, receiver) = flume::bounded::<Vec<Job>>(threads);
        thread::scope(|scope| {
            let mut started = 0;
            for _ in 0..threads {
                let receiver = receiver.clone();
                let work = move || self.write_files(&receiver);
                // Those that there are do it, too.
                started += usize::from(thread::Builder::new().spawn_scoped(scope, work).is_ok());
            }
            drop(receiver);
            if started == 0 {
                let none = std::io::Error::other("no thread can be started");
                return Err(Error::io("write to", self.target.shown(b""))(none));
            }
            let walked = self.walk(tree, &sender);
            // They end when nothing more comes.
            drop(sender);
            walked
        })
    }

    /// What went wrong first, whoever found it.
    fn end(&self, outcome: Result<()>) -> Result<()> {
        let error = self
            .final_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match error {
            Some(error) => Err(error),
            None => outcome,
        }
    }

    fn check_cancelled(&self) -> Result<()> {
        match self.is_over.load(Ordering::Relaxed) || (self.options.is_cancelled)() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    /// Passes on an error after which there is nothing to be done, and tells of any other.
    fn note(&self, error: Error) -> Result<()> {
        if error.is_final() {
            return Err(error);
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        (self.failed)(&error);
        Ok(())
    }

    fn set_attributes(&self, object: Object<'_>, inode: &Inode, path: &[u8]) {
        let failed = |error: Error| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            (self.failed)(&error);
        };
        let path = self.target.shown(path);
        if self.attributes.set(object, inode, &path, &failed) {
            self.without_xattrs.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn walk(&self, tree: &mut Tree, sender: &flume::Sender<Vec<Job>>) -> Result<()> {
        let mut walk = Walk::new(self.image, &self.options.selection);
        let mut batch = Batch::default();
        while let Some(step) = walk.next()? {
            let Step::Enter(visited) = step else {
                continue;
            };
            self.check_cancelled()?;
            let directory = match self.enter(&visited, tree) {
                Ok(directory) => Arc::new(directory),
                Err(error) => {
                    self.note(error)?;
                    tree.lost.insert(visited.path);
                    continue;
                }
            };
            walk.children(&visited, |name, inode| {
                self.check_cancelled()?;
                self.add(&directory, name, inode, tree, &mut batch)?;
                if batch.jobs.len() >= BATCH_FILES || batch.bytes >= BATCH_BYTES {
                    hand_over(&mut batch, sender)?;
                }
                Ok(())
            })?;
        }
        hand_over(&mut batch, sender)
    }

    /// Makes a directory and opens it.
    fn enter(&self, visited: &Visited, tree: &mut Tree) -> Result<Directory> {
        let (parent, name) = split(&visited.path);
        let mut is_new = false;
        if !name.is_empty() {
            let parent = self.target.directory(parent)?;
            is_new = self.target.make_directory(&parent, name)?;
        }
        if !is_new && self.options.overwrite && !visited.is_wanted {
            tree.kept.insert(visited.path.clone());
        }
        let directory = self.target.directory(&visited.path)?;
        if !is_new {
            let shown = self.target.shown(&visited.path);
            remove_default_acl(directory.as_fd()).map_err(Error::io("change", shown))?;
        }
        Ok(directory)
    }

    /// Makes what has no content, and adds what has to the batch.
    fn add(
        &self,
        directory: &Arc<Directory>,
        name: &[u8],
        inode: Inode,
        tree: &mut Tree,
        batch: &mut Batch,
    ) -> Result<()> {
        if inode.record().nlink > 1 {
            if tree.first_names.contains_key(&inode.number()) {
                tree.links.push(Link {
                    directory: directory.path.clone(),
                    name: name.to_vec(),
                    inode: inode.number(),
                });
                return Ok(());
            }
            let place = (directory.path.clone(), name.to_vec());
            tree.first_names.insert(inode.number(), place);
        }
        if inode.file_type() == FileType::Regular {
            batch.bytes = batch.bytes.saturating_add(inode.record().size);
            batch.jobs.push(Job {
                directory: directory.clone(),
                name: name.to_vec(),
                inode,
            });
            return Ok(());
        }
        match self.target.make_node(directory, name, &inode) {
            Ok(node) => {
                self.set_attributes(
                    Object::Place(node.as_fd()),
                    &inode,
                    &join(&directory.path, name),
                );
                self.progress.files.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => self.note(error),
        }
    }

    /// Writes the files that come, until there are no more or something happens after which none is.
    fn write_files(&self, receiver: &flume::Receiver<Vec<Job>>) {
        for job in receiver.iter().flatten() {
            let written = self.check_cancelled().and_then(|()| self.write_file(&job));
            let Err(error) = written.or_else(|error| self.note(error)) else {
                continue;
            };
            let was_over = self.is_over.swap(true, Ordering::Relaxed);
            if !was_over {
                *self
                    .final_error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            return;
        }
    }

    fn write_file(&self, job: &Job) -> Result<()> {
        let Job {
            directory,
            name,
            inode,
        } = job;
        let file = File::from(self.target.make_file(directory, name)?);
        let path = join(&directory.path, name);
        let written = self.write_content(&file, inode, &path);
        if written.is_err() {
            self.target.give_up(directory, name);
            return written;
        }
        self.set_attributes(Object::Open(file.as_fd()), inode, &path);
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn write_content(&self, file: &File, inode: &Inode, path: &[u8]) -> Result<()> {
        let failed = || Error::io("write", self.target.shown(path));
        let size = inode.record().size;
        let mut end = 0;
        let outcome = self.image.read_data(inode, |offset, part| {
            self.check_cancelled().map_err(Stop)?;
            file.write_all_at(part, offset)
                .map_err(failed())
                .map_err(Stop)?;
            end = offset + part.len() as u64;
            self.progress
                .bytes
                .fetch_add(part.len() as u64, Ordering::Relaxed);
            Ok(())
        });
        outcome.map_err(|stop: Stop| stop.of_file(path))?;
        // A hole at the end.
        if end < size {
            file.set_len(size).map_err(failed())?;
        }
        Ok(())
    }

    /// Gives files their further names.
    fn make_links(&self, tree: &Tree) -> Result<()> {
        for link in &tree.links {
            self.check_cancelled()?;
            let Some((first_directory, first)) = tree.first_names.get(&link.inode) else {
                continue;
            };
            let linked = self.target.directory(first_directory).and_then(|from| {
                let directory = self.target.directory(&link.directory)?;
                self.target.link(&from, first, &directory, &link.name)
            });
            linked.or_else(|error| self.note(error))?;
        }
        Ok(())
    }

    /// Sets the attributes of directories, after all that is in them.
    fn finish_directories(&self, tree: &Tree) -> Result<()> {
        let mut walk = Walk::new(self.image, &self.options.selection);
        while let Some(step) = walk.next()? {
            self.check_cancelled()?;
            match step {
                Step::Enter(visited) if tree.lost.contains(&visited.path) => (),
                Step::Enter(visited) => walk.children(&visited, |_, _| Ok(()))?,
                Step::Leave(visited) => {
                    let is_left =
                        tree.lost.contains(&visited.path) || tree.kept.contains(&visited.path);
                    if is_left {
                        continue;
                    }
                    match self.target.directory(&visited.path) {
                        Ok(directory) => {
                            let object = Object::Open(directory.as_fd());
                            self.set_attributes(object, &visited.inode, &visited.path);
                        }
                        Err(error) => self.note(error)?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// Fails if nobody takes it any more; they say why.
fn hand_over(batch: &mut Batch, sender: &flume::Sender<Vec<Job>>) -> Result<()> {
    let batch = std::mem::take(batch);
    match batch.jobs.is_empty() {
        true => Ok(()),
        false => sender.send(batch.jobs).map_err(|_| Error::Cancelled),
    }
}

/// The directory of a path, and its name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}
