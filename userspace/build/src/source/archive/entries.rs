// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The entries of a tar archive, in its order.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::header::{continued_runs, Block, EntryType, Header, Problem, BLOCK};
use super::pax::{Extensions, Sparse};
use super::sparse::{add_run, check_runs, MapReader, Run};
use super::tape::Tape;
use crate::source::{DeviceNumber, Kind, Metadata};
use crate::xattrs::XattrSet;
use crate::{Error, Result};

/// The most bytes of extended headers, long names and such in front of an entry.
const EXTENSIONS_MAX: u64 = 1024 * 1024;

/// An entry.
pub(super) struct Entry {
    /// As it is in the archive.
    pub(super) path: Vec<u8>,
    pub(super) metadata: Metadata,
    pub(super) xattrs: XattrSet,
    pub(super) what: What,
}

/// What an entry is, and what only that has.
pub(super) enum What {
    /// A regular file, whose content is to be read next.
    Regular(Content),
    /// Another name of the file that has this path.
    HardLink(Vec<u8>),
    Other(Kind),
}

/// The content of a regular file.
pub(super) struct Content {
    /// Bytes, holes included.
    pub(super) size: u64,
    /// Where its data is, in order; that lies one behind the other in the archive.
    pub(super) runs: Vec<Run>,
}

/// Reads the entries of an archive.
pub(super) struct Entries<'a> {
    tape: Tape<'a>,
    /// What extended headers say of all entries from here on.
    global: Extensions,
    /// Bytes of the current entry's content that were not read, and of the padding behind it.
    content: u64,
    padding: u64,
    /// Whether the blocks of zeros have come by which an archive ends.
    has_end: bool,
}

/// What comes in front of an entry.
#[derive(Default)]
struct Preamble {
    extensions: Extensions,
    has_pax: bool,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Bytes of all of it.
    bytes: u64,
}

impl<'a> Entries<'a> {
    pub(super) fn new(tape: Tape<'a>) -> Self {
        Entries {
            tape,
            global: Extensions::default(),
            content: 0,
            padding: 0,
            has_end: false,
        }
    }

    pub(super) fn tape(&self) -> &Tape<'a> {
        &self.tape
    }

    /// The next entry; None at the end. What was not read of the content before it is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        self.skip_content()?;
        let mut preamble = Preamble::default();
        loop {
            self.tape.check()?;
            let Some(block) = self.header_block(&preamble)? else {
                return Ok(None);
            };
            let header = Header::parse(&block).map_err(|problem| self.problem(None, problem))?;
            let Some(header) = header else {
                if preamble.bytes > 0 {
                    return Err(self.problem(None, "an extended header has no entry"));
                }
                self.has_end = true;
                return Ok(None);
            };
            match header.entry_type {
                EntryType::Pax
                | EntryType::PaxGlobal
                | EntryType::GnuLongPath
                | EntryType::GnuLongLink => self.read_preamble(&header, &mut preamble)?,
                EntryType::Label => {
                    self.set_content(header.size, &header.path)?;
                    self.skip_content()?;
                }
                _ => return self.entry(header, preamble).map(Some),
            }
        }
    }

    /// The next bytes of the current entry's content, at most `most`; none at its end.
    pub(super) fn content(&mut self, most: u64) -> Result<&[u8]> {
        let most = most.min(self.content);
        if most == 0 {
            return Ok(&[]);
        }
        let (path, position) = (self.tape.path().to_owned(), self.tape.position());
        let bytes = self.tape.take(most)?;
        if bytes.is_empty() {
            return Err(truncated(path, position));
        }
        self.content -= bytes.len() as u64;
        Ok(bytes)
    }

    /// Reads the archive to its end, and verifies what was promised of it. One that needs no end but that of its bytes
    /// may lack the blocks of zeros.
    pub(super) fn finish(self, needs_end: bool) -> Result<()> {
        if needs_end && !self.has_end {
            let (path, position) = (self.tape.path().to_owned(), self.tape.position());
            return Err(truncated(path, position));
        }
        self.tape.finish()
    }

    /// The error that says what is wrong with the archive, or with an entry of it.
    pub(super) fn problem(&self, entry: Option<&[u8]>, problem: Problem) -> Error {
        Error::Archive {
            path: entry.map_or_else(|| self.tape.path().to_owned(), |entry| self.path_of(entry)),
            offset: self.tape.position(),
            problem,
        }
    }

    /// An entry's name in messages.
    fn path_of(&self, entry: &[u8]) -> PathBuf {
        let start = entry.iter().position(|&byte| byte != b'/');
        let relative = entry.get(start.unwrap_or_default()..).unwrap_or_default();
        self.tape.path().join(OsStr::from_bytes(relative))
    }

    fn header_block(&mut self, preamble: &Preamble) -> Result<Option<Block>> {
        let start = self.tape.position();
        let mut block = [0; BLOCK];
        let filled = self.fill(&mut block)?;
        if filled == BLOCK {
            Ok(Some(block))
        } else if filled == 0 && preamble.bytes == 0 {
            Ok(None)
        } else {
            Err(truncated(self.tape.path().to_owned(), start))
        }
    }

    /// Fills a buffer, as far as there are bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let bytes = self.tape.take(rest.len() as u64)?;
            if bytes.is_empty() {
                break;
            }
            let part = rest.get_mut(..bytes.len()).unwrap_or_default();
            part.copy_from_slice(bytes);
            filled += bytes.len();
        }
        Ok(filled)
    }

    fn set_content(&mut self, size: u64, path: &[u8]) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(self.problem(Some(path), "it is too large"));
        }
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<()> {
        let rest = self.content + self.padding;
        (self.content, self.padding) = (0, 0);
        let start = self.tape.position();
        match self.tape.skip(rest)? {
            true => Ok(()),
            false => Err(truncated(self.tape.path().to_owned(), start)),
        }
    }

    /// Reads what is in front of an entry.
    fn read_preamble(&mut self, header: &Header, preamble: &mut Preamble) -> Result<()> {
        preamble.bytes = preamble.bytes.saturating_add(header.size).saturating_add(1);
        if preamble.bytes > EXTENSIONS_MAX {
            let problem = "it has more than a mebibyte of extended headers";
            return Err(self.problem(Some(&header.path), problem));
        }
        self.set_content(header.size, &header.path)?;
        let mut bytes = Vec::new();
        while self.content > 0 {
            bytes.extend_from_slice(self.content(EXTENSIONS_MAX)?);
        }
        self.skip_content()?;
        let outcome = match header.entry_type {
            EntryType::Pax if preamble.has_pax => Err("two extended headers are in front of it"),
            EntryType::Pax => {
                preamble.has_pax = true;
                preamble.extensions.add(&bytes)
            }
            EntryType::PaxGlobal => self.global.add_global(&bytes),
            EntryType::GnuLongPath => set_once(&mut preamble.long_path, bytes),
            _ => set_once(&mut preamble.long_link, bytes),
        };
        outcome.map_err(|problem| self.problem(Some(&header.path), problem))
    }

    fn entry(&mut self, header: Header, preamble: Preamble) -> Result<Entry> {
        let Preamble {
            mut extensions,
            long_path,
            long_link,
            ..
        } = preamble;
        let fail = |problem| self.problem(Some(&header.path), problem);
        let sparse = std::mem::take(&mut extensions.sparse);
        let sparse = sparse.sparse().map_err(fail)?;
        let name = sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let pax_path = name.or(extensions.path.take());
        let path = one_of(long_path, pax_path).map_err(fail)?;
        let path = path.unwrap_or_else(|| header.path.clone());
        let fail = |problem| self.problem(Some(&path), problem);
        let link = one_of(long_link, extensions.link.take()).map_err(fail)?;
        let link = link.unwrap_or_else(|| header.link.clone());
        if path.is_empty() {
            return Err(fail("it has no name"));
        }
        let id = |own: Option<u64>, global: Option<u64>, field, problem| {
            let id = own.or(global).unwrap_or(field);
            u32::try_from(id).map_err(|_| fail(problem))
        };
        let mtime = extensions.mtime.or(self.global.mtime);
        let (mtime_seconds, mtime_nanoseconds) = mtime.unwrap_or((header.mtime, 0));
        let permissions = match header.entry_type {
            // Linux has no others.
            EntryType::SymbolicLink => 0o777,
            _ => header.permissions,
        };
        let (attributes, permissions) = extensions.xattrs(permissions).map_err(fail)?;
        let metadata = Metadata {
            permissions,
            uid: id(
                extensions.uid,
                self.global.uid,
                header.uid,
                "its owner's number is too large",
            )?,
            gid: id(
                extensions.gid,
                self.global.gid,
                header.gid,
                "its group's number is too large",
            )?,
            mtime_seconds,
            mtime_nanoseconds,
        };
        let mut xattrs = XattrSet::default();
        let name = self.path_of(&path);
        for (attribute, value) in attributes {
            if attribute.contains(&0) {
                return Err(fail("the name of an extended attribute has a NUL"));
            }
            xattrs.insert(&attribute, value, &name)?;
        }
        let number = DeviceNumber {
            major: header.major,
            minor: header.minor,
        };
        let what = match header.entry_type {
            EntryType::Directory => What::Other(Kind::Directory),
            EntryType::GnuDirectory => {
                self.set_content(extensions.size.unwrap_or(header.size), &path)?;
                What::Other(Kind::Directory)
            }
            EntryType::SymbolicLink => What::Other(Kind::SymbolicLink(link)),
            EntryType::HardLink => What::HardLink(link),
            EntryType::CharacterDevice => What::Other(Kind::CharacterDevice(number)),
            EntryType::BlockDevice => What::Other(Kind::BlockDevice(number)),
            EntryType::Fifo => What::Other(Kind::Fifo),
            // As Unix V7 has it. The path in the header may be cut off behind a slash.
            EntryType::Regular if path.ends_with(b"/") => {
                self.set_content(extensions.size.unwrap_or(header.size), &path)?;
                What::Other(Kind::Directory)
            }
            _ => {
                let size = extensions.size.unwrap_or(header.size);
                What::Regular(self.content_of(header, size, sparse, &path)?)
            }
        };
        Ok(Entry {
            path,
            metadata,
            xattrs,
            what,
        })
    }

    /// Begins the content of a regular file, which has so many bytes in the archive.
    fn content_of(
        &mut self,
        header: Header,
        size: u64,
        sparse: Option<Sparse>,
        path: &[u8],
    ) -> Result<Content> {
        let (real_size, runs) = match (header.sparse, sparse) {
            (Some(old), None) => {
                let mut runs = old.runs;
                let mut is_continued = old.is_continued;
                while is_continued {
                    let start = self.tape.position();
                    let mut block = [0; BLOCK];
                    if self.fill(&mut block)? < BLOCK {
                        return Err(truncated(self.tape.path().to_owned(), start));
                    }
                    let outcome = continued_runs(&block).and_then(|(more, is_last)| {
                        is_continued = is_last;
                        more.into_iter().try_for_each(|run| add_run(&mut runs, run))
                    });
                    outcome.map_err(|problem| self.problem(Some(path), problem))?;
                }
                self.set_content(size, path)?;
                (old.real_size, runs)
            }
            (None, Some(sparse)) => {
                self.set_content(size, path)?;
                let runs = match sparse.runs {
                    Some(runs) => runs,
                    None => self.map_in_front(path)?,
                };
                (sparse.real_size, runs)
            }
            (None, None) => {
                self.set_content(size, path)?;
                let all = Run {
                    offset: 0,
                    length: size,
                };
                (size, vec![all])
            }
            (Some(_), Some(_)) => {
                return Err(self.problem(Some(path), "it is sparse in two formats"));
            }
        };
        if real_size > i64::MAX as u64 {
            return Err(self.problem(Some(path), "it is too large"));
        }
        let runs = check_runs(runs, real_size, self.content);
        Ok(Content {
            size: real_size,
            runs: runs.map_err(|problem| self.problem(Some(path), problem))?,
        })
    }

    /// Reads the map of holes that is in front of a file's data, with its padding.
    fn map_in_front(&mut self, path: &[u8]) -> Result<Vec<Run>> {
        let mut reader = MapReader::default();
        loop {
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                let bytes = self.content(rest.len() as u64)?;
                if bytes.is_empty() {
                    return Err(self.problem(Some(path), "its map of holes has no end"));
                }
                let part = rest.get_mut(..bytes.len()).unwrap_or_default();
                part.copy_from_slice(bytes);
                filled += bytes.len();
            }
            let is_complete = reader.push(&block);
            if is_complete.map_err(|problem| self.problem(Some(path), problem))? {
                return Ok(reader.runs());
            }
        }
    }
}

/// A long name of GNU tar, up to the NUL behind it.
fn set_once(place: &mut Option<Vec<u8>>, mut bytes: Vec<u8>) -> std::result::Result<(), Problem> {
    if place.is_some() {
        return Err("two long names are in front of it");
    }
    let end = bytes.iter().position(|&byte| byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    *place = Some(bytes);
    Ok(())
}

/// What a long name and an extended header say, who must say the same: readers do not agree on which one counts.
fn one_of(
    long: Option<Vec<u8>>,
    extended: Option<Vec<u8>>,
) -> std::result::Result<Option<Vec<u8>>, Problem> {
    match (long, extended) {
        (Some(long), Some(extended)) if long != extended => {
            Err("a long name and an extended header call it differently")
        }
        (long, extended) => Ok(long.or(extended)),
    }
}

fn truncated(path: PathBuf, offset: u64) -> Error {
    Error::Archive {
        path,
        offset,
        problem: "it ends in the middle",
    }
}
