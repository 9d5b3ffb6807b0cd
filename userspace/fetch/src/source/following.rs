// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images that are being fetched are followed at the peers: what they have is known before it is asked for.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use peerfs_exchange::scheduler::ContentId;
use peerfs_exchange::{Arrival, Have};
use peerfs_format::Digest;
use peerfs_peer::{Event, Listener, Multiaddr, Node, PeerId, FOLLOWS_MAX};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep_until, Instant};
use tracing::{debug, warn};

use super::board::Board;
use super::peer::Peers;
use super::SourceId;
use crate::disk::Disk;
use crate::images;

/// An image is not followed any more when nothing of it was wanted for so long.
const UNUSED: Duration = Duration::from_secs(120);
/// When it is first looked again whether somebody is to be followed; the pauses double up to the last one. Soon at first: those
/// that begin with an image at the same time do not know of it when they are first asked.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK_LAST: Duration = Duration::from_secs(5);
/// The peers at which an image is followed, the nearest ones.
const FOLLOWED_MAX: usize = 64;
/// With so many peers that have something of the image no more are looked for.
const NEIGHBOURS: usize = 24;
/// When a follower is first asked for others; the pauses between two such questions double up to the last one.
const MEETING_FIRST: Duration = Duration::from_millis(500);
const MEETING_LAST: Duration = Duration::from_secs(60);
/// Peers that a follower names and that are dialled.
const DIALLED_MAX: usize = 8;
/// How long a peer may take to name others.
const NAMES_TIMEOUT: Duration = Duration::from_secs(3);
/// What a peer may tell of an image in a second, beside as much for each pack: four times as much as is usual.
const NEWS_A_SECOND: u64 = 64;
const NEWS_OF_A_PACK: u64 = 40;

/// The images that are followed, by their manifests.
#[derive(Default)]
pub(super) struct Following {
    images: Mutex<HashMap<Digest, Arc<Wanted>>>,
}

/// An image of which something is wanted.
struct Wanted {
    /// When it last was.
    last: Mutex<Instant>,
    /// Once it is known what it consists of.
    image: OnceLock<Arc<Image>>,
}

/// An image that is followed.
struct Image {
    manifest: Digest,
    packs: HashMap<Digest, Described>,
    follows: Mutex<HashMap<PeerId, Arc<Follow>>>,
}

/// A pack as the image describes it.
#[derive(Clone, Copy)]
struct Described {
    content: ContentId,
    chunk_count: u32,
}

/// What a peer tells of an image.
struct Follow {
    image: Arc<Image>,
    board: Arc<Board>,
    peer: PeerId,
    source: SourceId,
    /// Whether it has told anything: it knows the image then.
    is_heard: AtomicBool,
    /// What is told is not wanted any more.
    is_gone: AtomicBool,
    /// The peer tells nothing more.
    is_ended: AtomicBool,
    told: AtomicU64,
    begun: Instant,
}

impl Following {
    /// Something of an image is wanted: it is followed from now on, if it is known what it consists of.
    pub(super) fn want(&self, manifest: Digest, peers: &Peers) {
        let mut images = lock(&self.images);
        if let Some(wanted) = images.get(&manifest) {
            *lock(&wanted.last) = Instant::now();
            return;
        }
        if images.len() >= FOLLOWS_MAX {
            return;
        }
        let wanted = Arc::new(Wanted {
            last: Mutex::new(Instant::now()),
            image: OnceLock::new(),
        });
        images.insert(manifest, Arc::clone(&wanted));
        let peers = peers.clone();
        peers.node().clone().spawn(async move {
            if let Some(packs) = packs_of(peers.disk(), manifest).await {
                peers.node().arrivals().note(Arrival::Image(manifest));
                let image = wanted
                    .image
                    .get_or_init(|| Arc::new(Image::new(manifest, packs)));
                image.attend(&peers, &wanted.last).await;
            }
            lock(&peers.following().images).remove(&manifest);
        });
    }

    /// The peers that tell unasked what they have of an image.
    pub(super) fn heard(&self, manifest: &Digest) -> Vec<PeerId> {
        let wanted = lock(&self.images).get(manifest).cloned();
        let image = wanted.as_ref().and_then(|wanted| wanted.image.get());
        image.map_or(Vec::new(), |image| image.heard())
    }
}

/// The packs of an image, if its blob table is here.
async fn packs_of(disk: &Disk, manifest: Digest) -> Option<HashMap<Digest, Described>> {
    let read = move |store: &peerfs_store::Store| {
        let Some(manifest) = images::manifest(store, &manifest)? else {
            return Ok(None);
        };
        images::packs(store, &manifest)
    };
    let packs = disk.run(read).await.ok()??;
    let described = packs.into_iter().map(|pack| {
        let (digest, index) = (pack.digest, pack.index_digest);
        let described = Described {
            content: ContentId::Pack {
                pack: digest,
                index,
            },
            chunk_count: pack.chunk_count,
        };
        (digest, described)
    });
    Some(described.collect())
}

impl Image {
    fn new(manifest: Digest, packs: HashMap<Digest, Described>) -> Self {
        Image {
            manifest,
            packs,
            follows: Mutex::default(),
        }
    }

    /// Follows the image at the peers that are there and at those that come, as long as it is used.
    async fn attend(self: &Arc<Self>, peers: &Peers, used: &Mutex<Instant>) {
        let mut events = peers.node().subscribe();
        let (mut look, mut look_pause) = (Instant::now(), LOOK_FIRST);
        let mut pause = MEETING_FIRST;
        let mut meeting = Instant::now() + pause;
        while lock(used).elapsed() < UNUSED {
            tokio::select! {
                () = sleep_until(look) => {
                    self.follow_all(peers);
                    look = Instant::now() + look_pause;
                    look_pause = (2 * look_pause).min(LOOK_LAST);
                }
                () = sleep_until(meeting) => {
                    self.meet_others(peers.node()).await;
                    pause = (2 * pause).min(MEETING_LAST);
                    meeting = Instant::now() + pause;
                }
                event = events.recv() => match event {
                    Ok(Event::PeerConnected(peer)) => self.follow(peers, peer),
                    Ok(Event::PeerDisconnected(peer)) => {
                        lock(&self.follows).remove(&peer);
                    }
                    Ok(Event::PeerMeasured(..)) => (),
                    Err(RecvError::Lagged(_)) => self.follow_all(peers),
                    Err(RecvError::Closed) => break,
                },
            }
        }
        debug!(manifest = %self.manifest, "is not followed any more");
        for (_, follow) in lock(&self.follows).drain() {
            follow.is_gone.store(true, Ordering::Relaxed);
            follow.forget();
        }
    }

    fn follow_all(self: &Arc<Self>, peers: &Peers) {
        lock(&self.follows).retain(|_, follow| !follow.is_ended.load(Ordering::Relaxed));
        for info in peers.node().peers() {
            self.follow(peers, info.id);
        }
    }

    fn follow(self: &Arc<Self>, peers: &Peers, peer: PeerId) {
        let mut follows = lock(&self.follows);
        if follows.len() >= FOLLOWED_MAX || follows.contains_key(&peer) {
            return;
        }
        let follow = Arc::new(Follow {
            image: Arc::clone(self),
            board: Arc::clone(peers.board()),
            peer,
            source: peers.id(peer),
            is_heard: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
            is_ended: AtomicBool::new(false),
            told: AtomicU64::new(0),
            begun: Instant::now(),
        });
        follows.insert(peer, Arc::clone(&follow));
        drop(follows);
        let (node, manifest) = (peers.node().clone(), self.manifest);
        let following = async move { node.follow(peer, manifest, follow).await };
        peers.node().spawn(following);
    }

    /// The peers that tell what they have.
    fn heard(&self) -> Vec<PeerId> {
        let follows = lock(&self.follows);
        let heard = follows.iter().filter(|(_, follow)| follow.is_usable());
        heard.map(|(peer, _)| *peer).collect()
    }

    /// Connects to some of those whom a follower knows, if there are few.
    async fn meet_others(&self, node: &Node) {
        let heard = self.heard();
        if heard.len() >= NEIGHBOURS {
            return;
        }
        let Some(peer) = heard.get(fastrand::usize(..heard.len().max(1))) else {
            return;
        };
        let deadline = Instant::now() + NAMES_TIMEOUT;
        let Ok(mut others) = node.followers(*peer, self.manifest, deadline).await else {
            return;
        };
        fastrand::shuffle(&mut others);
        for (other, addresses) in others.into_iter().take(DIALLED_MAX) {
            if let Some(address) = addresses.first() {
                debug!(%peer, %other, manifest = %self.manifest, "follows the image too");
                node.connect(with_id(address, other)).await;
            }
        }
    }
}

fn with_id(address: &Multiaddr, peer: PeerId) -> Multiaddr {
    address
        .clone()
        .with_p2p(peer)
        .unwrap_or_else(|address| address)
}

impl Follow {
    fn is_usable(&self) -> bool {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        is(&self.is_heard) && !is(&self.is_gone) && !is(&self.is_ended)
    }

    /// The pack that something is told of; `None` if that is not to be believed.
    fn pack(&self, pack: Digest) -> Option<Described> {
        let told = self.told.fetch_add(1, Ordering::Relaxed);
        let a_second = NEWS_A_SECOND + NEWS_OF_A_PACK * self.image.packs.len() as u64;
        let most = a_second.saturating_mul(1 + self.begun.elapsed().as_secs());
        let described = self.image.packs.get(&pack).copied();
        described.filter(|_| told < most)
    }

    /// What the peer tells is no news of this image. It may be broken or hostile: what it has it may still be asked for.
    fn disbelieve(&self) {
        if !self.is_gone.swap(true, Ordering::Relaxed) {
            warn!(peer = %self.peer, manifest = %self.image.manifest, "tells what cannot be true, and is not listened to");
            self.forget();
        }
    }

    fn forget(&self) {
        let packs = self.image.packs.values();
        self.board
            .forget(self.source, packs.map(|pack| pack.content));
    }
}

impl Listener for Follow {
    fn has(&self, pack: Digest, have: Have) {
        if self.is_gone() {
            return;
        }
        let described = self.pack(pack).filter(|pack| match &have {
            Have::Absent | Have::Complete => true,
            Have::Partial(map) => map.chunk_count() == pack.chunk_count,
        });
        let Some(described) = described else {
            return self.disbelieve();
        };
        self.is_heard.store(true, Ordering::Relaxed);
        self.board.has(described.content, self.source, have);
    }

    fn gained(&self, pack: Digest, runs: &[Range<u32>]) {
        if self.is_gone() {
            return;
        }
        let end = runs.last().map_or(0, |run| run.end);
        let described = self.pack(pack).filter(|pack| end <= pack.chunk_count);
        let Some(described) = described else {
            return self.disbelieve();
        };
        self.is_heard.store(true, Ordering::Relaxed);
        let (content, chunks) = (described.content, described.chunk_count);
        self.board.gained(content, self.source, chunks, runs);
    }

    fn ended(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
        self.forget();
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }
}

/// Nothing that is done under these locks leaves the data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
