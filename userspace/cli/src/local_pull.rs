// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs pull --root-dir`: what a daemon does for it, done here.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use peerfs_control::PullState as Told;
use peerfs_control::{Conversion, PullStatus, Reply, Request};
use peerfs_exchange::scheduler::Limits;
use peerfs_exchange::Priority;
use peerfs_fetch::source::{
    ConversionProgress, Discovery, InRegistry, Ordinary, Origins, Registry,
};
use peerfs_fetch::{
    Announce, Disk, Fetcher, Packs, PullState, Pulls, Purpose, Repository, Traffic,
};
use peerfs_format::Digest;
use peerfs_store::{Reference, Store, Tag};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::arguments::PullArguments;
use crate::error::{Error, Result};
use crate::mount::policy_file;
use crate::push::{block_on, options};

/// Reads and writes of the store at a time.
const STORE_OPERATIONS: usize = 16;
/// Chunks of one transfer. Nobody else is asked who could do a part of it, so they may be many.
const PARTS: usize = 64;
/// Between two words on how it goes.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The same of a conversion.
const CONVERSION_INTERVAL: Duration = Duration::from_millis(250);

/// Nobody is told of what comes.
struct Nobody;

#[async_trait]
impl Announce for Nobody {
    async fn announce_image(&self, _manifest: Digest) {}
}

/// Brings an image of a registry into the store in this directory. `show` is told how it goes, as a daemon tells it.
pub(crate) fn run(
    root_dir: &Path,
    arguments: &PullArguments,
    mut show: impl FnMut(Reply) -> Result<()>,
) -> Result<()> {
    let store = Store::create(root_dir)?;
    store.lock_for_filling()?;
    let disk = Disk::new(Arc::new(store), STORE_OPERATIONS);
    let registry = Arc::new(Registry::default());
    let options = options(&arguments.registry);
    let origins = Origins::new(disk.clone(), Arc::clone(&registry), options, policy_file());
    let discoveries: Vec<Arc<dyn Discovery>> = vec![Arc::new(origins.clone())];
    let traffic = Arc::new(Traffic::new([]));
    let limits = Limits {
        parts_per_transfer: PARTS,
        ..Limits::default()
    };
    // No other node knows it.
    let identity = 0;
    let fetcher = Fetcher::new(
        limits,
        identity,
        registry,
        discoveries,
        disk.clone(),
        Arc::clone(&traffic),
    );
    let repository = Arc::new(Repository::new(
        disk.clone(),
        Arc::new(Packs::default()),
        fetcher.clone(),
        Arc::new(Nobody),
    ));
    let patience = Duration::from_secs(arguments.timeout.unwrap_or(Request::PATIENCE).into());
    block_on(async {
        let shutdown = CancellationToken::new();
        let _fetching = AbortOnDropHandle::new(tokio::spawn({
            let shutdown = shutdown.clone();
            async move { fetcher.run(shutdown).await }
        }));
        let mut conversion = None;
        let (manifest, found, tag) = match &arguments.image {
            Reference::Registry(reference) => {
                let tag = arguments.tag.clone().or_else(|| reference.tag_in_store());
                match origins
                    .find_image(reference, arguments.platform.as_ref())
                    .await?
                {
                    InRegistry::Peerfs(found) => (found.manifest, Some(found), tag),
                    InRegistry::Ordinary(ordinary) => {
                        let made = convert(&origins, &ordinary, tag, &mut show).await?;
                        conversion = Some(made.1);
                        (made.0, None, None)
                    }
                }
            }
            // What is missing of one that is here.
            other => {
                let other = other.clone();
                let resolved = disk.run(move |store| store.resolve(&other)).await;
                (
                    resolved.map_err(peerfs_fetch::source::OriginError::from)?,
                    None,
                    arguments.tag.clone(),
                )
            }
        };
        let status = if arguments.lazy && conversion.is_none() {
            let purpose = Purpose {
                manifest,
                priority: Priority::Demand,
                deadline: Instant::now() + patience,
            };
            repository.begin(purpose).await?;
            PullStatus {
                image: manifest.to_string(),
                state: Told::Mountable,
                bytes_by_source: traffic.bytes_by_source(),
                ..PullStatus::default()
            }
        } else {
            let pulls = Pulls::new(repository, traffic);
            fetch_all(&pulls, manifest, patience, &mut show).await?
        };
        match (tag, found) {
            (Some(tag), Some(found)) => origins.tag(found, tag).await?,
            (Some(tag), None) => {
                let tagged = disk.run(move |store| store.tag(&manifest, &tag)).await;
                tagged.map_err(peerfs_fetch::source::OriginError::from)?;
            }
            (None, _) => (),
        }
        show(Reply::Done(PullStatus {
            conversion,
            ..status
        }))
    })
}

/// Makes an image of an ordinary one, and shows how that goes.
async fn convert(
    origins: &Origins,
    ordinary: &Ordinary,
    tag: Option<Tag>,
    show: &mut impl FnMut(Reply) -> Result<()>,
) -> Result<(Digest, Conversion)> {
    let progress = ConversionProgress::default();
    let mut done = std::pin::pin!(origins.convert(ordinary, tag, &progress));
    loop {
        match tokio::time::timeout(CONVERSION_INTERVAL, &mut done).await {
            Ok(done) => return Ok(done?),
            Err(_) => show(Reply::Progress(ordinary.status(&progress)))?,
        }
    }
}

async fn fetch_all(
    pulls: &Pulls,
    manifest: Digest,
    patience: Duration,
    show: &mut impl FnMut(Reply) -> Result<()>,
) -> Result<PullStatus> {
    let begun = Instant::now();
    let mut pull = pulls.pull(manifest);
    loop {
        // What was true before says nothing.
        let _ = tokio::time::timeout(HEARTBEAT, pull.changed()).await;
        let progress = pull.progress();
        match &progress.state {
            PullState::Complete => return Ok(progress.status()),
            PullState::Failed(reason) | PullState::Retried(reason) => {
                return Err(Error::Pull(reason.clone()));
            }
            PullState::Waiting(awaited) if awaited.since.max(begun).elapsed() >= patience => {
                return Err(Error::Pull(progress.state.to_string()));
            }
            PullState::Waiting(_) | PullState::Fetching => {
                show(Reply::Progress(progress.status()))?
            }
        }
    }
}
