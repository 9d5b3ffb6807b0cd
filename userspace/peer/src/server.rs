// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Serves exchange streams that peers open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, SinkExt};
use libp2p::{PeerId, Stream};
use peerfs_exchange::frame::{Reply, Request};
use peerfs_exchange::limits::{
    DATA_MAX, READS_AHEAD, READS_MAX, READ_TIMEOUT, STREAM_IDLE, WRITE_TIMEOUT,
};
use peerfs_exchange::{
    BlobPiece, Done, Have, Ledger, Responder, Step, TokenBucket, Violation, QUESTION,
};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::codec::{self, FrameReader, FrameWriter, ReadError};
use crate::inbound::Opened;
use crate::peer_table::{PeerTable, Waiting};
use crate::streams::{Slot, Streams};
use crate::{NodeConfig, Provider, Work};

/// What all served streams share.
pub(crate) struct Server {
    provider: Arc<dyn Provider>,
    peers: Arc<PeerTable>,
    /// Reads wait here in the order in which they come. As a stream has few of them waiting, each
    /// stream gets its turn, however much it has asked for.
    reads: Semaphore,
    upload: Option<Mutex<TokenBucket>>,
    /// The streams that peers have.
    streams: Arc<Mutex<Streams>>,
    /// What was done for each peer and not paid by what it was sent.
    ledger: Arc<Mutex<Ledger<PeerId>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Why serving a stream ended.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the peer broke the protocol")]
    Violation(#[from] Violation),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the connection ended")]
    Write(#[from] std::io::Error),
    #[error("the peer took nothing for {WRITE_TIMEOUT:?}")]
    Stalled,
    #[error("the peer was sent nothing for {STREAM_IDLE:?}")]
    Idle,
}

impl Server {
    pub(crate) fn new(
        config: &NodeConfig,
        provider: Arc<dyn Provider>,
        peers: Arc<PeerTable>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Server {
            provider,
            peers,
            reads: Semaphore::new(READS_MAX),
            upload: config
                .upload_limit
                .map(|rate| Mutex::new(TokenBucket::new(rate, Instant::now()))),
            streams: Arc::default(),
            ledger: Arc::new(Mutex::new(Ledger::new(Instant::now()))),
            tasks,
            shutdown,
        }
    }

    /// Serves a stream in a task of its own until `shutdown`, if the peer has not too many. When there are
    /// too many in all, the one that was idle longest makes room.
    pub(crate) fn accept(self: &Arc<Self>, opened: Opened) {
        let Opened { peer, stream } = opened;
        let Some(slot) = Streams::take(&self.streams, peer, Instant::now()) else {
            tracing::debug!(%peer, "refused a stream, there are too many");
            return;
        };
        let server = Arc::clone(self);
        self.tasks.spawn(async move {
            let served = server.serve(peer, stream, &slot);
            let served = slot.ended().run_until_cancelled(served);
            if let Some(Some(Err(error))) = server.shutdown.run_until_cancelled(served).await {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "stream ended");
            }
        });
    }

    async fn serve(&self, peer: PeerId, stream: Stream, slot: &Slot) -> Result<(), ServeError> {
        let (mut reader, mut writer) = codec::accepted(stream);
        let session = Session::default();
        // Reading never waits for writing, so that two nodes can't wait for each other for ever.
        tokio::select! {
            result = session.read(&mut reader) => result,
            result = self.write(peer, &session, &mut writer, slot) => result,
        }
    }

    async fn write(
        &self,
        peer: PeerId,
        session: &Session,
        writer: &mut FrameWriter<Reply>,
        slot: &Slot,
    ) -> Result<(), ServeError> {
        let mut reads = FuturesUnordered::new();
        let mut waiting = Waiting::new(self.peers.clone(), peer);
        // Since the last reply, whatever the peer sent meanwhile.
        let mut idle_since = Instant::now();
        loop {
            let refused = session.lock().refused.pop();
            while reads.len() < READS_AHEAD {
                let Some(step) = session.lock().responder.next_step() else {
                    break;
                };
                reads.push(self.perform(peer, step));
            }
            let reply = match refused {
                Some(busy) => Some(busy),
                None => match reads.next().now_or_never().flatten() {
                    Some(done) => session.lock().responder.finish(done),
                    None => {
                        // Nothing to send at the moment: what was collected goes out.
                        within(WRITE_TIMEOUT, writer.flush()).await?;
                        let idle = reads.is_empty();
                        waiting.set(!idle);
                        slot.set_idle(idle.then_some(idle_since));
                        tokio::select! {
                            Some(done) = reads.next() => session.lock().responder.finish(done),
                            () = session.changed.notified() => None,
                            () = sleep_until((idle_since + STREAM_IDLE).into()), if idle => {
                                return Err(ServeError::Idle);
                            }
                        }
                    }
                },
            };
            if let Some(reply) = reply {
                waiting.set(true);
                slot.set_idle(None);
                self.send(peer, writer, reply).await?;
                idle_since = Instant::now();
            }
        }
    }

    async fn send(
        &self,
        peer: PeerId,
        writer: &mut FrameWriter<Reply>,
        reply: Reply,
    ) -> Result<(), ServeError> {
        let bytes = reply.data_length();
        if let Some(upload) = &self.upload {
            let delay = lock(upload).take(bytes, Instant::now());
            sleep(delay).await;
        }
        within(WRITE_TIMEOUT, writer.feed(reply)).await?;
        self.peers.sent(peer, bytes);
        if bytes > 0 {
            lock(&self.ledger).paid(peer, u64::from(bytes));
        }
        Ok(())
    }

    /// Does what a step needs, if the peer has not caused too much for nothing already.
    async fn perform(&self, peer: PeerId, step: Step) -> Done {
        let (request, reserved) = (step.request(), step.reserved());
        let work = Work::for_peer(&self.ledger, peer);
        let mut answer = None;
        if work.charge(QUESTION) {
            // Only closed when the node is gone, and then nobody waits for the answer.
            let _permit = self.reads.acquire().await;
            answer = Some(self.answer(step, &work).await);
        }
        let (reply, rest) = match answer {
            Some(answer) if !work.was_refused() => answer,
            _ => (Reply::Busy { request }, None),
        };
        Done {
            reply,
            rest,
            reserved,
        }
    }

    async fn answer(&self, step: Step, work: &Work) -> (Reply, Option<BlobPiece>) {
        match step {
            Step::Have { request, digest } => {
                let have = timeout(READ_TIMEOUT, self.provider.have(&digest, work)).await;
                let have = have.unwrap_or(Have::Absent);
                (Reply::Presence { request, have }, None)
            }
            Step::Blob(piece) => {
                let request = piece.request;
                let read = timeout(READ_TIMEOUT, self.read_blob(piece, work)).await;
                read.ok()
                    .flatten()
                    .unwrap_or((Reply::BlobNotFound { request }, None))
            }
            Step::Chunk {
                request,
                pack,
                index,
                number,
            } => {
                let read = self.provider.read_chunk(&pack, &index, number, work);
                let data = timeout(READ_TIMEOUT, read).await.ok().flatten();
                let fits = |length| (1..=DATA_MAX as usize).contains(&length);
                let reply = match data.filter(|data| fits(data.len())) {
                    Some(data) => Reply::ChunkData {
                        request,
                        number,
                        data,
                    },
                    None => Reply::ChunkNotFound { request, number },
                };
                (reply, None)
            }
        }
    }

    /// The next piece of a blob. How long it is is known before anything of it is read.
    async fn read_blob(
        &self,
        mut piece: BlobPiece,
        work: &Work,
    ) -> Option<(Reply, Option<BlobPiece>)> {
        let request = piece.request;
        let length = match piece.length {
            Some(length) => length,
            None => self.provider.blob_length(&piece.digest, work).await?,
        };
        if length > piece.maximum.min(self.provider.blob_max()) {
            return Some((Reply::TooLarge { request, length }, None));
        }
        let size = length.checked_sub(piece.offset)?.min(u64::from(DATA_MAX)) as u32;
        let data = self
            .provider
            .read_blob(&piece.digest, piece.offset, size, work);
        let data = data.await.filter(|data| data.len() == size as usize)?;
        piece.offset += u64::from(size);
        piece.length = Some(length);
        let reply = Reply::BlobData {
            request,
            length,
            data,
        };
        let rest = (piece.offset < length).then_some(piece);
        Some((reply, rest))
    }
}

/// The state of one served stream.
#[derive(Default)]
struct Session {
    state: Mutex<SessionState>,
    changed: Notify,
}

#[derive(Default)]
struct SessionState {
    responder: Responder,
    /// Requests that are answered with `Busy`. Not more than a peer can send while one reply is
    /// written, and no more than [`REFUSED_MAX`].
    refused: Vec<Reply>,
}

/// A peer that does not heed `Busy` is cut off.
const REFUSED_MAX: usize = 1024;

impl Session {
    fn lock(&self) -> MutexGuard<'_, SessionState> {
        lock(&self.state)
    }

    async fn read(&self, reader: &mut FrameReader<Request>) -> Result<(), ServeError> {
        while let Some(frame) = reader.next().await {
            let frame = frame?;
            let mut state = self.lock();
            if let Some(busy) = state.responder.receive(frame)? {
                if state.refused.len() >= REFUSED_MAX {
                    return Err(Violation::BusyIgnored.into());
                }
                state.refused.push(busy);
            }
            drop(state);
            self.changed.notify_one();
        }
        Ok(())
    }
}

/// Nothing that is done under these locks can leave the data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn within<T>(
    limit: Duration,
    work: impl std::future::Future<Output = std::io::Result<T>>,
) -> Result<T, ServeError> {
    Ok(timeout(limit, work)
        .await
        .map_err(|_| ServeError::Stalled)??)
}
