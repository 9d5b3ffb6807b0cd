// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What clients of the control socket can have done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerfs_control::{Conversion, NameStatus, PullStatus, Reply};
use peerfs_exchange::Priority;
use peerfs_fetch::images::{resolve, ResolveError};
use peerfs_fetch::source::{ConversionProgress, Found, InRegistry, Ordinary, OriginError, Origins};
use peerfs_fetch::{
    BeginError, DiskError, PinOrigin, Pins, Progress, Pull, PullState, Pulls, Purpose, Repository,
};
use peerfs_format::upcall::Workload;
use peerfs_format::Digest;
use peerfs_peer::PeerId;
use peerfs_registry::Platform;
use peerfs_store::{Collect, InvalidReference, Keep, Reference, Tag};
use peerfs_text::Causes;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::events::Events;
use crate::names::{Back, NameError, Names};
use crate::saved_pins::{PinsError, SavedPins};
use crate::status::StatusReader;
use crate::traces::{BringError, Brought, Traces};
use crate::upcall::RequestHandler;
use crate::uses::Uses;

/// How long a registry may take to say what an image is: a client waits a minute for the first word.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(45);

/// Why a client's command could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A text that should name an image is no reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// A text is no platform.
    #[error("{0}")]
    Platform(String),
    /// It is not known which image is meant.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A registry does not have it, or can't be asked.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// A registry does not answer.
    #[error("the registry does not answer; try again later")]
    RegistrySilent,
    /// What a mount needs could not be got.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// It is not known what a name stands for.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store could not be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The pins could not be saved.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The pins that were saved are not known.
    #[error("{0}")]
    PinsUnknown(String),
    /// A text that should name a peer is no id.
    #[error("{0:?} is no peer's id; `peerfs peers` shows those that are banned")]
    PeerId(String),
    /// There is nothing to be lifted.
    #[error("peer {0} is not banned; `peerfs peers` shows who is")]
    NotBanned(PeerId),
    /// It is not said whose ban is to be lifted.
    #[error("whose ban is to be lifted: give peer, or all")]
    Nobody,
    /// There is no such pin.
    #[error("{0} is not pinned; `peerfs status` shows what is")]
    NotPinned(Digest),
    /// The pin is the configuration's.
    #[error(
        "the configuration pins {0}; take its [[pin]] out of there and start peerfsd anew, and it is pinned no \
         longer"
    )]
    Configured(Digest),
    /// Nothing came for a long time.
    #[error(
        "nothing has come for {seconds} seconds, for nobody that can be reached sends blob {blob}; `peerfs status` \
         shows the peers"
    )]
    Awaited {
        /// The blob, or the first of several.
        blob: Digest,
        /// How long.
        seconds: u64,
    },
    /// Not all of the image could be got.
    #[error("{0}")]
    Pull(String),
    /// A text is no workload's name.
    #[error(
        "{0:?} is no workload: it has 1 to 31 letters, digits, `.`, `_` and `-`, and begins with a letter or digit"
    )]
    Workload(String),
    /// What a trace names can't be brought.
    #[error(transparent)]
    Bring(#[from] BringError),
    /// Nothing is begun any more.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

/// What a client says of an image that it wants to have.
pub(crate) struct Wanted {
    /// A reference to it.
    pub(crate) image: String,
    /// The tag that it is to have.
    pub(crate) tag: Option<String>,
    /// What it is used as, by which the policy decides.
    pub(crate) used_as: Option<String>,
    /// Whether an ordinary image may be converted.
    pub(crate) convert: bool,
    /// What machines it is to be for.
    pub(crate) platform: Option<String>,
}

/// What a client's words lead to.
pub(crate) enum Sought {
    /// An image.
    Image(Located),
    /// An ordinary image, of which one can be made, and the tag that this is to have.
    Ordinary(Box<Ordinary>, Option<Tag>),
}

/// An image that a client wants to have.
pub(crate) struct Located {
    /// Its manifest.
    pub(crate) manifest: Digest,
    /// What a registry says of it, if it is one's.
    found: Option<Found>,
    /// The tag that it is to have.
    tag: Option<Tag>,
}

/// What clients can have done, but for what happens on a connection.
pub struct Commands {
    /// Knows how the daemon is doing.
    pub status: StatusReader,
    /// Gets what is wanted of an image.
    pub repository: Arc<Repository>,
    /// The registries that images are from.
    pub origins: Origins,
    /// The images of which all is being brought here.
    pub pulls: Pulls,
    /// The images that are kept complete.
    pub pins: Pins,
    /// Those of them that clients have pinned, or why they are not known.
    pub saved_pins: Arc<Mutex<Result<SavedPins, String>>>,
    /// What happens.
    pub events: Events,
    /// Gets what is missing for who reads images without the kernel.
    pub handler: Arc<dyn RequestHandler>,
    /// When chunks were used.
    pub(crate) uses: Arc<Uses>,
    /// Brings what was missed of an image before.
    pub traces: Traces,
    /// What is known of publishers' names.
    pub names: Names,
}

impl Commands {
    /// The image that a client means.
    pub(crate) async fn find(&self, image: &str) -> Result<Digest, CommandError> {
        match image.parse()? {
            Reference::Published { .. } | Reference::Alias(_) => {
                let name = self.names.parse(image)?;
                self.names.search(&name, &self.status.node).await;
                Ok(self.names.manifest(&name)?)
            }
            image => Ok(resolve(&self.status.disk, image).await?),
        }
    }

    /// The same, of an image that is to be used as what it is called: if the policy allows that.
    async fn find_allowed(&self, image: &str) -> Result<Digest, CommandError> {
        let manifest = self.find(image).await?;
        // What a name stands for was found by the policy.
        if let reference @ Reference::Registry(_) = image.parse()? {
            self.origins.check(reference, manifest).await?;
        }
        Ok(manifest)
    }

    /// The image that a client wants to have; one of a registry is asked for there.
    pub(crate) async fn locate(&self, wanted: Wanted) -> Result<Sought, CommandError> {
        let Wanted {
            image,
            tag,
            used_as,
            convert,
            platform,
        } = wanted;
        let platform = platform.map(|platform| platform.parse::<Platform>());
        let platform = platform.transpose().map_err(CommandError::Platform)?;
        let tag = tag.map(|tag| tag.parse::<Tag>()).transpose()?;
        let Reference::Registry(reference) = image.parse()? else {
            let manifest = self.find(&image).await?;
            if let Some(used_as) = used_as {
                self.origins.check(used_as.parse()?, manifest).await?;
            }
            let found = None;
            return Ok(Sought::Image(Located {
                manifest,
                found,
                tag,
            }));
        };
        let asked = self.origins.find_image(&reference, platform.as_ref());
        let asked = timeout(REGISTRY_TIMEOUT, asked).await;
        let tag = tag.or_else(|| reference.tag_in_store());
        match asked.map_err(|_| CommandError::RegistrySilent)?? {
            InRegistry::Peerfs(found) => Ok(Sought::Image(Located {
                manifest: found.manifest,
                found: Some(found),
                tag,
            })),
            InRegistry::Ordinary(ordinary) if convert => Ok(Sought::Ordinary(ordinary, tag)),
            InRegistry::Ordinary(ordinary) => Err(ordinary.refusal().into()),
        }
    }

    /// Makes an image of an ordinary one, unless that was done before.
    pub(crate) async fn convert(
        &self,
        ordinary: &Ordinary,
        tag: Option<Tag>,
        progress: &ConversionProgress,
    ) -> Result<(Digest, Conversion), CommandError> {
        Ok(self.origins.convert(ordinary, tag, progress).await?)
    }

    /// Gets what mounting an image needs.
    pub(crate) async fn begin(
        &self,
        manifest: Digest,
        patience: Duration,
    ) -> Result<PullStatus, CommandError> {
        let purpose = Purpose {
            manifest,
            priority: Priority::Demand,
            deadline: Instant::now() + patience,
        };
        self.repository.begin(purpose).await?;
        Ok(PullStatus {
            image: manifest.to_string(),
            state: peerfs_control::PullState::Mountable,
            ..PullStatus::default()
        })
    }

    /// Gets what the trace of an image names; returns its manifest, too.
    pub(crate) async fn warm(
        &self,
        image: &str,
        workload: Option<String>,
    ) -> Result<(Digest, Brought), CommandError> {
        let workload = match workload {
            Some(name) => Workload::new(&name).ok_or(CommandError::Workload(name))?,
            None => Workload::default(),
        };
        let manifest = self.find_allowed(image).await?;
        Ok((manifest, self.traces.bring(manifest, workload).await?))
    }

    /// Keeps an image complete from now on; returns its manifest.
    pub(crate) async fn pin(&self, image: &str) -> Result<Digest, CommandError> {
        let manifest = self.find_allowed(image).await?;
        self.change_pins(move |saved| saved.add(manifest)).await?;
        self.pins
            .add(Reference::Digest(manifest), PinOrigin::Command);
        Ok(manifest)
    }

    /// Does not keep an image complete any more; returns its manifest.
    pub(crate) async fn unpin(&self, image: &str) -> Result<Digest, CommandError> {
        let manifest = self.find(image).await?;
        let was_pinned = self
            .change_pins(move |saved| saved.remove(&manifest))
            .await?;
        self.pins.remove(&manifest, PinOrigin::Command);
        if self.pins.is_configured(&manifest) {
            return Err(CommandError::Configured(manifest));
        }
        if !was_pinned {
            return Err(CommandError::NotPinned(manifest));
        }
        Ok(manifest)
    }

    /// Changes the saved pins, which blocks on a disk.
    async fn change_pins<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut SavedPins) -> Result<T, PinsError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let mut saved = Arc::clone(&self.saved_pins).lock_owned().await;
        let changed = tokio::task::spawn_blocking(move || match saved.as_mut() {
            Ok(saved) => change(saved).map_err(CommandError::from),
            Err(reason) => Err(CommandError::PinsUnknown(reason.clone())),
        });
        changed.await.map_err(|_| CommandError::ShuttingDown)?
    }

    /// Tells everybody a record of a name.
    pub(crate) async fn publish_name(&self, record: &str) -> Result<NameStatus, CommandError> {
        let name = self.names.publish(record, &self.status.node).await?;
        Ok(self.names.status(&name)?)
    }

    /// What is known of a name, and of others than this machine if they are to be asked.
    pub(crate) async fn name(&self, name: &str, search: bool) -> Result<NameStatus, CommandError> {
        let name = self.names.parse(name)?;
        if search {
            self.names.search(&name, &self.status.node).await;
        }
        Ok(self.names.status(&name)?)
    }

    /// Has a name stand for what it stood for earlier.
    pub(crate) async fn roll_back(
        &self,
        name: &str,
        back: Back,
    ) -> Result<NameStatus, CommandError> {
        let name = self.names.parse(name)?;
        self.names.roll_back(&name, back).await?;
        Ok(self.names.status(&name)?)
    }

    /// Lifts the ban of a peer, or of all; returns whose.
    pub(crate) async fn unban(
        &self,
        peer: Option<String>,
        all: bool,
    ) -> Result<Vec<String>, CommandError> {
        let node = &self.status.node;
        let lifted = match peer {
            None if all => node.unban(None).await,
            None => return Err(CommandError::Nobody),
            Some(text) => {
                let peer = text.parse().map_err(|_| CommandError::PeerId(text))?;
                let lifted = node.unban(Some(peer)).await;
                if lifted.is_empty() {
                    return Err(CommandError::NotBanned(peer));
                }
                lifted
            }
        };
        Ok(lifted.iter().map(ToString::to_string).collect())
    }

    /// Gives up what no image needs. What is pinned, or pulled just now, is needed.
    pub(crate) async fn collect(
        &self,
        dry_run: bool,
    ) -> Result<peerfs_control::Collected, CommandError> {
        let pulled = self.pulls.progress().into_iter().map(|pull| pull.manifest);
        let keep = Keep {
            images: self.pins.manifests().into_iter().chain(pulled).collect(),
            traces: self.names.traces(),
        };
        let collect = if dry_run {
            Collect::DryRun
        } else {
            Collect::Really
        };
        let collected = self
            .status
            .disk
            .run(move |store| store.collect(&keep, collect))
            .await;
        self.status.packs.close_all();
        let collected = collected?;
        Ok(peerfs_control::Collected {
            blobs: collected.blobs,
            tables: collected.tables,
            thinned: collected.thinned,
            bytes: collected.bytes,
        })
    }

    /// Gives an image the tag that it is to have.
    pub(crate) async fn tag(&self, located: Located) -> Result<(), CommandError> {
        let (manifest, tag) = match (located.tag, located.found) {
            (None, _) => return Ok(()),
            (Some(tag), Some(found)) => return Ok(self.origins.tag(found, tag).await?),
            (Some(tag), None) => (located.manifest, tag),
        };
        let tagged = self
            .status
            .disk
            .run(move |store| store.tag(&manifest, &tag));
        Ok(tagged.await?)
    }

    /// Begins to bring all of an image here, or joins who does.
    pub(crate) fn pull(&self, manifest: Digest) -> Pull {
        self.pulls.pull(manifest)
    }
}

/// Whether a client that wants all of an image since `begun` has to wait no longer, and why. `patience` is how long
/// nothing may come; others may have waited for it before.
pub(crate) fn verdict(
    progress: &Progress,
    begun: Instant,
    now: Instant,
    patience: Duration,
) -> Option<Result<(), CommandError>> {
    match &progress.state {
        PullState::Complete => Some(Ok(())),
        PullState::Failed(reason) | PullState::Retried(reason) => {
            Some(Err(CommandError::Pull(reason.clone())))
        }
        PullState::Waiting(awaited) => {
            let waited = now.saturating_duration_since(awaited.since.max(begun));
            let error = CommandError::Awaited {
                blob: awaited.blob,
                seconds: waited.as_secs(),
            };
            (waited >= patience).then_some(Err(error))
        }
        PullState::Fetching => None,
    }
}

/// What a client is told of an error.
pub(crate) fn refusal(error: &dyn std::error::Error) -> Reply {
    Reply::Error(Causes(error).to_string())
}

#[cfg(test)]
mod tests {
    use peerfs_fetch::{Amount, Awaited};

    use super::*;

    #[test]
    fn who_waits_for_nothing_is_told_so_after_a_while() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let progress = |state| Progress {
            manifest: Digest([1; 32]),
            state,
            total: None,
            here: Amount::default(),
            bytes_by_source: Default::default(),
        };
        let ended = |state, begun, after| {
            let (begun, now) = (start + begun * second, start + after * second);
            verdict(&progress(state), begun, now, 10 * second)
        };
        let waiting = || {
            PullState::Waiting(Awaited {
                blob: Digest([2; 32]),
                since: start + second,
            })
        };
        assert!(ended(PullState::Fetching, 0, 1000).is_none());
        assert!(ended(waiting(), 0, 10).is_none());
        let error = ended(waiting(), 0, 11).unwrap().unwrap_err().to_string();
        assert!(
            error.contains("10 seconds") && error.contains("0202"),
            "{error}"
        );
        // Others have waited for it for hours.
        assert!(ended(waiting(), 7200, 7209).is_none());
        assert!(ended(waiting(), 7200, 7210).unwrap().is_err());
        assert!(ended(PullState::Complete, 0, 0).unwrap().is_ok());
        assert!(ended(PullState::Retried("x".into()), 0, 0)
            .unwrap()
            .is_err());
    }
}
