// SPDX-License-Identifier: GPL-2.0

//! The store's origin: the daemons behind the upcall.
#![forbid(unsafe_code)]

use kernel::ffi::c_ulong;
use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::upcall::Workload;

use super::request::{Request, Wanted, WantedBlob, WantedChunks};
use super::StoreUpcall;
use crate::rust::fs::OpenedFile;
use crate::store::{BlobRequest, ChunksRequest, Fetched, Missed, Origin, Usage};

/// The daemons that serve a store.
pub(crate) struct Daemon {
    upcall: StoreUpcall,
    /// Whether the mounter may have the store filled.
    may_ask: bool,
    /// Jiffies that a reader waits.
    timeout: c_ulong,
    /// What the mount is for.
    workload: Workload,
}

impl Daemon {
    /// The daemons behind this upcall, for readers who wait this many seconds. They are told what is read, and asked for
    /// what is missing if the mounter may have the store filled.
    pub(crate) fn new(
        upcall: StoreUpcall,
        may_ask: bool,
        timeout: u32,
        workload: Workload,
    ) -> Self {
        Daemon {
            upcall,
            may_ask,
            timeout: crate::rust::time::seconds_to_jiffies(timeout),
            workload,
        }
    }

    /// The way to ask, if there is one.
    fn upcall(&self) -> Option<&StoreUpcall> {
        self.may_ask.then_some(&self.upcall)
    }

    /// Asks, unless there is nobody to ask for this mount. Of what is there and wrong, it is EIO if nobody is
    /// there to mend it: no reason to wait.
    fn fetch(&self, wanted: Wanted, again: bool) -> core::result::Result<Fetched, Missed> {
        let upcall = self.upcall().ok_or(ENODATA)?;
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

/// A blob that was asked for.
pub(crate) struct AskedBlob(Arc<Request>);

impl Origin for Daemon {
    type AskedBlob = AskedBlob;

    fn fetch_blob(&self, request: &BlobRequest) -> core::result::Result<OpenedFile, Missed> {
        let fetched = self.fetch(self.wanted_blob(request), request.again)?;
        Ok(file_of(fetched)?)
    }

    fn prefetch_blob(&self, request: &BlobRequest) -> Option<AskedBlob> {
        let upcall = self.upcall()?;
        upcall.prefetch(self.wanted_blob(request)).map(AskedBlob)
    }

    fn came(&self, asked: &AskedBlob) -> Option<Result<OpenedFile>> {
        let request = &asked.0;
        request
            .is_complete()
            .then(|| request.outcome().and_then(file_of))
    }

    fn fetch_chunks(&self, request: &ChunksRequest<'_>) -> core::result::Result<Fetched, Missed> {
        self.fetch(self.wanted(request), request.again)
    }

    fn prefetch_chunks(&self, request: &ChunksRequest<'_>) {
        if let Some(upcall) = self.upcall() {
            // What came is in the store.
            let _ = upcall.prefetch(self.wanted(request));
        }
    }

    fn usage(&self) -> &Arc<Usage> {
        self.upcall.usage()
    }
}

/// The file that a blob came in.
fn file_of(fetched: Fetched) -> Result<OpenedFile> {
    match fetched {
        Fetched::File(file) => Ok(file),
        // The device takes none as an answer.
        Fetched::Places(_) => Err(EIO),
    }
}

impl Daemon {
    fn wanted_blob(&self, request: &BlobRequest) -> Wanted {
        Wanted::Blob(WantedBlob {
            digest: request.digest,
            manifest: request.manifest,
            workload: self.workload,
            kind: request.kind,
            length: request.length,
        })
    }

    fn wanted(&self, request: &ChunksRequest<'_>) -> Wanted {
        Wanted::Chunks(WantedChunks {
            pack: request.pack.digest,
            index: request.pack.index_digest,
            manifest: request.manifest,
            workload: self.workload,
            first: request.first,
            count: request.count,
            again: request.again,
        })
    }
}
