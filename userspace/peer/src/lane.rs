// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An exchange stream that this node opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::SinkExt;
use libp2p::{PeerId, Stream};
use peerfs_exchange::frame::{Reply, Request};
use peerfs_exchange::limits::{CLIENT_REQUESTS, LANE_IDLE};
use peerfs_exchange::{Abandoned, Priority, Requester, Violation};
use tokio::sync::{mpsc, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::codec::{self, FrameReader, FrameWriter, ReadError};
use crate::delivered::Taken;
use crate::peer_table::{PeerTable, Waiting};
use crate::want::{Resting, Sent, Want};
use crate::RequestError;

/// The handle of a stream: what is wanted goes in here.
#[derive(Clone)]
pub(crate) struct Lane {
    wants: mpsc::Sender<(Want, OwnedSemaphorePermit)>,
    permits: Arc<Semaphore>,
    resting: Resting,
}

/// What [`run`] needs to serve a lane.
pub(crate) struct Intake {
    wants: mpsc::Receiver<(Want, OwnedSemaphorePermit)>,
    resting: Resting,
}

impl Lane {
    /// A lane, and what [`run`] needs to serve it.
    pub(crate) fn new() -> (Self, Intake) {
        // As many as there are permits, so that there is always room.
        let (sender, wants) = mpsc::channel(CLIENT_REQUESTS);
        let resting = Resting::default();
        let lane = Lane {
            wants: sender,
            permits: Arc::new(Semaphore::new(CLIENT_REQUESTS)),
            resting: resting.clone(),
        };
        (lane, Intake { wants, resting })
    }

    /// How long nothing so urgent is to be asked on it.
    pub(crate) fn rests_for(&self, priority: Priority) -> Option<Duration> {
        self.resting.left(priority, Instant::now())
    }

    /// Whether the stream has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.wants.is_closed()
    }

    /// Sends a request, as soon as there are not too many outstanding; gives it back if the stream has
    /// ended before.
    pub(crate) async fn request(&self, want: Want) -> Result<(), Want> {
        let permit = tokio::select! {
            permit = self.permits.clone().acquire_owned() => permit.ok(),
            () = self.wants.closed() => None,
        };
        let Some(permit) = permit else {
            return Err(want);
        };
        let sent = self.wants.send((want, permit)).await;
        sent.map_err(|unsent| unsent.0 .0)
    }
}

/// Serves a lane until its stream ends, and then fails what is outstanding.
pub(crate) async fn run(
    peer: PeerId,
    stream: Stream,
    intake: Intake,
    peers: Arc<PeerTable>,
    stall_timeout: Duration,
    shutdown: CancellationToken,
) {
    let (reader, writer) = codec::opened(stream);
    let (requester, hello) = Requester::new();
    let Intake { mut wants, resting } = intake;
    let mut exchange = Exchange {
        peer,
        waiting: Waiting::new(peers.clone(), peer),
        peers,
        requester,
        taken: Arc::default(),
        resting,
        reader,
        writer,
        stall_timeout,
    };
    let served = shutdown.run_until_cancelled(exchange.serve(hello, &mut wants));
    let error = served.await.unwrap_or(RequestError::ShuttingDown);
    tracing::debug!(%peer, error = &error as &dyn std::error::Error, "stream ended");
    // Closed first, so that who is told asks again on a new stream.
    wants.close();
    for sent in exchange.requester.drain() {
        sent.answers.fail(error.clone());
    }
    while let Ok((want, _)) = wants.try_recv() {
        want.answers.fail(error.clone());
    }
}

struct Exchange {
    peer: PeerId,
    peers: Arc<PeerTable>,
    requester: Requester<Sent>,
    /// Bytes that were taken and not yet given back to the peer as credit.
    taken: Arc<Taken>,
    resting: Resting,
    reader: FrameReader<Reply>,
    writer: FrameWriter<Request>,
    stall_timeout: Duration,
    waiting: Waiting,
}

impl Exchange {
    /// Returns why the stream ended.
    async fn serve(
        &mut self,
        hello: Request,
        wants: &mut mpsc::Receiver<(Want, OwnedSemaphorePermit)>,
    ) -> RequestError {
        let result = async {
            self.send([hello]).await?;
            loop {
                self.step(wants).await?;
            }
        };
        let result: Result<std::convert::Infallible, RequestError> = result.await;
        match result {
            Err(error) => error,
        }
    }

    /// Waits for the next thing to do, and does it.
    async fn step(
        &mut self,
        wants: &mut mpsc::Receiver<(Want, OwnedSemaphorePermit)>,
    ) -> Result<(), RequestError> {
        let taken = Arc::clone(&self.taken);
        let stalled_at = self.stalled_at();
        let idle = self.requester.is_idle();
        self.waiting.set(!idle);
        tokio::select! {
            reply = self.reader.next() => self.receive(reply)?,
            want = wants.recv() => {
                // None when nobody holds the lane any more; what is outstanding is abandoned then.
                let (want, permit) = want.ok_or(RequestError::Disconnected)?;
                self.start(want, permit).await?;
            }
            () = sleep(LANE_IDLE) => if idle {
                return self.finish(wants).await;
            },
            () = taken.enough() => {
                self.grant().await?;
            }
            () = stall(stalled_at) => {
                if !self.cancel_abandoned().await? {
                    self.check_stalled()?;
                }
                return Ok(());
            }
        }
        self.cancel_abandoned().await.map(drop)
    }

    /// Gives up what nobody waits for any more; whether there was something.
    async fn cancel_abandoned(&mut self) -> Result<bool, RequestError> {
        let Abandoned { cancels, free } = self.requester.cancel_abandoned();
        self.taken.add(free);
        let some = !cancels.is_empty();
        self.send(cancels).await?;
        Ok(some)
    }

    /// When the peer counts as stalled, by what has come until now, of unfinished frames as well.
    fn stalled_at(&mut self) -> Option<Instant> {
        if let Some((request, at)) = self.reader.begun() {
            self.requester.progressed(request, at.into_std());
        }
        self.requester.stalled_at(self.stall_timeout)
    }

    fn check_stalled(&mut self) -> Result<(), RequestError> {
        match self.stalled_at() {
            Some(at) if at <= Instant::now() => Err(RequestError::Stalled(self.stall_timeout)),
            _ => Ok(()),
        }
    }

    async fn start(
        &mut self,
        want: Want,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), RequestError> {
        let sent = Sent {
            answers: want.answers,
            priority: want.wanted.priority(),
            taken: Arc::clone(&self.taken),
            resting: self.resting.clone(),
            _permit: permit,
        };
        let frame = self.requester.start(want.wanted, sent, Instant::now());
        self.send([frame]).await
    }

    /// Gives the peer credit for what was taken.
    async fn grant(&mut self) -> Result<(), RequestError> {
        let taken = self.taken.collect();
        let frame = taken.map(|bytes| self.requester.grant(bytes, Instant::now()));
        self.send(frame).await
    }

    /// Takes no more requests, and ends when those that came in this moment are answered. The next ones
    /// find the lane closed, and open another.
    async fn finish(
        &mut self,
        wants: &mut mpsc::Receiver<(Want, OwnedSemaphorePermit)>,
    ) -> Result<(), RequestError> {
        wants.close();
        while let Ok((want, permit)) = wants.try_recv() {
            self.start(want, permit).await?;
        }
        while !self.requester.is_idle() {
            let taken = Arc::clone(&self.taken);
            let stalled_at = self.stalled_at();
            tokio::select! {
                reply = self.reader.next() => self.receive(reply)?,
                () = taken.enough() => {
                    self.grant().await?;
                }
                () = stall(stalled_at) => self.check_stalled()?,
            }
        }
        Err(RequestError::Disconnected)
    }

    fn receive(&mut self, reply: Option<Result<Reply, ReadError>>) -> Result<(), RequestError> {
        match reply {
            Some(Ok(reply)) => {
                self.peers.received(self.peer, reply.data_length());
                let free = self.requester.receive(reply, Instant::now())?;
                self.taken.add(free);
                Ok(())
            }
            Some(Err(ReadError::Frame(error))) => Err(Violation::from(error).into()),
            Some(Err(ReadError::Unfinished(time))) => Err(RequestError::Stalled(time)),
            Some(Err(ReadError::Io(_))) | None => Err(RequestError::Disconnected),
        }
    }

    async fn send(
        &mut self,
        frames: impl IntoIterator<Item = Request>,
    ) -> Result<(), RequestError> {
        let mut frames = frames.into_iter().peekable();
        if frames.peek().is_none() {
            return Ok(());
        }
        let write = async {
            for frame in frames {
                self.writer.feed(frame).await?;
            }
            self.writer.flush().await
        };
        match timeout(self.stall_timeout, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(RequestError::Disconnected),
            Err(_) => Err(RequestError::Stalled(self.stall_timeout)),
        }
    }
}

async fn stall(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
