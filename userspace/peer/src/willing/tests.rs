// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The two ends of a stream of announcements, and ends that say something else.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerfs_replica::roster::{Roster, Verdict};
use peerfs_replica::willing::{Willing, WILLING_MAX};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::client::listen;
use super::server::serve;
use super::wire::Frames;
use super::*;
use crate::Identity;

struct Book {
    roster: Mutex<Roster>,
    changes: broadcast::Sender<Arc<SignedWilling>>,
}

impl Book {
    fn new() -> Arc<Self> {
        Arc::new(Book {
            roster: Mutex::default(),
            changes: broadcast::channel(4).0,
        })
    }

    fn count(&self) -> usize {
        self.announcements().len()
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1000)
}

impl WillingBook for Book {
    fn announcements(&self) -> Vec<SignedWilling> {
        self.roster
            .lock()
            .unwrap()
            .announcements()
            .cloned()
            .collect()
    }

    fn offer(&self, announcement: SignedWilling) {
        let verdict = self
            .roster
            .lock()
            .unwrap()
            .offer(announcement.clone(), now());
        if verdict == Verdict::New {
            let _ = self.changes.send(Arc::new(announcement));
        }
    }

    fn changes(&self) -> broadcast::Receiver<Arc<SignedWilling>> {
        self.changes.subscribe()
    }
}

fn announcement(identity: &Identity, bytes: u64) -> SignedWilling {
    let willing = Willing {
        node: identity.node_key().unwrap(),
        issued: 1000,
        expires: 2000,
        bytes,
        addresses: vec!["198.51.100.1:4001".parse().unwrap()],
    };
    identity.sign_willing(willing).unwrap()
}

#[tokio::test]
async fn a_book_is_told_what_another_one_knows_and_hears() {
    let (one, two, three) = (Book::new(), Book::new(), Book::new());
    let identities = [(); 3].map(|()| Identity::generate());
    let key = identities[0].node_key().unwrap();
    assert_eq!(peer_id_of(&key), Some(identities[0].peer_id()));
    one.offer(announcement(&identities[0], 1));
    // One tells two, which tells three.
    for (from, to) in [(&one, &two), (&two, &three)] {
        let (here, there) = tokio::io::duplex(1 << 10);
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        tokio::spawn(async move { serve(Frames::over(here), from.as_ref()).await });
        tokio::spawn(async move { listen(Frames::over(there), to.as_ref()).await });
    }
    let all_know = |count| {
        let three = Arc::clone(&three);
        async move {
            while three.count() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let patience = Duration::from_secs(30);
    timeout(patience, all_know(1)).await.unwrap();
    one.offer(announcement(&identities[1], 1));
    timeout(patience, all_know(2)).await.unwrap();
    two.offer(announcement(&identities[2], 1));
    timeout(patience, all_know(3)).await.unwrap();
    assert_eq!(one.count(), 2, "nobody listens in the other direction here");
}

#[tokio::test]
async fn what_is_forged_cut_or_too_long_ends_the_stream_and_changes_nothing() {
    let signed = announcement(&Identity::generate(), 1);
    let mut forged = signed.bytes().to_vec();
    forged[50] ^= 1;
    let long = vec![0; WILLING_MAX + 1];
    for bytes in [&forged[..], &signed.bytes()[..40], &long, &[]] {
        let book = Book::new();
        let (mut raw, stream) = tokio::io::duplex(1 << 12);
        let length = u16::try_from(bytes.len()).unwrap().to_le_bytes();
        raw.write_all(&[&length, bytes].concat()).await.unwrap();
        let heard = listen(Frames::over(stream), book.as_ref()).await;
        assert!(heard.is_err() && book.count() == 0);
    }
    // Nor does who is told say anything.
    let (mut raw, stream) = tokio::io::duplex(1 << 12);
    let length = u16::try_from(signed.bytes().len()).unwrap().to_le_bytes();
    raw.write_all(&[&length, signed.bytes()].concat())
        .await
        .unwrap();
    let book = Book::new();
    assert!(serve(Frames::over(stream), book.as_ref()).await.is_err());
}
