// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The sources that the configuration names.

use std::sync::Arc;

use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::StreamExt;
use peerfs_exchange::Have;
use peerfs_format::Digest;
use peerfs_text::Causes;
use tracing::debug;

use super::{Discovery, Registry, Source, SourceId, Subject};

/// Sources that are always there to be asked.
pub struct Configured {
    sources: Vec<(SourceId, Arc<dyn Source>)>,
}

impl Configured {
    /// These sources.
    pub fn new(registry: &Registry, sources: impl IntoIterator<Item = Arc<dyn Source>>) -> Self {
        let register = |source: Arc<dyn Source>| (registry.register(Arc::clone(&source)), source);
        Configured {
            sources: sources.into_iter().map(register).collect(),
        }
    }
}

impl Discovery for Configured {
    fn find(&self, content: Digest, subject: &Subject) -> BoxStream<'static, (SourceId, Have)> {
        let asking: FuturesUnordered<_> = self
            .sources
            .iter()
            .cloned()
            .map(|(id, source)| {
                let subject = subject.clone();
                async move { (id, ask(source.as_ref(), content, &subject).await) }
            })
            .collect();
        asking
            .filter_map(|(id, have)| async move { Some((id, have?)) })
            .boxed()
    }

    fn newcomers(&self) -> BoxStream<'static, SourceId> {
        stream::empty().boxed()
    }
}

/// How much a source has of a content, if it says so.
pub async fn ask(source: &dyn Source, content: Digest, subject: &Subject) -> Option<Have> {
    match source.have(content, subject).await {
        Ok(have) => Some(have),
        Err(error) => {
            debug!(source = source.name(), %content, error = %Causes(&error), "does not say what it has");
            None
        }
    }
}
