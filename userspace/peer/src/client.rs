// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Asks peers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream::Control;
use peerfs_exchange::frame::{Encoding, PeerRecord};
use peerfs_exchange::limits::CLIENT_CHUNKS;
use peerfs_exchange::{Have, Priority, Progress, Suggestion, Wanted};
use peerfs_format::Digest;
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::ban_list::BanList;
use crate::lane::{self, Lane};
use crate::peer_table::PeerTable;
use crate::want::{Answers, Listener, Want};
use crate::{blob_encoding, ChunkStream, NodeConfig, RequestError};

/// The exchange protocol.
pub(crate) const EXCHANGE_PROTOCOL: StreamProtocol = StreamProtocol::new("/peerfs/exchange/2");

/// Opens streams to peers and sends requests on them.
pub(crate) struct Client {
    control: Control,
    peers: Arc<PeerTable>,
    bans: Arc<BanList>,
    lanes: Mutex<HashMap<(PeerId, LaneKind), Arc<LaneSlot>>>,
    stall_timeout: Duration,
    connect_timeout: Duration,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What somebody waits for does not wait behind what nobody does, and news wait for neither, so there are three
/// streams.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum LaneKind {
    Demand,
    Ahead,
    News,
}

impl From<Priority> for LaneKind {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Demand => LaneKind::Demand,
            Priority::Readahead | Priority::Background => LaneKind::Ahead,
        }
    }
}

/// A lane, once it was opened. Locked while it is being opened.
type LaneSlot = tokio::sync::Mutex<Option<Lane>>;

impl Client {
    pub(crate) fn new(
        control: Control,
        config: &NodeConfig,
        peers: Arc<PeerTable>,
        bans: Arc<BanList>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Client {
            control,
            peers,
            bans,
            lanes: Mutex::default(),
            stall_timeout: config.stall_timeout,
            connect_timeout: config.connect_timeout,
            tasks,
            shutdown,
        }
    }

    pub(crate) async fn have(
        &self,
        peer: PeerId,
        digest: Digest,
        deadline: Instant,
    ) -> Result<Have, RequestError> {
        let (answer, answered) = mpsc::channel(1);
        let want = Want {
            wanted: Wanted::Have { digest },
            answers: Answers::Have(answer),
        };
        self.ask(peer, LaneKind::Demand, want, answered, deadline)
            .await
    }

    /// Follows an image at a peer; returns when it was asked, or tells the listener that it can't be.
    pub(crate) async fn follow(&self, peer: PeerId, manifest: Digest, listener: Arc<dyn Listener>) {
        let want = Want {
            wanted: Wanted::News { manifest },
            answers: Answers::News(Arc::clone(&listener)),
        };
        if let Err(error) = self.send(peer, LaneKind::News, want).await {
            tracing::debug!(%peer, %manifest, error = &error as &dyn std::error::Error, "cannot be followed");
            listener.ended();
        }
    }

    /// Asks a peer who follows an image.
    pub(crate) async fn followers(
        &self,
        peer: PeerId,
        manifest: Digest,
        deadline: Instant,
    ) -> Result<Vec<PeerRecord>, RequestError> {
        let (answer, answered) = mpsc::channel(1);
        let want = Want {
            wanted: Wanted::Peers { manifest },
            answers: Answers::Peers(answer),
        };
        self.ask(peer, LaneKind::News, want, answered, deadline)
            .await
    }

    /// Asks a peer how much it has of a pack by this index.
    pub(crate) async fn have_pack(
        &self,
        peer: PeerId,
        pack: Digest,
        index: Digest,
        deadline: Instant,
    ) -> Result<Have, RequestError> {
        let (answer, answered) = mpsc::channel(1);
        let want = Want {
            wanted: Wanted::HavePack { pack, index },
            answers: Answers::Have(answer),
        };
        self.ask(peer, LaneKind::Demand, want, answered, deadline)
            .await
    }

    /// Asks a peer which chunks of a pack it is to be asked for.
    pub(crate) async fn suggestion(
        &self,
        peer: PeerId,
        pack: Digest,
        index: Digest,
        count: u32,
        deadline: Instant,
    ) -> Result<Suggestion, RequestError> {
        let (answer, answered) = mpsc::channel(1);
        let want = Want {
            wanted: Wanted::Suggestion { pack, index, count },
            answers: Answers::Suggestion(answer),
        };
        self.ask(peer, LaneKind::News, want, answered, deadline)
            .await
    }

    pub(crate) async fn fetch_blob(
        &self,
        peer: PeerId,
        digest: Digest,
        maximum: u64,
        priority: Priority,
        deadline: Instant,
        progress: &Progress,
    ) -> Result<Bytes, RequestError> {
        let (answer, answered) = mpsc::channel(1);
        let want = Want {
            wanted: Wanted::Blob {
                priority,
                digest,
                maximum,
            },
            answers: Answers::Blob(answer, progress.clone()),
        };
        let lane = priority.into();
        let sent = self.ask(peer, lane, want, answered, deadline).await?;
        if sent.encoding == Encoding::Plain {
            return Ok(sent.bytes);
        }
        // Where it may take long.
        let decoding = self
            .tasks
            .spawn_blocking(move || blob_encoding::decode_zstd(&sent));
        let decoded = decoding.await.map_err(|_| RequestError::ShuttingDown)?;
        decoded.ok_or(RequestError::Undecodable)
    }

    /// Sends a request that has one answer, and waits for it.
    async fn ask<T>(
        &self,
        peer: PeerId,
        lane: LaneKind,
        want: Want,
        mut answered: mpsc::Receiver<Result<T, RequestError>>,
        deadline: Instant,
    ) -> Result<T, RequestError> {
        let ask = async {
            self.send(peer, lane, want).await?;
            answered
                .recv()
                .await
                .unwrap_or(Err(RequestError::Disconnected))
        };
        timeout_at(deadline, ask)
            .await
            .unwrap_or(Err(RequestError::DeadlineExceeded))
    }

    pub(crate) fn fetch_chunks(
        self: &Arc<Self>,
        peer: PeerId,
        (pack, index): (Digest, Digest),
        chunks: &[u32],
        through: bool,
        priority: Priority,
        progress: &Progress,
    ) -> ChunkStream {
        let mut seen = HashSet::new();
        let chunks: Vec<u32> = chunks
            .iter()
            .copied()
            .filter(|number| seen.insert(*number))
            .collect();
        // Room for each chunk and for an error of each request.
        let requests = chunks.len().div_ceil(CLIENT_CHUNKS);
        let (answer, answers) = mpsc::channel(chunks.len() + requests + 1);
        let (client, progress) = (self.clone(), progress.clone());
        let requesting = async move {
            let answers = || Answers::Chunks(answer.clone(), progress.clone());
            let pack = (pack, index);
            let request = client.request_chunks(peer, pack, &chunks, through, priority, answers);
            tokio::select! {
                result = request => if let Err(error) = result {
                    // That nobody listens any more is no error.
                    let _ = answer.try_send(Err(error));
                },
                () = answer.closed() => {}
            }
        };
        self.tasks.spawn(requesting.in_current_span());
        ChunkStream::new(answers)
    }

    async fn request_chunks(
        &self,
        peer: PeerId,
        (pack, index): (Digest, Digest),
        chunks: &[u32],
        through: bool,
        priority: Priority,
        answers: impl Fn() -> Answers,
    ) -> Result<(), RequestError> {
        for chunks in chunks.chunks(CLIENT_CHUNKS) {
            let want = Want {
                wanted: Wanted::Chunks {
                    priority,
                    pack,
                    index,
                    through,
                    chunks: chunks.to_vec(),
                },
                answers: answers(),
            };
            self.send(peer, priority.into(), want).await?;
        }
        Ok(())
    }

    /// Sends a request on a lane to the peer. A lane may end for being idle in the moment in which it is
    /// wanted again; then it is another one.
    async fn send(&self, peer: PeerId, kind: LaneKind, mut want: Want) -> Result<(), RequestError> {
        for _ in 0..2 {
            let lane = self.lane(peer, kind).await?;
            if let Some(retry_after) = lane.rests_for(want.wanted.priority()) {
                return Err(RequestError::Busy { retry_after });
            }
            tracing::debug!(%peer, "sends a request");
            match lane.request(want).await {
                Ok(()) => return Ok(()),
                Err(unsent) => want = unsent,
            }
        }
        Err(RequestError::Disconnected)
    }

    /// The lane to a peer, opened if need be.
    async fn lane(&self, peer: PeerId, kind: LaneKind) -> Result<Lane, RequestError> {
        if self.bans.contains(peer) {
            return Err(RequestError::Banned(peer));
        }
        if self.shutdown.is_cancelled() {
            return Err(RequestError::ShuttingDown);
        }
        let slot = self.slots().entry((peer, kind)).or_default().clone();
        // Those who wait for another one's attempt wait no longer than it.
        let lane = timeout(self.connect_timeout, self.open(peer, &slot))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.connect_timeout)));
        lane.map_err(|reason| {
            self.forget_unless_connected(peer);
            RequestError::Unreachable { peer, reason }
        })
    }

    async fn open(&self, peer: PeerId, slot: &LaneSlot) -> Result<Lane, String> {
        let mut opened = slot.lock().await;
        if let Some(lane) = opened.as_ref().filter(|lane| !lane.is_closed()) {
            return Ok(lane.clone());
        }
        let mut control = self.control.clone();
        let stream = control
            .open_stream(peer, EXCHANGE_PROTOCOL)
            .await
            .map_err(|error| error.to_string())?;
        let (lane, intake) = Lane::new();
        self.tasks.spawn(lane::run(
            peer,
            stream,
            intake,
            self.peers.clone(),
            self.stall_timeout,
            self.shutdown.clone(),
        ));
        *opened = Some(lane.clone());
        Ok(lane)
    }

    /// Drops the lanes of a peer that is gone; what is outstanding on them fails by itself.
    pub(crate) fn forget_unless_connected(&self, peer: PeerId) {
        if !self.peers.is_connected(peer) {
            self.slots().retain(|(other, _), _| *other != peer);
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<(PeerId, LaneKind), Arc<LaneSlot>>> {
        // Nothing that is done under the lock leaves the map half changed.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
