// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where content is fetched from.

#[cfg(feature = "peers")]
mod board;
mod configured;
mod directory;
#[cfg(feature = "peers")]
mod following;
mod ordinary;
mod origins;
#[cfg(feature = "peers")]
mod peer;
mod registry;
mod remote;

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::StreamExt;
use peerfs_exchange::scheduler::{Class, ContentId};
use peerfs_exchange::{Have, Priority, Progress, Suggestion};
use peerfs_format::Digest;
use peerfs_store::Pack;

pub use configured::{ask, Configured};
pub use directory::DirectorySource;
pub use ordinary::{layers, ConversionProgress, Ordinary};
pub use origins::{Found, InRegistry, OriginError, Origins};
#[cfg(feature = "peers")]
pub use peer::{peer_identity, peer_name, Peers, PEERS};
pub use registry::{Registry, SourceId};
pub use remote::RemoteSource;

/// How long a source may take to say what it has.
pub const HAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// What is known of a content that is to be fetched.
#[derive(Clone)]
pub enum Subject {
    /// A metadata blob.
    Blob {
        /// The image that it belongs to, by its manifest.
        manifest: Digest,
    },
    /// A pack, open to be filled.
    Pack {
        /// The pack.
        pack: Arc<Pack>,
        /// The image that it belongs to, by its manifest.
        manifest: Digest,
    },
}

impl Subject {
    /// The image that the content belongs to, by its manifest.
    pub fn manifest(&self) -> Digest {
        match self {
            Subject::Blob { manifest } | Subject::Pack { manifest, .. } => *manifest,
        }
    }
}

/// Why a source did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It does not have it.
    #[error("it does not have it")]
    Missing,
    /// It has too much to do at the moment.
    #[error("it is busy")]
    Busy {
        /// For how long it wants to be left alone; nothing if it does not say.
        retry_after: Duration,
    },
    /// It sent bytes that cannot be those that were asked for.
    #[error("it sent wrong bytes")]
    Wrong,
    /// It could not be asked, or broke off.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl SourceError {
    /// It could not be asked or broke off, for this reason.
    pub fn failed(error: impl Error + Send + Sync + 'static) -> Self {
        SourceError::Failed(Box::new(error))
    }
}

/// The answer for one chunk: its number and its stored bytes, not verified; `None` in their place
/// if the source does not have it.
pub type ChunkReply = Result<(u32, Option<Bytes>), SourceError>;

/// A place to fetch from. What it delivers is not trusted: whoever fetches verifies it. Every call
/// may be cancelled by dropping its future or stream. A part may take long that keeps coming: that it does is noted,
/// where it can be seen.
#[async_trait]
pub trait Source: Send + Sync {
    /// The source's name in the log.
    fn name(&self) -> &str;

    /// The name under which the bytes are counted that it sends; several sources may share it.
    fn account(&self) -> &str {
        self.name()
    }

    /// What kind of a source it is: which are asked before which.
    fn class(&self) -> Class {
        Class::Peer
    }

    /// What all nodes know it by, if it is a node that may fetch what this one fetches: by that they share the work.
    fn identity(&self) -> Option<u64> {
        None
    }

    /// How much it has of a content; takes [`HAVE_TIMEOUT`] at most.
    async fn have(&self, content: Digest, subject: &Subject) -> Result<Have, SourceError>;

    /// Fetches a whole metadata blob.
    async fn fetch_blob(
        &self,
        blob: Digest,
        priority: Priority,
        progress: &Progress,
    ) -> Result<Bytes, SourceError>;

    /// Fetches chunks of a pack; they come in any order.
    fn fetch_chunks(
        &self,
        pack: &Arc<Pack>,
        chunks: Vec<u32>,
        priority: Priority,
        progress: &Progress,
    ) -> BoxStream<'static, ChunkReply>;

    /// The same, and it is asked to fetch of an origin what it lacks. Most kinds of sources do not.
    fn fetch_through(
        &self,
        pack: &Arc<Pack>,
        chunks: Vec<u32>,
        priority: Priority,
        progress: &Progress,
    ) -> BoxStream<'static, ChunkReply> {
        self.fetch_chunks(pack, chunks, priority, progress)
    }

    /// Which chunks of a pack it is to be asked for, at most so many, of which it has all. Takes ten
    /// seconds at most.
    async fn suggest(&self, _pack: &Arc<Pack>, _count: usize) -> Result<Suggestion, SourceError> {
        Ok(Suggestion::Any)
    }

    /// It sent wrong bytes: it must not be asked or served again.
    async fn ban(&self, reason: &str);
}

/// A way to find sources. Each that it finds is in the [`Registry`].
pub trait Discovery: Send + Sync {
    /// The sources that have something of a content, each with how much, as soon as it says so. Each is asked
    /// once, those too that come while this goes on. Ends by itself within some seconds.
    fn find(&self, content: Digest, subject: &Subject) -> BoxStream<'static, (SourceId, Have)>;

    /// The sources that come from now on.
    fn newcomers(&self) -> BoxStream<'static, SourceId>;

    /// What sources tell unasked from now on.
    fn news(&self) -> BoxStream<'static, News> {
        stream::pending().boxed()
    }
}

/// What a source tells unasked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum News {
    /// It has so much of a content; that replaces what it said before.
    Has(ContentId, SourceId, Have),
    /// It has got more chunks of a content: runs in ascending order.
    Gained(ContentId, SourceId, Vec<Range<u32>>),
    /// It can't be reached any more.
    Gone(SourceId),
    /// A packet to it and back took so long.
    Measured(SourceId, Duration),
}
