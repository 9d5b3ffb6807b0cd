// SPDX-License-Identifier: GPL-2.0 OR MIT

use std::fs::File;
use std::future::{self, Future};
use std::io;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use peerfs_format::upcall::{
    write_message, Failure, FetchBlob, FetchChunks, Header, Operation, Workload, MAGIC,
};
use peerfs_format::{Digest, Record};
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;

/// Plays the kernel at the other end of a socket pair.
struct FakeKernel {
    socket: UnixDatagram,
    files: mpsc::UnboundedReceiver<(u64, File)>,
}

struct FakeIoctls(mpsc::UnboundedSender<(u64, File)>);

impl Ioctls for FakeIoctls {
    fn attach(&self, _device: BorrowedFd<'_>, _store: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn reply_file(&self, _device: BorrowedFd<'_>, id: u64, file: BorrowedFd<'_>) -> io::Result<()> {
        if id == STALE {
            return Err(Errno::ENOENT.into());
        }
        self.0
            .send((id, file.try_clone_to_owned()?.into()))
            .unwrap();
        Ok(())
    }

    fn reply_places(
        &self,
        device: BorrowedFd<'_>,
        id: u64,
        table: BorrowedFd<'_>,
        _slots: &[(u32, BorrowedFd<'_>)],
    ) -> io::Result<()> {
        self.reply_file(device, id, table)
    }

    fn used(&self, _device: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        Err(Errno::ENOTTY.into())
    }
}

/// A request that the fake kernel does not know any more when it is answered.
const STALE: u64 = 404;
/// Handled at once.
const THERE: Digest = Digest([1; 32]);
/// Fails at once.
const NOWHERE: Digest = Digest([2; 32]);
/// Never handled.
const SLOW: Digest = Digest([3; 32]);

#[derive(Default)]
struct FakeHandler {
    waiting: Arc<AtomicUsize>,
    in_flight: Mutex<Vec<usize>>,
}

#[async_trait]
impl RequestHandler for FakeHandler {
    async fn handle(&self, request: Request) -> Result<Answer, Errno> {
        let digest = match request {
            Request::Blob(request) => request.digest,
            Request::Chunks(request) => request.pack,
        };
        match digest {
            THERE => {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(b"content").unwrap();
                Ok(Answer::File(Arc::new(file)))
            }
            NOWHERE => Err(Errno::EHOSTUNREACH),
            _ => {
                let _guard = Waiting::new(&self.waiting);
                future::pending().await
            }
        }
    }

    fn in_flight(&self, requests: usize) {
        self.in_flight.lock().unwrap().push(requests);
    }
}

struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Waiting(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Bench {
    kernel: FakeKernel,
    handler: Arc<FakeHandler>,
    shutdown: CancellationToken,
    server: JoinHandle<io::Result<()>>,
}

impl Bench {
    fn new(limit: usize) -> Self {
        let (kernel, daemon) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let (sender, files) = mpsc::unbounded_channel();
        let device = Device::new(daemon, FakeIoctls(sender)).unwrap();
        let handler = Arc::new(FakeHandler::default());
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(
            Arc::new(device),
            Arc::clone(&handler) as Arc<dyn RequestHandler>,
            limit,
            shutdown.clone(),
        ));
        Bench {
            kernel: FakeKernel {
                socket: UnixDatagram::from_std(kernel.into()).unwrap(),
                files,
            },
            handler,
            shutdown,
            server,
        }
    }

    async fn send(&self, batch: &[u8]) {
        self.kernel.socket.send(batch).await.unwrap();
    }

    /// The next answer by file: the request and what the file holds.
    async fn file(&mut self) -> (u64, String) {
        let (id, file) = soon(self.kernel.files.recv()).await.unwrap();
        let mut content = String::new();
        let mut file = file;
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut content).unwrap();
        (id, content)
    }

    /// The next answer by message: the request and its errno.
    async fn failure(&self) -> (u64, Errno) {
        let mut message = [0; 4096];
        let length = soon(self.kernel.socket.recv(&mut message)).await.unwrap();
        let (header, payload) = Header::parse(&message[..length]).unwrap();
        assert_eq!(header.operation, Operation::Failed);
        assert_eq!(header.length as usize, length);
        let failure = Failure::parse(payload).unwrap();
        (header.id, Errno::from_raw(failure.errno as i32))
    }

    async fn waiting(&self, count: usize) {
        soon(async {
            while self.handler.waiting.load(Ordering::SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    async fn end(self) -> io::Result<()> {
        soon(self.server).await.unwrap()
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future)
        .await
        .expect("within ten seconds")
}

fn message(operation: Operation, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    write_message(operation, id, payload, |bytes| {
        message.extend_from_slice(bytes);
    });
    message
}

fn blob(id: u64, digest: Digest, priority: u32) -> Vec<u8> {
    let request = FetchBlob {
        digest,
        manifest: digest,
        workload: Workload::default(),
        length: 0,
        kind: 0,
        priority,
    };
    let mut payload = Vec::new();
    request.write_to(|bytes| payload.extend_from_slice(bytes));
    message(Operation::FetchBlob, id, &payload)
}

fn chunks(id: u64, pack: Digest, first_chunk: u32, chunk_count: u32) -> Vec<u8> {
    let request = FetchChunks {
        pack,
        index: pack,
        manifest: pack,
        workload: Workload::default(),
        first_chunk,
        chunk_count,
        priority: 0,
        flags: 0,
    };
    let mut payload = Vec::new();
    request.write_to(|bytes| payload.extend_from_slice(bytes));
    message(Operation::FetchChunks, id, &payload)
}

#[tokio::test]
async fn each_request_of_a_batch_is_answered() {
    let mut bench = Bench::new(16);
    let batch = [
        blob(1, THERE, 0),
        blob(2, NOWHERE, 0),
        chunks(3, THERE, 0, 64),
    ];
    bench.send(&batch.concat()).await;
    let mut files = [bench.file().await, bench.file().await];
    files.sort();
    assert_eq!(files, [(1, "content".into()), (3, "content".into())]);
    assert_eq!(bench.failure().await, (2, Errno::EHOSTUNREACH));
    soon(async {
        while bench.handler.in_flight.lock().unwrap().last() != Some(&0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    bench.shutdown.cancel();
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_cancelled_request_is_dropped_and_not_answered() {
    let mut bench = Bench::new(16);
    bench.send(&blob(1, SLOW, 0)).await;
    bench.waiting(1).await;
    let cancel = message(Operation::Cancel, 1, &[]);
    bench.send(&[cancel, blob(2, THERE, 0)].concat()).await;
    assert_eq!(bench.file().await.0, 2);
    bench.waiting(0).await;
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_no_error() {
    let mut bench = Bench::new(16);
    bench.send(&blob(STALE, THERE, 0)).await;
    bench.send(&blob(1, THERE, 0)).await;
    assert_eq!(bench.file().await.0, 1);
}

#[tokio::test]
async fn a_request_that_is_not_understood_is_answered() {
    let mut bench = Bench::new(16);
    let batch = [
        message(Operation::FetchBlob, 1, b"short"),
        chunks(2, THERE, 0, 0),
        chunks(3, THERE, 0, 65),
        chunks(4, THERE, u32::MAX, 1),
        message(Operation::Failed, 5, &[]),
        blob(6, THERE, 0),
    ];
    bench.send(&batch.concat()).await;
    for id in 1..=5 {
        assert_eq!(bench.failure().await, (id, Errno::EIO));
    }
    assert_eq!(bench.file().await.0, 6);
}

#[tokio::test]
async fn readahead_leaves_room_for_readers() {
    let mut bench = Bench::new(4);
    for id in 1..=3 {
        bench.send(&blob(id, SLOW, 1)).await;
    }
    assert_eq!(bench.failure().await, (3, Errno::ENOMEM));
    for id in 4..=6 {
        bench.send(&blob(id, SLOW, 0)).await;
    }
    assert_eq!(bench.failure().await, (6, Errno::ENOMEM));
    bench.send(&message(Operation::Cancel, 1, &[])).await;
    bench.send(&blob(7, THERE, 0)).await;
    assert_eq!(bench.file().await.0, 7);
}

#[tokio::test]
async fn what_is_not_the_protocol_ends_the_service() {
    let bench = Bench::new(4);
    bench.send(&MAGIC.to_le_bytes()).await;
    let error = bench.end().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_kernel_that_is_gone_ends_the_service() {
    let bench = Bench::new(4);
    bench.send(&blob(1, SLOW, 0)).await;
    bench.waiting(1).await;
    drop(bench.kernel);
    let error = soon(bench.server).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(bench.handler.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn at_shutdown_requests_stay_with_the_kernel() {
    let bench = Bench::new(4);
    bench.send(&blob(1, SLOW, 0)).await;
    bench.waiting(1).await;
    bench.shutdown.cancel();
    soon(bench.server).await.unwrap().unwrap();
    assert_eq!(bench.handler.waiting.load(Ordering::SeqCst), 0);
    let mut message = [0; 16];
    // Not a message, but the end.
    assert_eq!(
        soon(bench.kernel.socket.recv(&mut message)).await.unwrap(),
        0
    );
}
