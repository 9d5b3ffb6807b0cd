// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The store, used from asynchronous code.

use std::sync::Arc;

use nix::errno::Errno;
use peerfs_store::{Error, Pack, Store};
use peerfs_text::Causes;
use tokio::sync::Semaphore;
use tracing::warn;

/// Runs operations on the store on threads that may block, a bounded number of them at a time: a
/// slow disk slows down those who wait for it, and nobody else.
#[derive(Clone)]
pub struct Disk {
    store: Arc<Store>,
    permits: Arc<Semaphore>,
    operations: u32,
    /// For reading whole packs, which takes long: what comes over the network is stored meanwhile.
    completions: Arc<Semaphore>,
}

/// Packs that are read at a time to make them whole.
const COMPLETIONS: u32 = 2;

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The store says why.
    #[error(transparent)]
    Store(#[from] peerfs_store::Error),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl DiskError {
    /// What the kernel is told.
    pub fn errno(&self) -> Errno {
        match self {
            DiskError::Store(error) if error.is_disk_full() => Errno::ENOSPC,
            DiskError::Store(peerfs_store::Error::Io { source, .. }) => match source.kind() {
                std::io::ErrorKind::PermissionDenied => Errno::EACCES,
                std::io::ErrorKind::OutOfMemory => Errno::ENOMEM,
                _ => Errno::EIO,
            },
            DiskError::Store(_) | DiskError::ShuttingDown => Errno::EIO,
        }
    }
}

impl Disk {
    /// Over this store, with at most so many operations at a time.
    pub fn new(store: Arc<Store>, operations: usize) -> Self {
        let operations = u32::try_from(operations).unwrap_or(u32::MAX);
        Disk {
            store,
            permits: Arc::new(Semaphore::new(operations as usize)),
            operations,
            completions: Arc::new(Semaphore::new(COMPLETIONS as usize)),
        }
    }

    /// Waits until nothing that was begun uses the store any more: operations go on that nobody waits for.
    pub async fn settle(&self) {
        // They are never closed.
        let _operations = self.permits.acquire_many(self.operations).await;
        let _completions = self.completions.acquire_many(COMPLETIONS).await;
    }

    /// Whether what is fetched can be put into the store.
    pub fn can_be_filled(&self) -> bool {
        self.store.is_locked_for_filling()
    }

    /// Runs an operation. It runs to its end even if nobody waits for it any more.
    pub async fn run<T, F>(&self, operation: F) -> Result<T, DiskError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> peerfs_store::Result<T> + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        run_blocking(&self.permits, move || operation(&store)).await
    }

    /// Makes a pack of which all chunks are here a blob of the store; `false` if the disk has other bytes, which are
    /// forgotten. No operation waits for that but others of these.
    ///
    /// # Errors
    /// Those of [`Pack::complete`].
    pub async fn complete(&self, pack: Arc<Pack>) -> Result<bool, DiskError> {
        run_blocking(&self.completions, move || pack.complete()).await
    }

    /// Makes a pack of which all chunks are here a blob of the store, or sees that they are the pack: nobody waits for
    /// that, for it takes reading all of it once more.
    pub fn start_completing(&self, pack: Arc<Pack>) {
        let disk = self.clone();
        tokio::spawn(async move {
            let digest = *pack.digest();
            match disk.complete(pack).await {
                // The log has it. What is not done when the daemon shuts down is done when the next one opens it.
                Ok(_)
                | Err(DiskError::Store(Error::WrongIndex { .. }) | DiskError::ShuttingDown) => (),
                Err(error) => {
                    warn!(pack = %digest, error = %Causes(&error), "cannot complete a full pack");
                }
            }
        });
    }
}

/// Runs an operation on a thread that may block, when there is a permit for it. It runs to its end, and keeps its permit
/// for so long, even if nobody waits for it any more.
pub(crate) async fn run_blocking<T, F>(
    permits: &Arc<Semaphore>,
    operation: F,
) -> Result<T, DiskError>
where
    T: Send + 'static,
    F: FnOnce() -> peerfs_store::Result<T> + Send + 'static,
{
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(|_| DiskError::ShuttingDown)?;
    let result = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        operation()
    });
    Ok(result.await.map_err(|_| DiskError::ShuttingDown)??)
}
