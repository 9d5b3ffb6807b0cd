// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A daemon on `/dev/peerfs` that does as it is told: honestly, or not.
//!
//! It fills a store from another, complete one, without a network and without verifying anything.
//! What the kernel must refuse it insists on being refused.

mod target;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
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

use crate::source::{Source, StoredChunk};
use crate::{ensure, Error, Result};
use target::Target;

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
    /// Put what is asked for into the store, and say so.
    Honest,
    /// Answer with the bytes.
    Inline,
    /// Like honest, with a wrong byte in each answer.
    WrongData,
    /// Like inline, with a wrong byte in each answer.
    InlineWrongData,
    /// Like honest, with half of the bytes.
    WrongLength,
    /// Like inline, with half of the bytes of each chunk.
    InlineWrongLength,
    /// Answer with right bytes, of something else.
    Other,
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
    fn is_inline(self) -> bool {
        use Behaviour::{Inline, InlineWrongData, InlineWrongLength};
        matches!(self, Inline | InlineWrongData | InlineWrongLength)
    }

    /// Makes the bytes those that a daemon of this behaviour answers with.
    fn falsify(self, bytes: &mut Vec<u8>) {
        match self {
            Behaviour::WrongData | Behaviour::InlineWrongData => {
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 1;
                }
            }
            Behaviour::WrongLength | Behaviour::InlineWrongLength => {
                bytes.truncate((bytes.len() / 2).max(1));
            }
            Behaviour::Other => bytes.reverse(),
            _ => (),
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
            Behaviour::Nothing => return self.reply(Operation::Filled, id, &[]),
            Behaviour::Fail => {
                let mut payload = Vec::new();
                let errno = Errno::HOSTUNREACH.raw_os_error().unsigned_abs();
                Failure { errno }.write_to(|bytes| payload.extend_from_slice(bytes));
                return self.reply(Operation::Failed, id, &payload);
            }
            Behaviour::WrongId => self.answer_under_other_ids(id, request)?,
            Behaviour::Garbage => self.answer_garbage(id)?,
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
        if self.behaviour.is_inline() {
            return self.reply(Operation::Data, id, &bytes);
        }
        let file = self.target.put_blob(&blob.digest, &bytes)?;
        self.reply_file(id, file.as_fd())
    }

    fn serve_chunks(&mut self, id: u64, request: &FetchChunks) -> Result<()> {
        let (mut chunks, chunk_count) = self.source.chunks(request)?;
        for chunk in &mut chunks {
            self.behaviour.falsify(&mut chunk.bytes);
        }
        if self.behaviour.is_inline() {
            return self.reply(Operation::Data, id, &inline(&chunks));
        }
        // A file that is too short, rather than one with zeros in it.
        let whole = self.behaviour != Behaviour::WrongLength;
        let file = self
            .target
            .put_chunks(request, &chunks, chunk_count, whole)?;
        self.reply_file(id, file.as_fd())
    }

    /// Writes a reply. That nobody waits any more is no fault.
    fn reply(&self, operation: Operation, id: u64, payload: &[u8]) -> Result<()> {
        match self.write(&message(operation, id, payload)) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // The kernel checks the form of what is given inline before it takes it.
            Err(Errno::INVAL) if self.behaviour == Behaviour::InlineWrongLength => {
                let errno = Errno::IO.raw_os_error().unsigned_abs();
                let mut payload = Vec::new();
                Failure { errno }.write_to(|bytes| payload.extend_from_slice(bytes));
                match self.write(&message(Operation::Failed, id, &payload)) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(errno) => Err(Error::Finding(format!("a failure was refused: {errno}"))),
                }
            }
            Err(errno) => Err(Error::Finding(format!(
                "the answer {operation:?} was refused: {errno}"
            ))),
        }
    }

    fn reply_file(&self, id: u64, file: BorrowedFd<'_>) -> Result<()> {
        match ioctl::reply_file(self.device.as_fd(), id, file) {
            Err(error) if error.raw_os_error() != Some(Errno::NOENT.raw_os_error()) => {
                Err(Error::Finding(format!("a file was refused: {error}")))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, message: &[u8]) -> Result<(), Errno> {
        let written = (&self.device).write(message);
        match written {
            Ok(_) => Ok(()),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL)),
        }
    }

    fn insist(&self, what: &str, result: Result<(), Errno>, allowed: &[Errno]) -> Result<()> {
        ensure(result.is_err_and(|errno| allowed.contains(&errno)), || {
            format!("{what}: {result:?} instead of {allowed:?}")
        })
    }

    fn answer_under_other_ids(&mut self, id: u64, request: &Request) -> Result<()> {
        let payload = match request {
            Request::Blob(blob) => self.source.blob(&blob.digest)?,
            Request::Chunks(chunks) => inline(&self.source.chunks(chunks)?.0),
        };
        let readable = self.target.readable()?;
        // The next ids may be those of requests that were read with this one.
        for other in [0, self.answered, id + 100_000, u64::MAX, id ^ (1 << 63)] {
            for (operation, payload) in [(Operation::Data, &payload[..]), (Operation::Filled, &[])]
            {
                let result = self.write(&message(operation, other, payload));
                self.insist("an answer under another id", result, &[Errno::NOENT])?;
            }
            let result = ioctl::reply_file(self.device.as_fd(), other, readable.as_fd())
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
            self.insist("a file under another id", result, &[Errno::NOENT])?;
        }
        // Another opener may not answer for this one, even with the right id.
        let thief = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/peerfs");
        let thief = thief.map_err(Error::io("open", "/dev/peerfs".as_ref()))?;
        let answer = message(Operation::Filled, id, &[]);
        for attach in [false, true] {
            if attach {
                ioctl::attach(thief.as_fd(), self.target.directory()?.as_fd())
                    .map_err(Error::io("attach", "/dev/peerfs".as_ref()))?;
            }
            let result = (&thief).write(&answer).map(drop);
            let result =
                result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
            self.insist(
                "another opener's answer",
                result,
                &[Errno::NOENT, Errno::NOTCONN],
            )?;
        }
        Ok(())
    }

    fn answer_garbage(&mut self, id: u64) -> Result<()> {
        let refused = [Errno::INVAL, Errno::NOENT];
        let good = message(Operation::Filled, id, &[]);
        for length in 0..good.len() {
            let result = self.write(&good[..length]);
            if length == 0 {
                // Nothing may also mean nothing.
                continue;
            }
            self.insist("a part of an answer", result, &refused)?;
        }
        // Magic, version, operation, length: one byte of each changed.
        for place in [0, 3, 4, 6, 16, 19] {
            let mut bad = good.clone();
            bad[place] ^= 0x55;
            self.insist("a changed header", self.write(&bad), &refused)?;
        }
        for length in [1, 24, 25, 100, 5000, 300_000] {
            let mut noise = vec![0; length];
            self.rng.fill(&mut noise);
            self.insist("noise", self.write(&noise), &refused)?;
            for operation in [
                Operation::Filled,
                Operation::Failed,
                Operation::FetchBlob,
                Operation::Cancel,
            ] {
                let result = self.write(&message(operation, id, &noise));
                self.insist("noise behind a header", result, &refused)?;
            }
        }
        let too_long = vec![0; peerfs_format::upcall::REPLY_MAX + 1];
        self.insist(
            "an answer that is too long",
            self.write(&too_long),
            &refused,
        )?;

        let refused_files = [Errno::INVAL, Errno::XDEV, Errno::BADF, Errno::ISDIR];
        let write_only = self.target.write_only()?;
        let directory = self.target.directory()?;
        let elsewhere = File::open("/dev/null").map_err(Error::io("open", "/dev/null".as_ref()))?;
        for (what, file) in [
            ("a write-only file", &write_only),
            ("a directory", &directory),
            ("a file of elsewhere", &elsewhere),
            ("the device itself", &self.device),
        ] {
            let result = ioctl::reply_file(self.device.as_fd(), id, file.as_fd())
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
            self.insist(what, result, &refused_files)?;
        }
        Ok(())
    }
}

fn message(operation: Operation, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(payload.len() + 24);
    write_message(operation, id, payload, |bytes| {
        message.extend_from_slice(bytes)
    });
    message
}

/// The payload of a Data reply.
fn inline(chunks: &[StoredChunk]) -> Vec<u8> {
    let mut payload = Vec::new();
    for chunk in chunks {
        payload.extend_from_slice(&chunk.number.to_le_bytes());
        payload.extend_from_slice(&(chunk.bytes.len() as u32).to_le_bytes());
        payload.extend_from_slice(&chunk.bytes);
    }
    payload
}
