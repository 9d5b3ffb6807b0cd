// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whose certificates hold no longer in the node's swarm: a list under a name of the swarm's key, which is followed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use peerfs_fetch::{Disk, PullState, Pulls};
use peerfs_format::Digest;
use peerfs_names::{Name, REVOKED_MEMBERS};
use peerfs_peer::{Membership, NameBook, Node};
use peerfs_store::{Error as StoreError, Image, Store, Tag};
use peerfs_text::Causes;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::daemon::StartError;
use crate::names::Names;

/// What the list is called in the store, which keeps it.
const TAG: &str = "peerfsd/revoked-members";
/// The most nodes of a list that are looked at.
const NODES_MAX: usize = 65_536;
/// How long a list may take to come.
const PULL_MAX: Duration = Duration::from_secs(60);
/// After which one that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// The list of a swarm's revoked members.
pub(crate) struct Revocations {
    membership: Arc<Membership>,
    name: Name,
}

impl Revocations {
    /// The list for this membership.
    ///
    /// # Errors
    /// None that a key makes.
    pub(crate) fn new(membership: Arc<Membership>) -> Result<Self, StartError> {
        let authority = membership.swarm();
        let name = Name::new(authority, REVOKED_MEMBERS);
        let name = name.map_err(|error| StartError::Revocations(error.to_string()))?;
        Ok(Revocations { membership, name })
    }

    /// Obeys the newest list that is known, if it is in the store. Blocks as long as the disk does.
    pub(crate) fn apply_known(&self, names: &Names, store: &Store) {
        let Ok(store) = Store::open(store.root_dir()) else {
            return;
        };
        if let Some(list) = self.newest(names) {
            match nodes(&Arc::new(store), &list) {
                Ok(nodes) => self.membership.revoke(nodes),
                Err(error) => {
                    warn!(error = %Causes(&error), "the list of revoked members is not here yet")
                }
            }
        }
    }

    /// Obeys each list that is newer, until `shutdown`.
    pub(crate) async fn follow(
        self,
        names: Names,
        node: Node,
        pulls: Pulls,
        disk: Disk,
        shutdown: CancellationToken,
    ) {
        let mut following = names.follow(&self.name, &node);
        let mut obeyed = None;
        loop {
            let newest = self.newest(&names);
            let mut retry = None;
            if let Some(list) = newest.filter(|list| obeyed != Some(*list)) {
                let brought = tokio::select! {
                    () = shutdown.cancelled() => return,
                    brought = self.bring(list, &pulls, &disk) => brought,
                };
                match brought {
                    Ok(count) => {
                        info!(%list, count, "members of the swarm are revoked");
                        obeyed = Some(list);
                    }
                    Err(problem) => {
                        warn!(%list, problem, "the newest list of revoked members cannot be had yet");
                        retry = Some(RETRY);
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = following.changed() => (),
                () = sleep(retry.unwrap_or_default()), if retry.is_some() => (),
            }
        }
    }

    /// The list of the newest record, which goes on to hold when that has expired: nobody is let in again by waiting.
    fn newest(&self, names: &Names) -> Option<Digest> {
        let records = names.records(&self.name.topic());
        records.first().map(|signed| signed.record().manifest)
    }

    /// Has the list here, and obeys it; returns how many nodes it names.
    async fn bring(&self, list: Digest, pulls: &Pulls, disk: &Disk) -> Result<usize, String> {
        let mut pull = pulls.pull(list);
        let complete = async {
            loop {
                match pull.progress().state {
                    PullState::Complete => return Ok(()),
                    PullState::Failed(problem) => return Err(problem),
                    PullState::Fetching | PullState::Waiting(_) | PullState::Retried(_) => (),
                }
                pull.changed().await;
            }
        };
        let pulled = timeout(PULL_MAX, complete).await;
        pulled.map_err(|_| "it does not come".to_owned())??;
        let tag: Tag = TAG.parse().map_err(|error| Causes(&error).to_string())?;
        let read = disk.run(move |store| {
            store.tag(&list, &tag)?;
            nodes(&Arc::new(Store::open(store.root_dir())?), &list)
        });
        let nodes = read.await.map_err(|error| Causes(&error).to_string())?;
        let count = nodes.len();
        self.membership.revoke(nodes);
        Ok(count)
    }
}

/// Whom a list names.
fn nodes(store: &Arc<Store>, list: &Digest) -> Result<BTreeSet<String>, StoreError> {
    let image = Image::open(Arc::clone(store), list)?;
    let mut nodes = BTreeSet::new();
    image.for_each_entry(&image.root()?, |entry| {
        if nodes.len() < NODES_MAX {
            nodes.extend(String::from_utf8(entry.name));
        }
        Ok::<_, StoreError>(())
    })?;
    Ok(nodes)
}
