// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A kernel at the other end of a socket pair.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use peerfs_daemon::upcall::{serve, Device, Ioctls, RequestHandler};
use peerfs_format::upcall::{
    write_message, Failure, FetchBlob, FetchChunks, Header, Operation, Workload,
};
use peerfs_format::{Digest, PackRecord, Place, PlacesHeader, Record};
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, Mutex};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{soon, TestImage};

/// Asks one question at a time.
pub struct FakeKernel {
    socket: UnixDatagram,
    answers: Mutex<mpsc::UnboundedReceiver<(u64, Answered)>>,
    last_id: AtomicU64,
    _stop: DropGuard,
}

struct FakeIoctls(mpsc::UnboundedSender<(u64, Answered)>);

/// What a request was answered with.
pub enum Answered {
    File(File),
    /// A table of places, and the files of some slots.
    Places(File, Vec<(u32, File)>),
}

impl Answered {
    /// The one file that it was answered with.
    fn into_file(self) -> File {
        match self {
            Answered::File(file) => file,
            Answered::Places(_, slots) => {
                assert_eq!(slots.len(), 1);
                slots.into_iter().next().unwrap().1
            }
        }
    }

    /// Checks that chunks are where it says.
    pub fn check(&self, image: &TestImage, chunks: Range<u32>) {
        for chunk in chunks {
            let expected = &image.chunks[chunk as usize];
            let (file, offset) = match self {
                Answered::File(file) => (file, image.offset(chunk)),
                Answered::Places(table, slots) => {
                    let mut entry = [0; 8];
                    let offset = PlacesHeader::place_offset(chunk);
                    table.read_exact_at(&mut entry, offset).unwrap();
                    let place = Place::of_entry(u64::from_le_bytes(entry)).unwrap();
                    let slot = slots.iter().find(|(slot, _)| *slot == place.slot);
                    (&slot.unwrap().1, place.offset)
                }
            };
            let mut bytes = vec![0; expected.len()];
            file.read_exact_at(&mut bytes, offset).unwrap();
            assert!(bytes == *expected, "chunk {chunk}");
        }
    }
}

impl Ioctls for FakeIoctls {
    fn attach(&self, _device: BorrowedFd<'_>, _store: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn reply_file(&self, _device: BorrowedFd<'_>, id: u64, file: BorrowedFd<'_>) -> io::Result<()> {
        // The kernel may be gone at the end of a test.
        let _ = self
            .0
            .send((id, Answered::File(file.try_clone_to_owned()?.into())));
        Ok(())
    }

    fn reply_places(
        &self,
        _device: BorrowedFd<'_>,
        id: u64,
        table: BorrowedFd<'_>,
        slots: &[(u32, BorrowedFd<'_>)],
    ) -> io::Result<()> {
        let slots = slots
            .iter()
            .map(|(slot, file)| Ok((*slot, file.try_clone_to_owned()?.into())));
        let slots = slots.collect::<io::Result<_>>()?;
        let answered = Answered::Places(table.try_clone_to_owned()?.into(), slots);
        let _ = self.0.send((id, answered));
        Ok(())
    }

    fn used(&self, _device: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        Err(Errno::ENOTTY.into())
    }
}

impl FakeKernel {
    pub fn new(handler: Arc<dyn RequestHandler>) -> Self {
        let (kernel, daemon) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let (sender, answers) = mpsc::unbounded_channel();
        let device = Arc::new(Device::new(daemon, FakeIoctls(sender)).unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(serve(device, handler, 1024, stop.clone()));
        FakeKernel {
            socket: UnixDatagram::from_std(kernel.into()).unwrap(),
            answers: Mutex::new(answers),
            last_id: AtomicU64::new(0),
            _stop: stop.drop_guard(),
        }
    }

    /// Asks for a metadata blob of an image.
    pub async fn fetch_blob(&self, image: &TestImage, digest: Digest) -> Result<File, Errno> {
        let request = FetchBlob {
            digest,
            manifest: image.manifest,
            workload: Workload::default(),
            length: 0,
            kind: 0,
            priority: 0,
        };
        let answered = self.ask(Operation::FetchBlob, &request).await;
        answered.map(Answered::into_file)
    }

    /// Asks for chunks of an image's pack.
    pub async fn fetch_chunks(
        &self,
        image: &TestImage,
        first_chunk: u32,
        chunk_count: u32,
        flags: u32,
    ) -> Result<File, Errno> {
        self.fetch_chunks_of(&image.pack, image, first_chunk, chunk_count, flags)
            .await
    }

    /// As [`FakeKernel::fetch_chunks`], for chunks that may be in several files.
    pub async fn fetch_places(
        &self,
        image: &TestImage,
        first_chunk: u32,
        chunk_count: u32,
        flags: u32,
    ) -> Result<Answered, Errno> {
        self.ask_chunks(&image.pack, image, first_chunk, chunk_count, flags)
            .await
    }

    /// Asks for chunks of a pack that an image says it has.
    pub async fn fetch_chunks_of(
        &self,
        pack: &PackRecord,
        image: &TestImage,
        first_chunk: u32,
        chunk_count: u32,
        flags: u32,
    ) -> Result<File, Errno> {
        let answered = self.ask_chunks(pack, image, first_chunk, chunk_count, flags);
        answered.await.map(Answered::into_file)
    }

    /// Asks for chunks of an image's pack ahead of a reader.
    pub async fn read_ahead(&self, image: &TestImage, chunks: Range<u32>) -> Result<(), Errno> {
        let request = FetchChunks {
            priority: 1,
            ..chunks_of(&image.pack, image, chunks.start, chunks.end - chunks.start)
        };
        self.ask(Operation::FetchChunks, &request).await.map(drop)
    }

    async fn ask_chunks(
        &self,
        pack: &PackRecord,
        image: &TestImage,
        first_chunk: u32,
        chunk_count: u32,
        flags: u32,
    ) -> Result<Answered, Errno> {
        let request = FetchChunks {
            flags,
            ..chunks_of(pack, image, first_chunk, chunk_count)
        };
        self.ask(Operation::FetchChunks, &request).await
    }

    /// Asks, and waits for the answer: the file, or the errno.
    async fn ask(&self, operation: Operation, request: &impl Record) -> Result<Answered, Errno> {
        // One question at a time: whatever comes answers it.
        let mut answers = self.answers.lock().await;
        let id = self.last_id.fetch_add(1, Ordering::SeqCst) + 1;
        let mut payload = Vec::new();
        request.write_to(|bytes| payload.extend_from_slice(bytes));
        let mut message = Vec::new();
        write_message(operation, id, &payload, |bytes| {
            message.extend_from_slice(bytes);
        });
        self.socket.send(&message).await.unwrap();
        let mut reply = [0; 64];
        soon(async {
            tokio::select! {
                Some((answered, answer)) = answers.recv() => {
                    assert_eq!(answered, id);
                    Ok(answer)
                }
                length = self.socket.recv(&mut reply) => {
                    let (header, payload) = Header::parse(&reply[..length.unwrap()]).unwrap();
                    assert_eq!((header.operation, header.id), (Operation::Failed, id));
                    let failure = Failure::parse(payload).unwrap();
                    Err(Errno::from_raw(failure.errno as i32))
                }
            }
        })
        .await
    }
}

/// What a reader asks for who waits for it.
fn chunks_of(
    pack: &PackRecord,
    image: &TestImage,
    first_chunk: u32,
    chunk_count: u32,
) -> FetchChunks {
    FetchChunks {
        pack: pack.digest,
        index: pack.index_digest,
        manifest: image.manifest,
        workload: Workload::default(),
        first_chunk,
        chunk_count,
        priority: 0,
        flags: 0,
    }
}
