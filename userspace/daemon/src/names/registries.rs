// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Repositories of registries that are asked for records of names.

use std::time::Duration;

use futures::stream::{BoxStream, FuturesUnordered, StreamExt};
use peerfs_format::Digest;
use peerfs_names::SignedRecord;
use peerfs_registry::{Error, Options, Remote};
use peerfs_store::RegistryReference;
use peerfs_text::Causes;
use tokio::time::timeout;
use tracing::debug;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The repositories.
pub(super) struct Registries(Vec<(RegistryReference, Remote)>);

impl Registries {
    /// These.
    ///
    /// # Errors
    /// If no connections can be made.
    pub(super) fn new(
        repositories: &[RegistryReference],
        options: &Options,
    ) -> Result<Self, Error> {
        let remote = |repository: &RegistryReference| {
            Ok((repository.clone(), Remote::repository(repository, options)?))
        };
        Ok(Registries(
            repositories
                .iter()
                .map(remote)
                .collect::<Result<_, Error>>()?,
        ))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The records of a topic that they have, as they answer; ends when all have.
    pub(super) fn find(&self, topic: Digest) -> BoxStream<'static, SignedRecord> {
        let ask = |(repository, remote): &(RegistryReference, Remote)| {
            let (repository, remote) = (repository.clone(), remote.clone());
            async move {
                let asked = timeout(PATIENCE, remote.name_record(&repository, &topic)).await;
                match asked {
                    Ok(Ok(record)) => record,
                    Ok(Err(error)) => {
                        debug!(%repository, error = %Causes(&error), "cannot be asked for a name");
                        None
                    }
                    Err(_) => None,
                }
            }
        };
        let asking: FuturesUnordered<_> = self.0.iter().map(ask).collect();
        asking.filter_map(|record| async move { record }).boxed()
    }
}
