// SPDX-License-Identifier: GPL-2.0

//! The store's origin: the daemons behind the upcall.
#![forbid(unsafe_code)]

use kernel::ffi::c_ulong;
use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::upcall::{FetchBlob, FetchChunks, Priority, FETCH_AGAIN};

use crate::store::{BlobRequest, ChunksRequest, Fetched, Origin};
use crate::upcall::{Outcome, Upcall};
use crate::vfs::descriptor::DirectoryId;
use crate::vfs::OpenedFile;

/// The daemons that serve a store.
pub(crate) struct Daemon {
    /// None for a mount whose mounter may not have the store filled.
    upcall: Option<Arc<Upcall>>,
    store: DirectoryId,
    /// Jiffies that a reader waits.
    timeout: c_ulong,
}

impl Daemon {
    /// The daemons that serve the store with this directory, for readers who wait this many seconds.
    pub(super) fn new(upcall: Option<Arc<Upcall>>, store: DirectoryId, timeout: u32) -> Self {
        Daemon {
            upcall,
            store,
            timeout: crate::vfs::seconds_to_jiffies(timeout),
        }
    }

    /// The way to the daemons; ENODATA if there is none for this mount. Of what is there and wrong, EIO
    /// if nobody is there to mend it: no reason to wait.
    fn upcall(&self, again: bool) -> Result<&Upcall> {
        let upcall = self.upcall.as_deref().ok_or(ENODATA)?;
        match again && !upcall.is_attached(self.store) {
            true => Err(EIO),
            false => Ok(upcall),
        }
    }
}

impl Origin for Daemon {
    fn fetch_blob(&self, request: &BlobRequest) -> Result<Fetched> {
        let upcall = self.upcall(request.again)?;
        let request = FetchBlob {
            digest: request.digest,
            manifest: request.manifest,
            length: request.length,
            kind: request.kind as u32,
            priority: Priority::Demand as u32,
        };
        fetched(upcall.fetch_blob(self.store, request, self.timeout)?)
    }

    fn fetch_chunks(&self, request: &ChunksRequest<'_>) -> Result<Fetched> {
        let upcall = self.upcall(request.again)?;
        let request = message(request, Priority::Demand);
        fetched(upcall.fetch_chunks(self.store, request, self.timeout)?)
    }

    fn prefetch_chunks(&self, request: &ChunksRequest<'_>) {
        if let Some(upcall) = &self.upcall {
            upcall.prefetch_chunks(self.store, message(request, Priority::Readahead));
        }
    }
}

fn message(request: &ChunksRequest<'_>, priority: Priority) -> FetchChunks {
    FetchChunks {
        pack: request.pack.digest,
        index: request.pack.index_digest,
        manifest: request.manifest,
        pack_length: request.pack.stored_length,
        index_length: request.pack.index_length,
        first_chunk: request.first,
        chunk_count: request.count,
        priority: priority as u32,
        flags: if request.again { FETCH_AGAIN } else { 0 },
    }
}

fn fetched(outcome: Outcome) -> Result<Fetched> {
    Ok(match outcome {
        Outcome::Filled(file) => Fetched::Filled(file.map(OpenedFile::new).transpose()?),
        Outcome::Data(data) => Fetched::Data(data),
    })
}
