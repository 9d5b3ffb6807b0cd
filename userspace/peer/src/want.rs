// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is wanted of a peer, and where the answer goes.

use bytes::Bytes;
use peerfs_format::Digest;
use tokio::sync::mpsc;

use crate::delivered::Delivered;
use crate::{Have, Priority, RequestError};

/// A request that was not sent yet. The channels have room for all answers.
pub(crate) enum Want {
    /// How much of a blob or pack the peer has.
    Have {
        digest: Digest,
        answer: mpsc::Sender<Result<Have, RequestError>>,
    },
    /// A blob.
    Blob {
        priority: Priority,
        digest: Digest,
        maximum: u64,
        answer: mpsc::Sender<Result<Bytes, RequestError>>,
    },
    /// Chunks of a pack, each once.
    Chunks {
        priority: Priority,
        pack: Digest,
        index: Digest,
        chunks: Vec<u32>,
        answer: mpsc::Sender<ChunkAnswer>,
    },
}

/// The answer for a chunk: its number and its bytes, if the peer has it.
pub(crate) type ChunkAnswer = Result<(u32, Option<Delivered>), RequestError>;

impl Want {
    /// Tells whoever asked that it won't be had. That nobody listens any more is no error.
    pub(crate) fn fail(&self, error: RequestError) {
        match self {
            Want::Have { answer, .. } => drop(answer.try_send(Err(error))),
            Want::Blob { answer, .. } => drop(answer.try_send(Err(error))),
            Want::Chunks { answer, .. } => drop(answer.try_send(Err(error))),
        }
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Want::Have { answer, .. } => answer.is_closed(),
            Want::Blob { answer, .. } => answer.is_closed(),
            Want::Chunks { answer, .. } => answer.is_closed(),
        }
    }
}
