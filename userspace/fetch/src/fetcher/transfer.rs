// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One transfer: asks a source, verifies what comes, stores it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use peerfs_exchange::scheduler::{ContentId, End, Part, TransferId};
use peerfs_exchange::{Priority, Progress};
use peerfs_store::{Error as StoreError, Pack};
use peerfs_text::Causes;
use tracing::{debug, warn};

use super::second_look::store_received;
use super::Shared;
use crate::disk::DiskError;
use crate::source::{Source, SourceError, SourceId, Subject};

/// What the scheduler said.
pub(super) struct Transfer {
    pub(super) id: TransferId,
    pub(super) source: SourceId,
    pub(super) content: ContentId,
    pub(super) parts: Vec<Part>,
    pub(super) priority: Priority,
    /// Whether the source is asked to fetch what it lacks.
    pub(super) through: bool,
    pub(super) subject: Subject,
    /// Where it is noted that something comes.
    pub(super) progress: Progress,
}

/// Why a transfer ended before its end.
enum Stop {
    /// The source could not be asked or broke off.
    Source(SourceError),
    /// The source sent bytes that do not have the promised digest.
    Lie,
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Stop::Source(error)
    }
}

impl Shared {
    pub(super) async fn transfer(self: Arc<Self>, transfer: Transfer) {
        debug!(parts = transfer.parts.len(), priority = ?transfer.priority, through = transfer.through, "asks");
        let end = match self.registry.get(transfer.source) {
            Some(source) => self.carry_out(&transfer, source).await,
            None => End::Answered,
        };
        debug!(?end, "ended");
        let mut state = self.lock();
        state.transfers.remove(&transfer.id);
        state.scheduler.ended(transfer.id, end, Instant::now());
        drop(state);
        self.changed.notify_one();
    }

    async fn carry_out(&self, transfer: &Transfer, source: Arc<dyn Source>) -> End {
        let result = match &transfer.subject {
            Subject::Blob { .. } => self.fetch_blob(transfer, source.as_ref()).await,
            Subject::Pack { pack, .. } => self.fetch_chunks(transfer, source.as_ref(), pack).await,
        };
        match result {
            Ok(()) | Err(Stop::Source(SourceError::Missing)) => End::Answered,
            Err(Stop::Source(SourceError::Busy { retry_after })) => End::Busy { retry_after },
            Err(Stop::Lie | Stop::Source(SourceError::Wrong)) => {
                self.drop_liar(transfer, source);
                End::Failed
            }
            Err(Stop::Source(error)) => {
                debug!(source = source.name(), content = %transfer.content, error = %Causes(&error), "failed");
                End::Failed
            }
        }
    }

    fn drop_liar(&self, transfer: &Transfer, source: Arc<dyn Source>) {
        // Several of its transfers may find it out.
        if !self.tell(|scheduler| scheduler.ban(transfer.source)) {
            return;
        }
        let content = transfer.content;
        warn!(source = source.name(), %content, "sent wrong bytes and is not asked again");
        self.traffic.lied();
        // Not within this task, which the scheduler now stops.
        tokio::spawn(async move { source.ban(&format!("wrong bytes for {content}")).await });
    }

    async fn fetch_blob(&self, transfer: &Transfer, source: &dyn Source) -> Result<(), Stop> {
        let digest = transfer.content.digest();
        let bytes = source
            .fetch_blob(digest, transfer.priority, &transfer.progress)
            .await?;
        self.note_arrival(transfer, source, Part::Whole, bytes.len());
        let stored = self
            .disk
            .run(move |store| store_received(|| store.put_blob(&digest, &bytes)))
            .await;
        self.conclude(transfer, Part::Whole, stored)
    }

    async fn fetch_chunks(
        &self,
        transfer: &Transfer,
        source: &dyn Source,
        pack: &Arc<Pack>,
    ) -> Result<(), Stop> {
        let wanted = transfer
            .parts
            .iter()
            .filter_map(|part| match part {
                Part::Chunk(number) => Some(*number),
                Part::Whole => None,
            })
            .collect();
        let (priority, progress) = (transfer.priority, &transfer.progress);
        let mut replies = match transfer.through {
            true => source.fetch_through(pack, wanted, priority, progress),
            false => source.fetch_chunks(pack, wanted, priority, progress),
        };
        while let Some(reply) = replies.next().await {
            let (number, bytes) = reply?;
            if let Some(bytes) = bytes {
                self.note_arrival(transfer, source, Part::Chunk(number), bytes.len());
                let stored = self.store_chunk(pack, number, bytes).await;
                self.conclude(transfer, Part::Chunk(number), stored)?;
            }
        }
        Ok(())
    }

    /// Tells that a part came, before it is stored: more can be asked for.
    fn note_arrival(&self, transfer: &Transfer, source: &dyn Source, part: Part, bytes: usize) {
        let manifest = transfer.subject.manifest();
        self.traffic.received(source.account(), &manifest, bytes);
        self.traffic.gave(source.name(), manifest);
        let now = Instant::now();
        self.tell(|scheduler| scheduler.arrived(transfer.id, part, bytes as u64, now));
    }

    /// Verifies and stores a chunk. With the last one of a pack that is made a blob: nobody waits for that, for it
    /// is read once more as a whole.
    async fn store_chunk(
        &self,
        pack: &Arc<Pack>,
        number: u32,
        bytes: Bytes,
    ) -> Result<(), DiskError> {
        let (pack, disk) = (Arc::clone(pack), self.disk.clone());
        self.disk
            .run(move |_| {
                if store_received(|| pack.write_chunk(number, &bytes))? {
                    disk.start_completing(pack);
                }
                Ok(())
            })
            .await
    }

    /// Reports how verifying and storing a part went.
    fn conclude(
        &self,
        transfer: &Transfer,
        part: Part,
        stored: Result<(), DiskError>,
    ) -> Result<(), Stop> {
        match stored {
            Ok(()) => {
                self.tell(|scheduler| {
                    scheduler.received(transfer.id, transfer.content, part, Instant::now());
                });
                Ok(())
            }
            Err(DiskError::Store(
                StoreError::Mismatch { .. } | StoreError::ChunkDamaged { .. },
            )) => Err(Stop::Lie),
            Err(error) => {
                warn!(content = %transfer.content, error = %Causes(&error), "cannot store what was fetched");
                let errno = error.errno();
                self.tell(|scheduler| scheduler.unstorable(transfer.content, part, errno as i32));
                Ok(())
            }
        }
    }
}
