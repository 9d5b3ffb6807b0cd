// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The two ends of a stream of names, and ends that do something else.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use peerfs_names::{KnownName, Name, Record, SecretKey};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::wire::{Frame, Frames};
use super::*;
use crate::names::client::follow;
use crate::names::server::{serve, TOPICS_MAX};

struct Book {
    known: Mutex<HashMap<Digest, KnownName>>,
    changes: broadcast::Sender<Digest>,
    wanted: watch::Sender<Arc<BTreeSet<Digest>>>,
    offered: Mutex<usize>,
}

impl Book {
    fn new() -> Arc<Self> {
        Arc::new(Book {
            known: Mutex::default(),
            changes: broadcast::channel(4).0,
            wanted: watch::channel(Arc::default()).0,
            offered: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Digest, KnownName>> {
        self.known.lock().unwrap()
    }

    fn take(&self, record: SignedRecord) {
        let name = record.record().name.clone();
        let topic = name.topic();
        let mut known = self.known();
        let known = known.entry(topic).or_insert_with(|| KnownName::new(name));
        known.offer(record, std::time::UNIX_EPOCH);
        let _ = self.changes.send(topic);
    }

    fn newest(&self, topic: &Digest) -> Option<u64> {
        Some(self.known().get(topic)?.newest()?.record.record().sequence)
    }

    fn want(&self, topics: &[Digest]) {
        self.wanted
            .send_replace(Arc::new(topics.iter().copied().collect()));
    }
}

#[async_trait]
impl NameBook for Book {
    fn records(&self, topic: &Digest) -> Vec<SignedRecord> {
        let known = self.known();
        let newest = known.get(topic).and_then(KnownName::newest);
        newest.map_or(Vec::new(), |past| {
            let rival = past.rival.clone();
            [past.record.clone()].into_iter().chain(rival).collect()
        })
    }

    async fn offer(&self, record: SignedRecord) {
        *self.offered.lock().unwrap() += 1;
        self.take(record);
    }

    fn changes(&self) -> broadcast::Receiver<Digest> {
        self.changes.subscribe()
    }

    fn wanted(&self) -> watch::Receiver<Arc<BTreeSet<Digest>>> {
        self.wanted.subscribe()
    }
}

fn key() -> SecretKey {
    SecretKey::parse(&SecretKey::generate().unwrap()).unwrap()
}

fn record(key: &SecretKey, name: &str, sequence: u64, image: u8) -> SignedRecord {
    let record = Record {
        name: Name::new(key.public(), name).unwrap(),
        signer: key.public(),
        sequence,
        issued: 1,
        expires: 2,
        manifest: Digest([image; 32]),
        trace: None,
        replicas: 0,
        grant: None,
    };
    record.sign(key).unwrap()
}

fn topic(record: &SignedRecord) -> Digest {
    record.record().name.topic()
}

fn serving(book: &Arc<Book>) -> (Frames<DuplexStream>, JoinHandle<io::Result<()>>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let book = Arc::clone(book);
    let task = tokio::spawn(async move { serve(Frames::over(theirs), book.as_ref()).await });
    (Frames::over(ours), task)
}

fn following(book: &Arc<Book>) -> (Frames<DuplexStream>, JoinHandle<io::Result<()>>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let book = Arc::clone(book);
    let task = tokio::spawn(async move {
        let wanted = book.wanted();
        follow(Frames::over(theirs), wanted, book.as_ref()).await
    });
    (Frames::over(ours), task)
}

async fn next(frames: &mut Frames<DuplexStream>) -> Option<Frame> {
    let frame = timeout(Duration::from_secs(30), frames.next()).await;
    frame.expect("it comes soon").unwrap()
}

fn told(record: &SignedRecord) -> Option<Frame> {
    let bytes = Bytes::copy_from_slice(record.bytes());
    Some(Frame::Record(topic(record), bytes))
}

#[tokio::test]
async fn who_follows_is_told_at_once_and_whenever_there_is_something_new() {
    let (book, key) = (Book::new(), key());
    let first = record(&key, "base", 1, 1);
    let topic = topic(&first);
    let (mut client, task) = serving(&book);
    client.send(Frame::Follow(topic)).await.unwrap();
    assert_eq!(next(&mut client).await, Some(Frame::Unknown(topic)));
    book.take(first.clone());
    assert_eq!(next(&mut client).await, told(&first));
    // Both of a fork, and nothing of what is not followed, even if it is missed how often something changed.
    let rival = record(&key, "base", 1, 2);
    book.take(rival.clone());
    assert_eq!(next(&mut client).await, told(&first));
    assert_eq!(next(&mut client).await, told(&rival));
    for sequence in 1..10 {
        book.take(record(&key, "other", sequence, 9));
    }
    client.send(Frame::Leave(topic)).await.unwrap();
    client.send(Frame::Follow(Digest([7; 32]))).await.unwrap();
    while next(&mut client).await != Some(Frame::Unknown(Digest([7; 32]))) {}
    book.take(record(&key, "base", 2, 3));
    // What is followed may be told again.
    while let Ok(told) = timeout(Duration::from_millis(50), next(&mut client)).await {
        let other = Some(Frame::Unknown(Digest([7; 32])));
        assert_eq!(told, other, "it is not followed any more");
    }
    drop(client);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_wants_too_much_or_something_else_is_left() {
    let book = Book::new();
    let (mut client, task) = serving(&book);
    for number in 0..=TOPICS_MAX as u64 {
        let mut topic = [0; 32];
        topic[..8].copy_from_slice(&number.to_le_bytes());
        client.send(Frame::Follow(Digest(topic))).await.unwrap();
    }
    assert!(task.await.unwrap().is_err());
    for frame in [
        Frame::Unknown(Digest([1; 32])),
        Frame::Record(Digest([1; 32]), Bytes::from_static(b"x")),
    ] {
        let (mut client, task) = serving(&book);
        client.send(frame).await.unwrap();
        assert!(task.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn what_is_wanted_is_followed_and_taken() {
    let (book, key) = (Book::new(), key());
    let first = record(&key, "base", 1, 1);
    let topic = topic(&first);
    let (mut server, task) = following(&book);
    book.want(&[topic]);
    assert_eq!(next(&mut server).await, Some(Frame::Follow(topic)));
    server.send(told(&first).unwrap()).await.unwrap();
    server.send(Frame::Unknown(topic)).await.unwrap();
    let taken = async {
        while book.newest(&topic).is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), taken).await.unwrap();
    book.want(&[]);
    assert_eq!(next(&mut server).await, Some(Frame::Leave(topic)));
    assert_eq!(book.newest(&topic), Some(1));
    // It was on its way.
    server
        .send(told(&record(&key, "base", 2, 2)).unwrap())
        .await
        .unwrap();
    book.want(&[Digest([3; 32])]);
    assert_eq!(
        next(&mut server).await,
        Some(Frame::Follow(Digest([3; 32])))
    );
    assert_eq!(book.newest(&topic), Some(1));
    drop(server);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_sends_something_else_is_left_and_nothing_is_taken() {
    let key = key();
    let valid = record(&key, "base", 1, 1);
    let topic = topic(&valid);
    let mut forged = valid.bytes().to_vec();
    forged[100] ^= 1;
    let other = record(&key, "other", 1, 1);
    for frame in [
        Frame::Record(topic, forged.into()),
        Frame::Record(topic, Bytes::copy_from_slice(&valid.bytes()[..150])),
        Frame::Record(topic, Bytes::copy_from_slice(other.bytes())),
        Frame::Record(topic, vec![0; peerfs_names::RECORD_MAX].into()),
        Frame::Follow(topic),
    ] {
        let book = Book::new();
        book.want(&[topic]);
        let (mut server, task) = following(&book);
        assert_eq!(next(&mut server).await, Some(Frame::Follow(topic)));
        server.send(frame.clone()).await.unwrap();
        assert!(task.await.unwrap().is_err(), "{frame:?}");
        assert_eq!(*book.offered.lock().unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_repeats_a_record_without_end_costs_little() {
    let key = key();
    let valid = record(&key, "base", 1, 1);
    let book = Book::new();
    book.want(&[topic(&valid)]);
    let (mut server, _task) = following(&book);
    let frame = told(&valid).unwrap();
    let flood = async { while server.send(frame.clone()).await.is_ok() {} };
    let _ = timeout(Duration::from_secs(2), flood).await;
    let offered = *book.offered.lock().unwrap();
    assert!((64..=300).contains(&offered), "{offered} in 2 seconds");
}
