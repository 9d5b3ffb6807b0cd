// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Looking for sources of a content.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use futures::stream::{self, FuturesUnordered};
use futures::StreamExt;
use peerfs_format::Digest;
use peerfs_text::Causes;
use tracing::{debug, trace};

use super::Shared;
use crate::scheduler::ContentId;
use crate::source::{SourceId, Subject};

/// Peers that one search asks what they have.
const PEERS_MAX: usize = 32;
/// Contents that a new source is asked for at a time.
const QUESTIONS_MAX: usize = 16;

impl Shared {
    /// Asks around who has how much of a content, and offers each answer to the scheduler as soon
    /// as it comes.
    pub(super) async fn search(self: Arc<Self>, content: ContentId, subject: Subject) {
        // It is only closed with the last handle, of which this is one.
        if let Ok(_permit) = self.searches.acquire().await {
            tokio::join!(
                self.search_directories(content, &subject),
                self.search_peers(content, &subject),
            );
        }
        self.tell(|scheduler| scheduler.sought(content, Instant::now()));
    }

    async fn search_directories(&self, content: ContentId, subject: &Subject) {
        stream::iter(0..self.sources.directories.len())
            .for_each_concurrent(None, |place| {
                self.ask(SourceId::Directory(place), content, subject)
            })
            .await;
    }

    /// Those who are known to have the content, and those who are known to have the image, which
    /// may not have announced each part of it.
    async fn search_peers(&self, content: ContentId, subject: &Subject) {
        let digests: BTreeSet<Digest> = [content.digest(), subject.manifest()].into();
        let mut lists: FuturesUnordered<_> = digests
            .into_iter()
            .map(|digest| self.sources.node.find_providers(digest))
            .collect();
        let mut asked = BTreeSet::new();
        let mut asking = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(peers) = lists.next() => {
                    for peer in peers {
                        if asked.len() < PEERS_MAX && asked.insert(peer) {
                            asking.push(self.ask(SourceId::Peer(peer), content, subject));
                        }
                    }
                }
                Some(()) = asking.next() => (),
                else => break,
            }
        }
        trace!(%content, peers = asked.len(), "search ended");
    }

    /// Asks a new source for all that is wanted.
    pub(super) async fn ask_for_all(
        self: Arc<Self>,
        id: SourceId,
        wanted: Vec<(ContentId, Subject)>,
    ) {
        stream::iter(wanted)
            .for_each_concurrent(QUESTIONS_MAX, |(content, subject)| {
                let shared = &self;
                async move { shared.ask(id, content, &subject).await }
            })
            .await;
    }

    async fn ask(&self, id: SourceId, content: ContentId, subject: &Subject) {
        let Some(source) = self.sources.get(id) else {
            return;
        };
        match source.have(content.digest(), subject).await {
            Ok(have) => self.tell(|scheduler| scheduler.offer(content, id, have)),
            Err(error) => {
                debug!(source = ?id, %content, error = %Causes(&error), "does not say what it has")
            }
        }
    }
}
