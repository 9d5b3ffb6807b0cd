// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Brings publishers' accounts here. Which one counts a record of a name says; it comes from the own store, from where it was
//! remembered, or from any peer.

use std::sync::Arc;
use std::time::Duration;

use peerfs_exchange::{Priority, Progress};
use peerfs_fetch::Disk;
use peerfs_format::Digest;
use peerfs_names::PublisherKey;
use peerfs_peer::Node;
use peerfs_replica::account::{Account, InvalidAccount, ACCOUNT_MAX};
use peerfs_store::{sha256, Store};
use peerfs_text::Causes;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Publisher, Replicas};
use crate::names::{AccountRecord, Names};

/// How long a peer may take to send an account.
const PATIENCE: Duration = Duration::from_secs(10);
/// The peers that are asked for one at a time.
const PEERS_ASKED: usize = 16;

impl Replicas {
    /// Looks which account of a publisher counts, and has its images be kept or looked after.
    pub(super) async fn look_at(
        &self,
        publisher: PublisherKey,
        names: &Names,
        node: &Node,
        disk: &Disk,
    ) {
        let mut known = self.0.lock().publishers.get(&publisher).cloned();
        if known.is_none() {
            known = self.remembered(publisher).await;
        }
        let mut known = known.unwrap_or_default();
        let record = names.account(publisher);
        self.note_fraud(publisher, &record).await;
        let folder = self.0.folder.clone();
        let is_fraud = spawn_blocking(move || folder.is_fraud(publisher)).await;
        known.problem = None;
        if is_fraud.unwrap_or(true) {
            known.problem = Some(format!(
                "it has signed two accounts for one place, and nothing new of it is accepted; the proof is in {}",
                self.0.folder.fraud_path(publisher).display()
            ));
        } else {
            match record {
                AccountRecord::Current { sequence, account } => {
                    if known.digest != Some(account) {
                        self.bring(publisher, account, &mut known, node, disk).await;
                    }
                    if known.digest == Some(account) {
                        known.sequence = Some(sequence);
                    }
                }
                AccountRecord::None(reason) => {
                    // It may be signed anew; until then nothing of it is to be kept.
                    known = Publisher {
                        problem: Some(reason),
                        ..Publisher::default()
                    };
                }
                AccountRecord::Forked(_) => (),
            }
        }
        self.serve(&known, disk).await;
        self.accept(publisher, known);
    }

    /// The account of a publisher that was accepted before the start.
    async fn remembered(&self, publisher: PublisherKey) -> Option<Publisher> {
        let folder = self.0.folder.clone();
        let read = spawn_blocking(move || folder.account(publisher)).await;
        let (bytes, account) = read.ok()??;
        Some(Publisher {
            account,
            digest: Some(sha256(&bytes)),
            bytes: bytes.into(),
            ..Publisher::default()
        })
    }

    async fn note_fraud(&self, publisher: PublisherKey, record: &AccountRecord) {
        let AccountRecord::Forked(records) = record else {
            return;
        };
        let (folder, records) = (self.0.folder.clone(), records.clone());
        let save = move || match folder.is_fraud(publisher) {
            true => Ok(()),
            false => {
                warn!(%publisher, "has signed two accounts for one place: nothing new of it is accepted");
                folder.save_fraud(publisher, &records)
            }
        };
        if let Ok(Err(error)) = spawn_blocking(save).await {
            warn!(error = %Causes(&error), "the proof of it is not remembered");
        }
    }

    /// Brings an account here, and remembers it.
    async fn bring(
        &self,
        publisher: PublisherKey,
        digest: Digest,
        known: &mut Publisher,
        node: &Node,
        disk: &Disk,
    ) {
        let Some(bytes) = find(digest, node, disk).await else {
            known.problem = Some("no peer that can be reached has its newest account".to_owned());
            return;
        };
        let account: Result<Account, InvalidAccount> = Account::parse(&bytes);
        match account {
            Ok(account) => {
                info!(%publisher, images = account.entries().len(), "a newer account");
                let (folder, saved) = (self.0.folder.clone(), bytes.clone());
                let save = spawn_blocking(move || folder.save_account(publisher, &saved));
                if let Ok(Err(error)) = save.await {
                    warn!(error = %Causes(&error), "an account is not remembered");
                }
                *known = Publisher {
                    account,
                    digest: Some(digest),
                    bytes: bytes.into(),
                    ..Publisher::default()
                };
            }
            Err(error) => known.problem = Some(error.to_string()),
        }
    }

    /// Has an account in the store, from which peers are served; a collection takes it from there.
    async fn serve(&self, known: &Publisher, disk: &Disk) {
        let Some(digest) = known.digest else {
            return;
        };
        let bytes = Arc::clone(&known.bytes);
        let put = move |store: &Store| match store.has_blob(&digest) {
            true => Ok(()),
            false => store.put_blob(&digest, &bytes),
        };
        if let Err(error) = disk.run(put).await {
            warn!(error = %Causes(&error), "an account can't be handed on");
        }
    }

    /// Has the images be kept that the grant allows.
    fn accept(&self, publisher: PublisherKey, mut known: Publisher) {
        let grant = self.0.config.publishers.get(&publisher);
        let entries = known.account.entries().len();
        known.accepted = grant.map_or(entries, |grant| known.account.within(*grant));
        let mut state = self.0.lock();
        let roster = &mut state.side(grant.is_some()).roster;
        let left_out = match known.digest {
            Some(_) => roster.set_account(publisher, &known.account, known.accepted),
            None => {
                roster.remove_account(&publisher);
                0
            }
        };
        if known.problem.is_none() {
            let refused = entries - known.accepted;
            let problems = [
                (refused, "images of its account are refused here: more than replicate.publishers grants it"),
                (left_out, "images are left out: there are too many of all publishers"),
            ];
            let problem = problems.into_iter().find(|(count, _)| *count > 0);
            known.problem = problem.map(|(count, problem)| format!("{count} {problem}"));
        }
        roster.refresh();
        state.publishers.insert(publisher, known);
    }
}

/// A blob that has this digest, of the own store or of any peer.
async fn find(digest: Digest, node: &Node, disk: &Disk) -> Option<Vec<u8>> {
    let read = move |store: &Store| store.read_metadata(&digest, ACCOUNT_MAX as u64);
    if let Ok(here) = disk.run(read).await {
        return Some(here);
    }
    for peer in node.peers().into_iter().take(PEERS_ASKED) {
        let (priority, progress) = (Priority::Background, Progress::default());
        let deadline = Instant::now() + PATIENCE;
        let maximum = ACCOUNT_MAX as u64;
        let sent = node.fetch_blob(peer.id, digest, maximum, priority, deadline, &progress);
        match sent.await {
            Ok(bytes) if sha256(&bytes) == digest => return Some(bytes.into()),
            _ => (),
        }
    }
    None
}
