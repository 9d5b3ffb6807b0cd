// SPDX-License-Identifier: GPL-2.0

//! The store's origin: the daemons behind the upcall.
#![forbid(unsafe_code)]

use kernel::ffi::c_ulong;
use kernel::prelude::*;

use super::request::{Wanted, WantedBlob, WantedChunks};
use super::StoreUpcall;
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
    fn fetch(&self, wanted: Wanted, again: bool) -> core::result::Result<Fetched, Missed> {
        let upcall = self.upcall.as_ref().ok_or(ENODATA)?;
        if again && !upcall.is_attached() {
            return Err(EIO.into());
        }
        let fetched = upcall.fetch(wanted, self.timeout);
        fetched.map_err(|error| match error == ETIMEDOUT && !upcall.is_attached() {
            true => Missed::Nobody,
            false => error.into(),
        })
    }
}

impl Origin for Daemon {
    fn fetch_blob(&self, request: &BlobRequest) -> core::result::Result<Fetched, Missed> {
        self.fetch(request.into(), request.again)
    }

    fn fetch_chunks(&self, request: &ChunksRequest<'_>) -> core::result::Result<Fetched, Missed> {
        self.fetch(request.into(), request.again)
    }

    fn prefetch_chunks(&self, request: &ChunksRequest<'_>) {
        if let Some(upcall) = &self.upcall {
            upcall.prefetch(request.into());
        }
    }
}

impl From<&BlobRequest> for Wanted {
    fn from(request: &BlobRequest) -> Self {
        Wanted::Blob(WantedBlob {
            digest: request.digest,
            manifest: request.manifest,
            kind: request.kind,
            length: request.length,
        })
    }
}

impl From<&ChunksRequest<'_>> for Wanted {
    fn from(request: &ChunksRequest<'_>) -> Self {
        Wanted::Chunks(WantedChunks {
            pack: request.pack.digest,
            index: request.pack.index_digest,
            manifest: request.manifest,
            pack_length: request.pack.stored_length,
            index_length: request.pack.index_length,
            first: request.first,
            count: request.count,
            again: request.again,
        })
    }
}
