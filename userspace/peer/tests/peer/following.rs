// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images are followed at peers, and their followers learn of each other.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use peerfs_exchange::frame::{Encoding, HEADER_SIZE};
use peerfs_exchange::limits::FOLLOWS_PER_STREAM;
use peerfs_exchange::{Arrival, ChunkMap, Have, Suggestion};
use peerfs_format::Digest;
use peerfs_peer::{BlobPiece, Listener, Node, Provider, Work};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout, Instant};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::raw::{drive, frame, raw_peer, PROTOCOL};
use crate::support::{config, config_with_bootstrap, connected, digest, INDEX, PACK};

const IMAGE: Digest = Digest([0x11; 32]);
const CHUNKS: u32 = 20;

/// A store that has some chunks of an image with one pack.
#[derive(Default)]
struct Seed {
    is_known: AtomicBool,
    /// The blob that it sends as the pack's index.
    index: Option<Bytes>,
    /// What was sent to it as that.
    lent: Mutex<Vec<Bytes>>,
    chunks: Mutex<BTreeSet<u32>>,
}

impl Seed {
    fn gain(&self, node: &Node, number: u32) {
        self.chunks.lock().unwrap().insert(number);
        let pack = PACK;
        node.arrivals().note(Arrival::Chunk { pack, number });
    }

    fn learn(&self, node: &Node) {
        self.is_known.store(true, Ordering::Relaxed);
        node.arrivals().note(Arrival::Image(IMAGE));
    }
}

#[async_trait]
impl Provider for Seed {
    async fn blob_length(&self, blob: &Digest, _: &Work) -> Option<u64> {
        let index = self.index.as_ref().filter(|_| *blob == INDEX)?;
        Some(index.len() as u64)
    }

    fn blob_max(&self) -> u64 {
        1024
    }

    async fn read_blob(&self, _: &Digest, _: bool, _: u64, _: &Work) -> Option<BlobPiece> {
        BlobPiece::of(Encoding::Plain, self.index.as_ref()?, 0)
    }

    async fn have_by(&self, pack: &Digest, index: &Digest, work: &Work) -> Option<Have> {
        if self.lent.lock().unwrap().is_empty() || *index != INDEX {
            return None;
        }
        Some(self.have(pack, work).await)
    }

    async fn lend_index(&self, _: &Digest, _: &Digest, blob: Bytes, _: &Work) {
        self.lent.lock().unwrap().push(blob);
    }

    async fn have(&self, _: &Digest, _: &Work) -> Have {
        let mut map = ChunkMap::new(CHUNKS, vec![0; 3].into()).unwrap();
        for number in self.chunks.lock().unwrap().iter() {
            let chunk = *number..number + 1;
            map.insert(std::slice::from_ref(&chunk));
        }
        match map.present() {
            0 => Have::Absent,
            _ => Have::Partial(map),
        }
    }

    async fn packs_of(&self, manifest: &Digest, _: &Work) -> Option<Arc<[Digest]>> {
        let is_known = *manifest == IMAGE && self.is_known.load(Ordering::Relaxed);
        is_known.then(|| [PACK].into())
    }

    async fn whole_pack(&self, pack: &Digest, index: &Digest, _: &Work) -> Option<u32> {
        let is_whole = self.chunks.lock().unwrap().len() == CHUNKS as usize;
        (*pack == PACK && *index == INDEX && is_whole).then_some(CHUNKS)
    }

    async fn read_chunk(&self, _: &Digest, _: &Digest, _: u32, _: &Work) -> Option<Bytes> {
        None
    }
}

/// What a peer was heard to have.
#[derive(Default)]
struct Ear {
    chunks: Mutex<BTreeSet<u32>>,
    is_ended: AtomicBool,
    is_gone: AtomicBool,
}

impl Ear {
    async fn hears(&self, what: &str, chunks: impl IntoIterator<Item = u32>) {
        let chunks: BTreeSet<u32> = chunks.into_iter().collect();
        let heard = async {
            while *self.chunks.lock().unwrap() != chunks {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), heard).await.expect(what);
    }
}

impl Listener for Ear {
    fn has(&self, pack: Digest, have: Have) {
        assert_eq!(pack, PACK);
        let chunks = (0..CHUNKS).filter(|number| have.chunk(*number));
        *self.chunks.lock().unwrap() = chunks.collect();
    }

    fn gained(&self, pack: Digest, runs: &[Range<u32>]) {
        assert_eq!(pack, PACK);
        let chunks = runs.iter().cloned().flatten();
        self.chunks.lock().unwrap().extend(chunks);
    }

    fn ended(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_hear_what_is_there_and_what_comes() {
    let seed = Arc::new(Seed::default());
    let server = Node::start(config(), seed.clone()).await.unwrap();
    let client = Node::start(config_with_bootstrap(&server), Arc::new(Seed::default()));
    let client = client.await.unwrap();
    connected(&client, server.peer_id()).await;
    let (early, late) = (Arc::new(Ear::default()), Arc::new(Ear::default()));
    client.follow(server.peer_id(), IMAGE, early.clone()).await;
    client
        .follow(server.peer_id(), digest(9), Arc::new(Ear::default()))
        .await;
    seed.gain(&server, 3);
    sleep(Duration::from_millis(50)).await;
    early.hears("nothing, for the image is not known", []).await;

    seed.learn(&server);
    early.hears("what is there", [3]).await;
    seed.gain(&server, 5);
    early.hears("what comes", [3, 5]).await;
    client.follow(server.peer_id(), IMAGE, late.clone()).await;
    late.hears("what is there", [3, 5]).await;
    (6..CHUNKS).for_each(|number| seed.gain(&server, number));
    let all = || [3, 5].into_iter().chain(6..CHUNKS);
    early.hears("all that comes", all()).await;
    late.hears("all that comes", all()).await;

    // Who leaves hears nothing more, and others do.
    early.is_gone.store(true, Ordering::Relaxed);
    seed.gain(&server, 0);
    late.hears("the next", all().chain([0])).await;
    seed.gain(&server, 1);
    late.hears("the last", all().chain([0, 1])).await;
    assert!(!early.chunks.lock().unwrap().contains(&1));
    server.shutdown().await;
    let ended = async {
        while !late.is_ended.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), ended)
        .await
        .expect("is told of the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_learn_of_each_other() {
    let seed = Arc::new(Seed::default());
    let server = Node::start(config(), seed.clone()).await.unwrap();
    seed.learn(&server);
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let node = Node::start(config_with_bootstrap(&server), Arc::new(Seed::default()));
        let node = node.await.unwrap();
        connected(&node, server.peer_id()).await;
        node.follow(server.peer_id(), IMAGE, Arc::new(Ear::default()))
            .await;
        nodes.push(node);
    }
    let [one, other] = &nodes[..] else {
        panic!("two nodes");
    };
    let ask = |manifest| one.followers(server.peer_id(), manifest, soon());
    // By what it is introduced with, which comes a little later than the connection.
    let found = async {
        loop {
            if let Some(found) = ask(IMAGE).await.unwrap().pop() {
                break found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let (peer, addresses) = timeout(Duration::from_secs(5), found).await.unwrap();
    assert_eq!(peer, other.peer_id());
    one.connect(addresses[0].clone().with_p2p(peer).unwrap())
        .await;
    connected(one, peer).await;
    // Who is connected need not be named, and who follows something else is not.
    assert_eq!(ask(IMAGE).await.unwrap(), []);
    assert_eq!(ask(digest(9)).await.unwrap(), []);
}

/// Who is asked for a pack by an index that it lacks asks for that, once, and says then what it has.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_lent_to_whoever_is_asked() {
    let seed = Arc::new(Seed::default());
    let server = Node::start(config(), seed.clone()).await.unwrap();
    seed.gain(&server, 3);
    let mut answers = Vec::new();
    for index in [None, Some(Bytes::from_static(b"index"))] {
        let provider = Seed {
            index,
            ..Seed::default()
        };
        let node = Node::start(config_with_bootstrap(&server), Arc::new(provider));
        let node = node.await.unwrap();
        connected(&node, server.peer_id()).await;
        for _ in 0..2 {
            let asked = node.have_pack(server.peer_id(), PACK, INDEX, soon());
            answers.push(asked.await.unwrap().chunk(3));
        }
    }
    // The first one does not send it.
    assert_eq!(answers, [false, false, true, true]);
    assert_eq!(*seed.lent.lock().unwrap(), [&b"index"[..]]);
}

/// Who has all of a pack suggests other chunks to each who asks, and then that they wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_suggests_other_chunks_to_each() {
    let seed = Arc::new(Seed::default());
    let server = Node::start(config(), seed.clone()).await.unwrap();
    (1..CHUNKS).for_each(|number| seed.gain(&server, number));
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let node = Node::start(config_with_bootstrap(&server), Arc::new(Seed::default()));
        let node = node.await.unwrap();
        connected(&node, server.peer_id()).await;
        nodes.push(node);
    }
    let ask = async |node: usize, index| {
        let asked = nodes[node].suggestion(server.peer_id(), PACK, index, 8, soon());
        asked.await.unwrap()
    };
    assert_eq!(ask(0, INDEX).await, Suggestion::Any, "not all is here");
    seed.gain(&server, 0);
    assert_eq!(
        ask(0, digest(9)).await,
        Suggestion::Any,
        "by no other index"
    );
    let mut suggested = Vec::new();
    for node in [0, 1, 0] {
        let Suggestion::Chunks(runs) = ask(node, INDEX).await else {
            panic!("suggests nothing");
        };
        suggested.extend(runs.into_iter().flatten());
    }
    suggested.sort_unstable();
    assert_eq!(suggested, Vec::from_iter(0..CHUNKS));
    assert!(matches!(ask(1, INDEX).await, Suggestion::Later(_)));
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// A peer that follows without end is refused, and costs others nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_follows_is_refused() {
    const FOLLOWS: u32 = 500;
    let seed = Arc::new(Seed::default());
    let server = Node::start(config(), seed.clone()).await.unwrap();
    seed.learn(&server);
    let (mut swarm, mut control) = raw_peer();
    swarm
        .dial(server.listen_addresses().swap_remove(0))
        .unwrap();
    drive(swarm);
    let stream = loop {
        match control.open_stream(server.peer_id(), PROTOCOL).await {
            Ok(stream) => break stream,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    };
    let (mut read, mut write) = tokio::io::split(stream.compat());
    for request in 0..FOLLOWS {
        let follow = frame(6, request, &IMAGE.0);
        write.write_all(&follow).await.unwrap();
    }
    write.flush().await.unwrap();
    let mut refused = 0;
    while refused < FOLLOWS - FOLLOWS_PER_STREAM as u32 {
        let mut header = [0; HEADER_SIZE];
        let come = timeout(Duration::from_secs(5), read.read_exact(&mut header));
        come.await.expect("an answer").unwrap();
        let [length, _, _, _, kind, ..] = header;
        let mut payload = vec![0; usize::from(length) + 4 - HEADER_SIZE];
        read.read_exact(&mut payload).await.unwrap();
        assert_eq!(kind, 22);
        refused += 1;
    }
    // One that keeps to the rules is served meanwhile.
    let client = Node::start(config_with_bootstrap(&server), Arc::new(Seed::default()));
    let client = client.await.unwrap();
    connected(&client, server.peer_id()).await;
    let ear = Arc::new(Ear::default());
    client.follow(server.peer_id(), IMAGE, ear.clone()).await;
    seed.gain(&server, 3);
    ear.hears("what comes", [3]).await;
}
