// SPDX-License-Identifier: GPL-2.0

//! The store's origin: the daemons behind the upcall.
#![forbid(unsafe_code)]

use kernel::ffi::c_ulong;
use kernel::prelude::*;
use peerfs_format::upcall::{FetchBlob, FetchChunks, Priority, FETCH_AGAIN};

use super::{Outcome, StoreUpcall};
use crate::rust::fs::OpenedFile;
use crate::store::{BlobRequest, ChunksRequest, Fetched, Missed, Origin};

/// The daemons that serve a store.
pub(crate) struct Daemon {
    /// None for a mount whose mounter may not have the store filled.
    upcall: Option<StoreUpcall>,
    /// Jiffies that a reader waits.
    timeout: c_ulong,
}

impl Daemon {
    /// The daemons behind this upcall, for readers who wait this many seconds.
    pub(crate) fn new(upcall: Option<StoreUpcall>, timeout: u32) -> Self {
        Daemon {
            upcall,
            timeout: crate::rust::time::seconds_to_jiffies(timeout),
        }
    }

    /// Asks, unless there is nobody to ask for this mount. Of what is there and wrong, it is EIO if nobody is
    /// there to mend it: no reason to wait.
    fn ask(
        &self,
        again: bool,
        ask: impl FnOnce(&StoreUpcall) -> Result<Outcome>,
    ) -> core::result::Result<Fetched, Missed> {
        let upcall = self.upcall.as_ref().ok_or(ENODATA)?;
        if again && !upcall.is_attached() {
            return Err(EIO.into());
        }
        let fetched = ask(upcall).and_then(fetched);
        fetched.map_err(|error| match error == ETIMEDOUT && !upcall.is_attached() {
            true => Missed::Nobody,
            false => error.into(),
        })
    }
}

impl Origin for Daemon {
    fn fetch_blob(&self, request: &BlobRequest) -> core::result::Result<Fetched, Missed> {
        let message = FetchBlob {
            digest: request.digest,
            manifest: request.manifest,
            length: request.length,
            kind: request.kind as u32,
            priority: Priority::Demand as u32,
        };
        self.ask(request.again, |upcall| {
            upcall.fetch_blob(message, self.timeout)
        })
    }

    fn fetch_chunks(&self, request: &ChunksRequest<'_>) -> core::result::Result<Fetched, Missed> {
        self.ask(request.again, |upcall| {
            upcall.fetch_chunks(message(request, Priority::Demand), self.timeout)
        })
    }

    fn prefetch_chunks(&self, request: &ChunksRequest<'_>) {
        if let Some(upcall) = &self.upcall {
            upcall.prefetch_chunks(message(request, Priority::Readahead));
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
