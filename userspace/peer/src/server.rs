// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Serves exchange streams that peers open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, SinkExt};
use libp2p::{PeerId, Stream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::codec::{self, FrameReader, FrameWriter, ReadError};
use crate::frame::{Reply, Request};
use crate::inbound::Opened;
use crate::limits::{
    DATA_MAX, READS_AHEAD, READS_MAX, READ_TIMEOUT, STREAMS_MAX, STREAMS_PER_PEER, WRITE_TIMEOUT,
};
use crate::peer_table::PeerTable;
use crate::responder::{BlobPiece, Done, Responder, Step};
use crate::token_bucket::TokenBucket;
use crate::{NodeConfig, Provider, Violation};

/// What all served streams share.
pub(crate) struct Server {
    provider: Arc<dyn Provider>,
    peers: Arc<PeerTable>,
    /// Reads wait here in the order in which they come. As a stream has few of them waiting, each
    /// stream gets its turn, however much it has asked for.
    reads: Semaphore,
    upload: Option<Mutex<TokenBucket>>,
    /// The streams that each peer has.
    streams: Mutex<HashMap<PeerId, usize>>,
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
            streams: Mutex::default(),
            tasks,
            shutdown,
        }
    }

    /// Serves a stream in a task of its own until `shutdown`, if the peer has not too many.
    pub(crate) fn accept(self: &Arc<Self>, opened: Opened) {
        let Opened { peer, stream } = opened;
        let Some(slot) = StreamSlot::take(self, peer) else {
            tracing::debug!(%peer, "refused a stream, there are too many");
            return;
        };
        self.tasks.spawn(async move {
            let server = &slot.server;
            let served = server.serve(peer, stream);
            if let Some(Err(error)) = server.shutdown.run_until_cancelled(served).await {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "stream ended");
            }
        });
    }

    async fn serve(&self, peer: PeerId, stream: Stream) -> Result<(), ServeError> {
        let (mut reader, mut writer) = codec::accepted(stream);
        let session = Session::default();
        // Reading never waits for writing, so that two nodes can't wait for each other for ever.
        tokio::select! {
            result = session.read(&mut reader) => result,
            result = self.write(peer, &session, &mut writer) => result,
        }
    }

    async fn write(
        &self,
        peer: PeerId,
        session: &Session,
        writer: &mut FrameWriter<Reply>,
    ) -> Result<(), ServeError> {
        let mut reads = FuturesUnordered::new();
        loop {
            let refused = session.lock().refused.pop();
            while reads.len() < READS_AHEAD {
                let Some(step) = session.lock().responder.next() else {
                    break;
                };
                reads.push(self.perform(step));
            }
            let reply = match refused {
                Some(busy) => Some(busy),
                None => match reads.next().now_or_never().flatten() {
                    Some(done) => session.lock().responder.finish(done),
                    None => {
                        // Nothing to send at the moment: what was collected goes out.
                        within(WRITE_TIMEOUT, writer.flush()).await?;
                        tokio::select! {
                            Some(done) = reads.next() => session.lock().responder.finish(done),
                            () = session.changed.notified() => None,
                        }
                    }
                },
            };
            if let Some(reply) = reply {
                self.send(peer, writer, reply).await?;
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
        Ok(())
    }

    /// Reads what a step needs.
    async fn perform(&self, step: Step) -> Done {
        // Only closed when the node is gone, and then nobody waits for the answer.
        let _permit = self.reads.acquire().await;
        match step {
            Step::Have { request, digest } => {
                let have = timeout(READ_TIMEOUT, self.provider.have(&digest)).await;
                let have = have.unwrap_or(crate::Have::Absent);
                let reply = Reply::Presence { request, have };
                Done { reply, rest: None }
            }
            Step::Blob(piece) => {
                let request = piece.request;
                let read = timeout(READ_TIMEOUT, self.read_blob(piece)).await;
                read.ok().flatten().unwrap_or(Done {
                    reply: Reply::BlobNotFound { request },
                    rest: None,
                })
            }
            Step::Chunk {
                request,
                pack,
                index,
                number,
            } => {
                let read = self.provider.read_chunk(&pack, &index, number);
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
                Done { reply, rest: None }
            }
        }
    }

    async fn read_blob(&self, mut piece: BlobPiece) -> Option<Done> {
        let request = piece.request;
        let length = match piece.length {
            Some(length) => length,
            None => self.provider.blob_length(&piece.digest).await?,
        };
        if length > piece.maximum {
            let reply = Reply::TooLarge { request, length };
            return Some(Done { reply, rest: None });
        }
        let size = length.checked_sub(piece.offset)?.min(u64::from(DATA_MAX)) as u32;
        let data = self.provider.read_blob(&piece.digest, piece.offset, size);
        let data = data.await.filter(|data| data.len() == size as usize)?;
        piece.offset += u64::from(size);
        piece.length = Some(length);
        let reply = Reply::BlobData {
            request,
            length,
            data,
        };
        let rest = (piece.offset < length).then_some(piece);
        Some(Done { reply, rest })
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

/// One of the streams that a peer may have.
struct StreamSlot {
    server: Arc<Server>,
    peer: PeerId,
}

impl StreamSlot {
    fn take(server: &Arc<Server>, peer: PeerId) -> Option<Self> {
        let mut streams = lock(&server.streams);
        let all: usize = streams.values().sum();
        let count = streams.entry(peer).or_default();
        if *count >= STREAMS_PER_PEER || all >= STREAMS_MAX {
            if *count == 0 {
                streams.remove(&peer);
            }
            return None;
        }
        *count += 1;
        Some(StreamSlot {
            server: server.clone(),
            peer,
        })
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut streams = lock(&self.server.streams);
        if let Some(count) = streams.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                streams.remove(&self.peer);
            }
        }
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
