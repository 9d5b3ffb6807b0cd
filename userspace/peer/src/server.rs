// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Serves exchange streams that peers open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, SinkExt};
use libp2p::{PeerId, Stream};
use peerfs_exchange::frame::{Reply, Request};
use peerfs_exchange::limits::{
    READS_MAX, READ_TIMEOUT, STREAM_IDLE, THROUGHS_MAX, THROUGH_TIMEOUT, WRITE_TIMEOUT,
};
use peerfs_exchange::{
    BlobForm, BlobStep, Found, Ledger, Outgoing, Refused, Responder, Step, Violation, QUESTION,
};
use tokio::sync::{watch, Notify, Semaphore};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::arrivals::ArrivalLog;
use crate::borrowing::Borrowing;
use crate::client::Client;
use crate::codec::{self, FrameReader, FrameWriter, ReadError};
use crate::followers::Followers;
use crate::inbound::Opened;
use crate::peer_table::{PeerTable, Waiting};
use crate::streams::{Slot, Streams};
use crate::upload::Upload;
use crate::{NodeConfig, Provider, Work};

/// What all served streams share.
pub(crate) struct Server {
    provider: Arc<dyn Provider>,
    peers: Arc<PeerTable>,
    /// Reads wait here in the order in which they come. As a stream has few of them waiting, each
    /// stream gets its turn, however much it has asked for.
    reads: Semaphore,
    /// Chunks that are being fetched for neighbours.
    throughs: Semaphore,
    upload: Arc<Upload>,
    /// The streams that peers have.
    streams: Arc<Mutex<Streams>>,
    /// What was done for each peer and not paid by what it was sent.
    ledger: Arc<Mutex<Ledger<PeerId>>>,
    /// What comes into the store.
    arrivals: Arc<ArrivalLog>,
    followers: Mutex<Followers>,
    borrowing: Borrowing,
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
        client: Arc<Client>,
        peers: Arc<PeerTable>,
        arrivals: Arc<ArrivalLog>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let upload = Arc::new(Upload::new(config.upload_limit));
        tasks.spawn({
            let (upload, shutdown) = (Arc::clone(&upload), shutdown.clone());
            async move { shutdown.run_until_cancelled(upload.run()).await }
        });
        Server {
            provider,
            borrowing: Borrowing::new(client, peers.clone()),
            peers,
            reads: Semaphore::new(READS_MAX),
            throughs: Semaphore::new(THROUGHS_MAX),
            upload,
            streams: Arc::default(),
            ledger: Arc::new(Mutex::new(Ledger::new(Instant::now()))),
            arrivals,
            followers: Mutex::default(),
            tasks,
            shutdown,
        }
    }

    /// Serves a stream in a task of its own until `shutdown`. When there are too many of the peer, or in all, the one that
    /// was idle longest makes room.
    pub(crate) fn accept(self: &Arc<Self>, opened: Opened) {
        let Opened { peer, stream, .. } = opened;
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
        let mut arrivals = self.arrivals.watch();
        loop {
            arrivals.mark_unchanged();
            session.tell(&self.arrivals);
            loop {
                let Some(step) = session.lock().next_step(&self.upload.copies()) else {
                    break;
                };
                reads.push(self.perform(peer, step));
            }
            let mut is_finished = false;
            while let Some(Some((step, found))) = reads.next().now_or_never() {
                session.lock().finish(step, found);
                is_finished = true;
            }
            let outgoing = session.lock().next_reply();
            if let Some(outgoing) = outgoing {
                waiting.set(true);
                slot.set_idle(None);
                self.send(peer, writer, outgoing).await?;
                idle_since = Instant::now();
                continue;
            }
            // What was found may lead to another step, and not to an answer.
            if is_finished {
                continue;
            }
            // Nothing to send at the moment: what was collected goes out.
            within(WRITE_TIMEOUT, writer.flush()).await?;
            let idle = reads.is_empty();
            waiting.set(!idle);
            slot.set_idle(idle.then_some(idle_since));
            let (tells_at, is_followed) = {
                let responder = session.lock();
                (responder.tells_at(Instant::now()), responder.is_followed())
            };
            tokio::select! {
                () = news(&mut arrivals, tells_at) => (),
                Some((step, found)) = reads.next() => session.lock().finish(step, found),
                () = session.changed.notified() => (),
                () = sleep_until((idle_since + STREAM_IDLE).into()), if idle && !is_followed => {
                    return Err(ServeError::Idle);
                }
            }
        }
    }

    async fn send(
        &self,
        peer: PeerId,
        writer: &mut FrameWriter<Reply>,
        outgoing: Outgoing,
    ) -> Result<(), ServeError> {
        let bytes = outgoing.reply.data_length();
        self.upload.turn(peer, outgoing.priority, bytes).await;
        let begun = Instant::now();
        within(WRITE_TIMEOUT, writer.feed(outgoing.reply)).await?;
        self.upload.sent(peer, bytes, begun.elapsed());
        self.peers.sent(peer, bytes);
        if let Some(pays) = outgoing.pays {
            lock(&self.ledger).paid(peer, pays);
        }
        Ok(())
    }

    /// Does what a step needs, if the peer has not caused too much for nothing already.
    async fn perform(&self, peer: PeerId, step: Step) -> (Step, Found) {
        if let Err(Refused { retry_after }) = self.upload.serves(peer, &step) {
            return (step, Found::Refused { retry_after });
        }
        let work = Work::for_peer(&self.ledger, peer);
        let mut found = Found::Nothing;
        if work.charge(QUESTION) {
            self.fetch_through(peer, &step).await;
            // Only closed when the node is gone, and then nobody waits for the answer.
            let _permit = self.reads.acquire().await;
            let read = timeout(READ_TIMEOUT, self.find(peer, &step, &work)).await;
            found = read.ok().flatten().unwrap_or(Found::Nothing);
        }
        if let Some(retry_after) = work.refused() {
            found = Found::Refused { retry_after };
        }
        self.upload.note_copy(&step, &found);
        (step, found)
    }

    /// Waits for a chunk that a neighbour asks to be fetched, if it is not here. Whoever waits has no turn to read.
    async fn fetch_through(&self, peer: PeerId, step: &Step) {
        let Step::Chunk {
            pack,
            index,
            number,
            priority,
            through: true,
            ..
        } = step
        else {
            return;
        };
        if !self.peers.is_neighbour(peer) {
            return;
        }
        // Who comes when all are taken gets its answer at once, and asks the origin itself.
        if let Ok(_turn) = self.throughs.try_acquire() {
            let fetch = self.provider.fetch_through(pack, index, *number, *priority);
            // Whether it has come is seen when it is read.
            let _ = timeout(THROUGH_TIMEOUT, fetch).await;
        }
    }

    /// What a step needs; `None` if it is not there.
    async fn find(&self, peer: PeerId, step: &Step, work: &Work) -> Option<Found> {
        match step {
            Step::Have { digest, .. } => Some(Found::Have(self.provider.have(digest, work).await)),
            Step::Blob(blob) => self.find_blob(blob, work).await,
            Step::Chunk {
                pack,
                index,
                number,
                ..
            } => {
                let read = self.provider.read_chunk(pack, index, *number, work);
                read.await.map(Found::Chunk)
            }
            Step::Image { manifest, .. } => {
                let packs = self.provider.packs_of(manifest, work).await?;
                // Nobody is led to images that are not here.
                lock(&self.followers).add(*manifest, peer);
                Some(Found::Image(packs))
            }
            Step::Map { pack, .. } => Some(Found::Have(self.provider.have(pack, work).await)),
            Step::Peers { manifest, .. } => {
                let followers = lock(&self.followers).of(manifest);
                Some(Found::Peers(self.peers.records(peer, &followers)))
            }
            Step::HavePack { pack, index, .. } => {
                let have = self.provider.have_by(pack, index, work).await;
                if let Some(have) = have {
                    return Some(Found::Have(have));
                }
                let blob = self.borrowing.ask(peer, *index).await?;
                self.provider.lend_index(pack, index, blob, work).await;
                let have = self.provider.have_by(pack, index, work).await;
                have.map(Found::Have)
            }
            Step::Suggest {
                pack, index, count, ..
            } => {
                let chunks = self.provider.whole_pack(pack, index, work).await?;
                let suggestion = self.upload.suggest(pack, chunks, *count);
                Some(Found::Suggestion(suggestion))
            }
            Step::Other { .. } => Some(Found::NotServed),
        }
    }

    /// The next piece of a blob. How long it is is known before anything of it is read.
    async fn find_blob(&self, step: &BlobStep, work: &Work) -> Option<Found> {
        let length = match step.form {
            Some(form) => form.length,
            None => self.provider.blob_length(&step.digest, work).await?,
        };
        if length > step.maximum.min(self.provider.blob_max()) {
            return Some(Found::TooLarge(length));
        }
        let before = work.charged();
        let read = self
            .provider
            .read_blob(&step.digest, step.zstd, step.offset, work);
        let piece = read.await?;
        Some(Found::Blob {
            form: BlobForm {
                encoding: piece.encoding,
                sent_length: piece.sent_length,
                length,
            },
            data: piece.data,
            cost: work.charged() - before,
        })
    }
}

/// Waits until there may be something to tell: from `tells_at` on, when something comes.
async fn news(arrivals: &mut watch::Receiver<u64>, tells_at: Option<Instant>) {
    let Some(tells_at) = tells_at else {
        return std::future::pending().await;
    };
    sleep_until(tells_at.into()).await;
    // Its sender is this node's.
    let _ = arrivals.changed().await;
}

/// The state of one served stream.
#[derive(Default)]
struct Session {
    responder: Mutex<Responder>,
    changed: Notify,
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, Responder> {
        lock(&self.responder)
    }

    /// Tells what has come, if the peer wants to know.
    fn tell(&self, arrivals: &ArrivalLog) {
        let mut responder = self.lock();
        if responder.is_followed() {
            responder.tell(&arrivals.lock(), Instant::now());
        }
    }

    async fn read(&self, reader: &mut FrameReader<Request>) -> Result<(), ServeError> {
        while let Some(frame) = reader.next().await {
            self.lock().receive(frame?)?;
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
