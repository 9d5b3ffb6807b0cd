// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A store over HTTP, as if a plain server had a copy of it whose packs are whole: `blobs/sha256/DIGEST`, and nothing else.
//! What is behind it says what it has, and has verified every byte that it gives; it knows no stores.

#![forbid(unsafe_code)]

mod answer;
mod question;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use peerfs_format::Digest;
use peerfs_http::Listener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Answers that are given out at a time: each holds a metadata blob or a chunk in memory.
const ANSWERS_MAX: usize = 64;

/// What is given out.
#[async_trait]
pub trait Served: Send + Sync + 'static {
    /// A blob of which all is here; None is also what can't be read.
    async fn find(&self, digest: &Digest) -> Option<Content>;
}

/// A blob.
pub enum Content {
    /// All of it, verified.
    Blob(Bytes),
    /// A pack, wherever its chunks are.
    Pack(Arc<dyn ServedPack>),
}

/// A pack of which all was here.
#[async_trait]
pub trait ServedPack: Send + Sync {
    /// Its bytes.
    fn length(&self) -> u64;

    /// The chunks that a range of it is in, in order, which lie one behind the other; None unless all of them are here.
    fn pieces(&self, range: &Range<u64>) -> Option<Vec<Piece>>;

    /// A chunk's stored bytes, verified; None if it is not here any more.
    async fn read(&self, chunk: u32) -> Option<Bytes>;
}

/// A part of a chunk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    /// The chunk's number in its pack.
    pub chunk: u32,
    /// The bytes of it.
    pub part: Range<usize>,
}

/// What was given out since the start.
#[derive(Debug, Default)]
pub struct Counts {
    answered: AtomicU64,
    missing: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    /// Requests that were answered with what they asked for.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Those for what is not here.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    /// Those that were refused for another reason.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Bytes of blobs and packs that were sent.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What answers have in common. Clones are the same.
#[derive(Clone)]
struct Shared {
    served: Arc<dyn Served>,
    counts: Arc<Counts>,
    permits: Arc<Semaphore>,
}

/// Answers until it is told to end.
pub async fn serve(
    listener: Listener,
    served: Arc<dyn Served>,
    counts: Arc<Counts>,
    shutdown: CancellationToken,
) {
    listener.serve(router(served, counts), shutdown).await;
}

fn router(served: Arc<dyn Served>, counts: Arc<Counts>) -> Router {
    Router::new().fallback(answer::answer).with_state(Shared {
        served,
        counts,
        permits: Arc::new(Semaphore::new(ANSWERS_MAX)),
    })
}

#[cfg(test)]
mod tests;
