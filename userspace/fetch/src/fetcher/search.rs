// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Looking for sources of a content.

use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;
use futures::stream;
use futures::StreamExt;
use peerfs_exchange::scheduler::{ContentId, Scheduler};
use peerfs_exchange::{Have, Suggestion};
use peerfs_text::Causes;
use tracing::{debug, trace};

use super::{Newcomer, Shared};
use crate::source::{ask, SourceId, Subject};

/// Contents that a new source is asked for at a time.
const QUESTIONS_MAX: usize = 16;

impl Shared {
    /// Asks around who has how much of a content, and offers each answer to the scheduler as soon
    /// as it comes.
    pub(super) async fn search(self: Arc<Self>, content: ContentId, subject: Subject) {
        // It is only closed with the last handle, of which this is one.
        if let Ok(_permit) = self.searches.acquire().await {
            let searches =
                (0..self.discoveries.len()).map(|place| self.find(place, content, &subject));
            join_all(searches).await;
        }
        self.tell(|scheduler| scheduler.sought(content, Instant::now()));
    }

    /// Asks those whom one discovery finds.
    async fn find(&self, place: usize, content: ContentId, subject: &Subject) {
        let Some(discovery) = self.discoveries.get(place) else {
            return;
        };
        self.lock().searching.insert((place, content));
        let mut found = discovery.find(content.digest(), subject);
        let mut answers = 0_usize;
        while let Some((source, have)) = found.next().await {
            answers += 1;
            self.offer(content, source, have);
        }
        self.lock().searching.remove(&(place, content));
        trace!(%content, place, answers, "search ended");
    }

    fn offer(&self, content: ContentId, source: SourceId, have: Have) {
        self.tell(|scheduler| {
            self.introduce(scheduler, source);
            scheduler.offer(content, source, have);
        });
    }

    /// Asks a source what it suggests to be asked for of a pack.
    pub(super) async fn ask_what(
        self: Arc<Self>,
        content: ContentId,
        id: SourceId,
        count: usize,
        subject: Subject,
    ) {
        let suggestion = match (self.registry.get(id), &subject) {
            (Some(source), Subject::Pack { pack, .. }) => source.suggest(pack, count).await,
            _ => Ok(Suggestion::Any),
        };
        let suggestion = suggestion.unwrap_or_else(|error| {
            trace!(%content, error = %Causes(&error), "suggests nothing");
            Suggestion::Any
        });
        debug!(%content, count, ?suggestion, "suggests");
        self.tell(|scheduler| scheduler.suggested(content, id, suggestion, Instant::now()));
    }

    /// Tells the scheduler what a source is.
    pub(super) fn introduce(&self, scheduler: &mut Scheduler<SourceId, Subject>, id: SourceId) {
        let Some(source) = self.registry.get(id) else {
            return;
        };
        scheduler.classify(id, source.class());
        if let Some(identity) = source.identity() {
            scheduler.identify(id, identity);
        }
    }

    /// Asks a new source for all that is wanted and not just being looked for: a search asks it too.
    pub(super) async fn ask_for_all(self: Arc<Self>, newcomer: Newcomer) {
        let Newcomer { place, source: id } = newcomer;
        let Some(source) = self.registry.get(id) else {
            return;
        };
        let wanted: Vec<_> = {
            let state = self.lock();
            let wanted = state.scheduler.wanted().into_iter();
            wanted
                .filter(|(content, _)| !state.searching.contains(&(place, *content)))
                .collect()
        };
        stream::iter(wanted)
            .for_each_concurrent(QUESTIONS_MAX, |(content, subject)| {
                let (shared, source) = (&self, source.as_ref());
                async move {
                    if let Some(have) = ask(source, content.digest(), &subject).await {
                        shared.offer(content, id, have);
                    }
                }
            })
            .await;
    }
}
