// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A daemon on `/dev/peerfs` that does as it is told: honestly, or not.
//!
//! It fills a store from another, complete one, without a network and without verifying anything.
//! What the kernel must refuse it insists on being refused.

mod target;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use fastrand::Rng;
use peerfs_format::upcall::{
    write_message, Failure, FetchBlob, FetchChunks, Header, Operation, REQUEST_MAX,
};
use peerfs_format::Record;
use peerfs_sys::ioctl;
use rustix::io::Errno;

use crate::source::Source;
use crate::{ensure, Error, Result};
use target::{Storing, Target};

/// The options of a run.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// The store that is mounted.
    #[arg(long)]
    root_dir: PathBuf,
    /// The store with everything.
    #[arg(long)]
    source: PathBuf,
    /// The behaviour.
    #[arg(long, default_value = "honest")]
    behaviour: Behaviour,
    /// Milliseconds before each answer.
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// A file that is made once the store is attached.
    #[arg(long)]
    ready: Option<PathBuf>,
    /// The kernel module's device.
    #[arg(long, default_value = "/dev/peerfs")]
    device: PathBuf,
}

/// A thing that a daemon may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Behaviour {
    /// Put what is asked for into the store, chunks into the partial pack, and say so.
    Honest,
    /// Like honest, with chunks in a loose file.
    Loose,
    /// Like honest, with a wrong byte in each answer.
    WrongData,
    /// Like honest, with half of the bytes.
    WrongLength,
    /// Answer with right bytes, of something else.
    Other,
    /// Like loose, with the wrong places in the table.
    WrongPlaces,
    /// Like honest, with a table that is another pack's.
    OtherTable,
    /// Like honest, without the files that the table names.
    NoSlots,
    /// Say that it is there when it is not.
    Nothing,
    /// Say that it can't be had.
    Fail,
    /// Never answer.
    Silent,
    /// Answer under other ids, then honestly.
    WrongId,
    /// Answer with what is no answer, then honestly.
    Garbage,
}

impl Behaviour {
    /// Makes the bytes those that a daemon of this behaviour answers with.
    fn falsify(self, bytes: &mut Vec<u8>) {
        match self {
            Behaviour::WrongData => {
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 1;
                }
            }
            Behaviour::WrongLength => bytes.truncate((bytes.len() / 2).max(1)),
            Behaviour::Other => bytes.reverse(),
            Behaviour::Nothing => bytes.clear(),
            _ => (),
        }
    }

    fn storing(self) -> Storing {
        match self {
            Behaviour::Loose => Storing::Loose,
            // A file that is too short, rather than one with zeros in it.
            Behaviour::WrongLength => Storing::CutPartial,
            Behaviour::WrongPlaces => Storing::Beside,
            Behaviour::OtherTable => Storing::OtherTable,
            Behaviour::Nothing => Storing::Unnoted,
            _ => Storing::Partial,
        }
    }
}

/// A thing that the kernel asks for.
enum Request {
    Blob(FetchBlob),
    Chunks(FetchChunks),
}

struct Daemon {
    behaviour: Behaviour,
    device: File,
    source: Source,
    target: Target,
    rng: Rng,
    /// The last request that was answered.
    answered: u64,
}

/// Serves until it is killed; prints a line for each request. Ends with an error if the kernel took
/// something that it must not take.
pub(crate) fn run(settings: Settings) -> Result<()> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&settings.device)
        .map_err(Error::io("open", &settings.device))?;
    let root_dir = File::open(&settings.root_dir).map_err(Error::io("open", &settings.root_dir))?;
    ioctl::attach(device.as_fd(), root_dir.as_fd())
        .map_err(Error::io("attach", &settings.root_dir))?;
    if let Some(ready) = &settings.ready {
        fs::write(ready, b"").map_err(Error::io("write", ready))?;
    }
    let mut daemon = Daemon {
        behaviour: settings.behaviour,
        device,
        source: Source::new(settings.source),
        target: Target::new(settings.root_dir),
        rng: Rng::with_seed(11),
        answered: 0,
    };
    let mut buffer = vec![0; REQUEST_MAX];
    loop {
        let count = daemon
            .device
            .read(&mut buffer)
            .map_err(Error::io("read", &settings.device))?;
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let malformed = Error::format(&settings.device);
            let (header, payload) = Header::parse(rest).map_err(malformed)?;
            rest = &rest[header.length as usize..];
            let malformed = Error::format(&settings.device);
            let request = match header.operation {
                Operation::FetchBlob => FetchBlob::parse(payload).map(Request::Blob),
                Operation::FetchChunks => FetchChunks::parse(payload).map(Request::Chunks),
                Operation::Cancel => {
                    println!("cancel {}", header.id);
                    continue;
                }
                _ => return Err(Error::Finding("the kernel sent a reply".to_owned())),
            };
            thread::sleep(Duration::from_millis(settings.delay));
            daemon.serve(header.id, &request.map_err(malformed)?)?;
            daemon.answered = header.id;
        }
    }
}

impl Daemon {
    fn serve(&mut self, id: u64, request: &Request) -> Result<()> {
        match request {
            Request::Blob(blob) => println!("blob {} {} bytes", blob.digest, blob.length),
            Request::Chunks(chunks) => println!(
                "chunks {} {}+{} priority {} flags {}",
                chunks.pack, chunks.first_chunk, chunks.chunk_count, chunks.priority, chunks.flags
            ),
        }
        match self.behaviour {
            Behaviour::Silent => return Ok(()),
            Behaviour::Fail => {
                let result = self.write(&failure(id));
                return taken("a failure", result);
            }
            Behaviour::WrongId => self.answer_under_other_ids(id)?,
            Behaviour::Garbage => self.answer_garbage(id, request)?,
            _ => (),
        }
        match request {
            Request::Blob(blob) => self.serve_blob(id, blob),
            Request::Chunks(chunks) => self.serve_chunks(id, chunks),
        }
    }

    fn serve_blob(&mut self, id: u64, blob: &FetchBlob) -> Result<()> {
        let mut bytes = self.source.blob(&blob.digest)?;
        self.behaviour.falsify(&mut bytes);
        let file = self.target.put_blob(&blob.digest, &bytes)?;
        taken("a file", self.reply_file(id, &file))
    }

    fn serve_chunks(&mut self, id: u64, request: &FetchChunks) -> Result<()> {
        let first = request.first_chunk;
        let numbers = first..first + request.chunk_count;
        let (mut chunks, pack) = self.source.chunks(&request.pack, &request.index, numbers)?;
        for chunk in &mut chunks {
            self.behaviour.falsify(&mut chunk.bytes);
        }
        let storing = self.behaviour.storing();
        let (table, slot, file) = self.target.put_chunks(&pack, &chunks, storing)?;
        let slots = match self.behaviour {
            Behaviour::NoSlots => &[][..],
            _ => &[(slot, &file)],
        };
        taken("a table", self.reply_places(id, &table, slots))
    }

    fn reply_file(&self, id: u64, file: &File) -> Result<(), Errno> {
        ioctl::reply_file(self.device.as_fd(), id, file.as_fd()).map_err(errno)
    }

    fn reply_places(&self, id: u64, table: &File, slots: &[(u32, &File)]) -> Result<(), Errno> {
        let slots: Vec<_> = slots
            .iter()
            .map(|(slot, file)| (*slot, file.as_fd()))
            .collect();
        ioctl::reply_places(self.device.as_fd(), id, table.as_fd(), &slots).map_err(errno)
    }

    fn write(&self, message: &[u8]) -> Result<(), Errno> {
        (&self.device).write(message).map(drop).map_err(errno)
    }

    fn insist(&self, what: &str, result: Result<(), Errno>, allowed: &[Errno]) -> Result<()> {
        ensure(result.is_err_and(|errno| allowed.contains(&errno)), || {
            format!("{what}: {result:?} instead of {allowed:?}")
        })
    }

    fn answer_under_other_ids(&mut self, id: u64) -> Result<()> {
        let readable = self.target.readable()?;
        // The next ids may be those of requests that were read with this one.
        for other in [0, self.answered, id + 100_000, u64::MAX, id ^ (1 << 63)] {
            let slots = [(0, &readable)];
            for result in [
                self.write(&failure(other)),
                self.reply_file(other, &readable),
                self.reply_places(other, &readable, &slots),
            ] {
                self.insist("an answer under another id", result, &[Errno::NOENT])?;
            }
        }
        // Another opener may not answer for this one, even with the right id.
        let thief = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/peerfs");
        let thief = thief.map_err(Error::io("open", "/dev/peerfs".as_ref()))?;
        for attach in [false, true] {
            if attach {
                ioctl::attach(thief.as_fd(), self.target.directory()?.as_fd())
                    .map_err(Error::io("attach", "/dev/peerfs".as_ref()))?;
            }
            let files = [(0, readable.as_fd())];
            for result in [
                (&thief).write(&failure(id)).map(drop),
                ioctl::reply_file(thief.as_fd(), id, readable.as_fd()),
                ioctl::reply_places(thief.as_fd(), id, readable.as_fd(), &files),
            ] {
                self.insist(
                    "another opener's answer",
                    result.map_err(errno),
                    &[Errno::NOENT, Errno::NOTCONN],
                )?;
            }
        }
        Ok(())
    }

    fn answer_garbage(&mut self, id: u64, request: &Request) -> Result<()> {
        let refused = [Errno::INVAL, Errno::NOENT];
        let good = failure(id);
        // Nothing may also mean nothing.
        for length in 1..good.len() {
            self.insist("a part of an answer", self.write(&good[..length]), &refused)?;
        }
        // Magic, version, operation, length: one byte of each changed.
        for place in [0, 3, 4, 6, 16, 19] {
            let mut bad = good.clone();
            bad[place] ^= 0x55;
            self.insist("a changed header", self.write(&bad), &refused)?;
        }
        // What was an answer once, and what is a request.
        for (operation, payload) in [(16, 0), (17, 100), (1, 112), (2, 144), (3, 0), (4, 4)] {
            let mut bad = message(Operation::Failed, id, &vec![0; payload]);
            bad[6] = operation;
            self.insist("another operation", self.write(&bad), &refused)?;
        }
        for length in [1, 24, 25, 100, 5000, 300_000] {
            let mut noise = vec![0; length];
            self.rng.fill(&mut noise);
            self.insist("noise", self.write(&noise), &refused)?;
            let result = self.write(&message(Operation::Failed, id, &noise));
            self.insist("noise behind a header", result, &refused)?;
        }

        let refused_files = [Errno::INVAL, Errno::XDEV, Errno::BADF, Errno::ISDIR];
        let readable = self.target.readable()?;
        let write_only = self.target.write_only()?;
        let directory = self.target.directory()?;
        let elsewhere = File::open("/dev/null").map_err(Error::io("open", "/dev/null".as_ref()))?;
        for (what, file) in [
            ("a write-only file", &write_only),
            ("a directory", &directory),
            ("a file of elsewhere", &elsewhere),
            ("the device itself", &self.device),
        ] {
            self.insist(what, self.reply_file(id, file), &refused_files)?;
            self.insist(what, self.reply_places(id, file, &[]), &refused_files)?;
            let result = self.reply_places(id, &readable, &[(63, file)]);
            self.insist(what, result, &refused_files)?;
        }
        if let Request::Blob(_) = request {
            let result = self.reply_places(id, &readable, &[(0, &readable)]);
            self.insist("places of a blob", result, &[Errno::INVAL])?;
        }
        Ok(())
    }
}

/// Makes a finding of it if an answer was not taken. That nobody waits any more is no fault.
fn taken(what: &str, result: Result<(), Errno>) -> Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::Finding(format!("{what} was refused: {errno}"))),
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
}

/// The answer that it can't be had.
fn failure(id: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    let errno = Errno::HOSTUNREACH.raw_os_error().unsigned_abs();
    Failure { errno }.write_to(|bytes| payload.extend_from_slice(bytes));
    message(Operation::Failed, id, &payload)
}

fn message(operation: Operation, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(payload.len() + 24);
    write_message(operation, id, payload, |bytes| {
        message.extend_from_slice(bytes)
    });
    message
}
