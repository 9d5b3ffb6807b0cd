// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The repositories of registries that images came from, or went to, as sources of these. The store notes them, so that
//! they are known to whoever opens it the next time.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::StreamExt;
use lru::LruCache;
use peerfs_exchange::Have;
use peerfs_format::{Digest, Manifest, METADATA_MAX};
use peerfs_names::{ImageSignature, Requirement};
use peerfs_oci::ContainerConfig;
use peerfs_registry::{Options, OrdinaryImage, Platform, Remote, RemoteImage};
use peerfs_store::{NotedSignature, Reference, RegistryReference, Store, Tag};
use peerfs_text::{printable, Causes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tracing::debug;

use super::{ask, Discovery, Ordinary, Registry, RemoteSource, Source, SourceId, Subject};
use crate::disk::{Disk, DiskError};
use crate::policy_file::{check_stored, is_signed, read_policy, PolicyError};

/// Repositories that are kept as sources.
const SOURCES_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");
/// Between two looks at what the store notes: others may have noted something.
const READ_INTERVAL: Duration = Duration::from_secs(10);

/// How long what is beside an image may take, its traces, its signatures for kernels and its envelope: whoever mounts it waits for them.
const BESIDE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an image of a registry can't be had.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The registry says why.
    #[error(transparent)]
    Registry(#[from] peerfs_registry::Error),
    /// The store could not be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is an image for container runtimes alone.
    #[error(
        "{0} is no image of peerfs, but an ordinary one of {1} layers: `peerfs import docker://{0}` makes one of it, and `peerfs convert {0}` puts one beside it"
    )]
    Ordinary(String, usize),
    /// Its manifest or configuration is not valid.
    #[error("cannot convert {image}")]
    Container {
        /// What it is called.
        image: String,
        /// Why.
        source: peerfs_oci::Error,
    },
    /// No image could be made of it.
    #[error("cannot convert {image}")]
    Convert {
        /// What it is called.
        image: String,
        /// Why.
        source: peerfs_build::Error,
    },
    /// There is a policy, which is not understood.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// An image of a registry, of which the beginning is in the store.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Its manifest.
    pub manifest: Digest,
    /// The OCI index or manifest that leads to it there.
    pub oci_index: Digest,
}

/// What a reference stands for in its registry.
pub enum InRegistry {
    /// An image of peerfs.
    Peerfs(Found),
    /// An ordinary one, without a conversion beside it.
    Ordinary(Box<Ordinary>),
}

/// Finds for each image the repositories that are noted to have it. Clones are the same.
#[derive(Clone)]
pub struct Origins(Arc<Shared>);

struct Shared {
    disk: Disk,
    registry: Arc<Registry>,
    options: Options,
    /// The file of the policy, in the place of the usual one.
    policy: Option<PathBuf>,
    /// Whoever converts has the one permit.
    turns: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    /// What the store notes, and when that was read.
    noted: HashMap<Digest, Vec<String>>,
    read_at: Option<Instant>,
    sources: LruCache<String, (SourceId, Arc<RemoteSource>)>,
}

impl Origins {
    /// Those that the store behind `disk` notes, of which images are taken that the policy in this file allows, or in the usual
    /// one.
    pub fn new(
        disk: Disk,
        registry: Arc<Registry>,
        options: Options,
        policy: Option<PathBuf>,
    ) -> Self {
        Origins(Arc::new(Shared {
            disk,
            registry,
            options,
            policy,
            turns: Arc::new(Semaphore::new(1)),
            state: Mutex::new(State {
                noted: HashMap::new(),
                read_at: None,
                sources: LruCache::new(SOURCES_MAX),
            }),
        }))
    }

    /// Asks a registry what a reference stands for, brings the OCI form and the manifest of that into the store, and notes
    /// where it is: from now on all of it can be fetched from there. Of an ordinary image nothing is brought. Of several it is
    /// the one for this platform, or for such machines as this one.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn find_image(
        &self,
        reference: &RegistryReference,
        platform: Option<&Platform>,
    ) -> Result<InRegistry, OriginError> {
        let remote = Remote::repository(reference, &self.0.options)?;
        // Read each time: who changes it need not start anything anew.
        let file = self.0.policy.clone();
        let policy = tokio::task::spawn_blocking(move || read_policy(file.as_deref())).await;
        let policy = policy.map_err(|_| DiskError::ShuttingDown)??;
        let required = policy.requires(&Reference::Registry(reference.clone()));
        if *required == Requirement::Refused {
            return Err(PolicyError::Refused(reference.to_string()).into());
        }
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let image = match remote.image(reference, &wanted).await? {
            RemoteImage::Peerfs(image) => image,
            RemoteImage::Ordinary(image) => {
                if let Some(platform) = platform {
                    check_platform(&remote, reference, &image, platform).await?;
                }
                // By a tag it is the registry that says what is meant; a digest is not the registry's to explain.
                let may_be_converted =
                    reference.digest.is_none() || self.0.options.trust_conversions;
                let conversion = match may_be_converted {
                    true => remote.conversion(&image).await?,
                    false => None,
                };
                match conversion {
                    Some(conversion) => conversion,
                    None => {
                        let signatures =
                            signatures(&remote, reference, image.top, required).await?;
                        return Ok(InRegistry::Ordinary(Box::new(Ordinary {
                            reference: reference.clone(),
                            remote,
                            image,
                            signatures,
                        })));
                    }
                }
            }
        };
        let signatures = signatures(&remote, reference, image.top.digest, required).await?;
        let manifest = image.manifest;
        let blob = remote.small_blob(&manifest, METADATA_MAX);
        let (blob, traces, certified) = tokio::join!(
            blob,
            timeout(BESIDE_TIMEOUT, remote.traces(&manifest)),
            timeout(BESIDE_TIMEOUT, remote.certified_signatures(&manifest)),
        );
        let blob = blob?;
        // Without traces readers wait longer; who needs the signatures is the kernel, and it says so.
        let traces = beside(&manifest, "traces", traces);
        let certified = beside(&manifest, "signatures for kernels", certified);
        let key = Manifest::parse(&blob).ok().and_then(|read| read.key_id());
        let granted = match key {
            Some(key) => {
                let envelope = timeout(BESIDE_TIMEOUT, remote.envelope(&manifest)).await;
                // Who needs the key says that there is none.
                Some((key, beside(&manifest, "envelopes", envelope)))
            }
            None => None,
        };
        let oci_index = image.top.digest;
        let origin = remote.name().to_owned();
        let store = move |store: &peerfs_store::Store| {
            for (digest, bytes) in &image.form {
                store.put_blob(digest, bytes)?;
            }
            store.put_blob(&image.top.digest, &image.top.bytes)?;
            store.put_blob(&manifest, &blob)?;
            let noted = signatures.into_iter().map(|signed| NotedSignature {
                image: oci_index,
                payload: signed.payload,
                signature: signed.signature,
            });
            let noted: Vec<NotedSignature> = noted.collect();
            if !noted.is_empty() {
                store.note_signatures(&noted)?;
            }
            if !certified.is_empty() {
                store.add_certified_signatures(&manifest, &certified)?;
            }
            if let Some((key, envelope)) =
                granted.filter(|(_, envelope)| !envelope.grants().is_empty())
            {
                store.add_grants(&key, envelope.grants())?;
            }
            for trace in traces {
                // What was noted here is better.
                if !matches!(store.trace(&manifest, trace.workload), Ok(Some(_))) {
                    let _ = store.add_trace(&trace);
                }
            }
            store.add_origin(&manifest, Some(&oci_index), &origin)
        };
        self.0.disk.run(store).await?;
        self.0.lock().read_at = None;
        Ok(InRegistry::Peerfs(Found {
            manifest,
            oci_index,
        }))
    }

    /// Fails unless the policy allows that an image of the store is used as what a reference names.
    ///
    /// # Errors
    /// [`OriginError::Policy`], [`OriginError::Disk`].
    pub async fn check(&self, reference: Reference, manifest: Digest) -> Result<(), OriginError> {
        if let Reference::Digest(_) | Reference::Tag(_) = reference {
            // No policy is about these, be it one that can't be read.
            return Ok(());
        }
        let file = self.0.policy.clone();
        let check = move |store: &Store| {
            let policy = read_policy(file.as_deref());
            Ok(policy.and_then(|policy| check_stored(store, &policy, &reference, &manifest)))
        };
        Ok(self.0.disk.run(check).await??)
    }

    /// Gives an image that was found the tag that says where it is from, or another one.
    ///
    /// # Errors
    /// [`OriginError::Disk`].
    pub async fn tag(&self, found: Found, tag: Tag) -> Result<(), OriginError> {
        let tagged = self
            .0
            .disk
            .run(move |store| store.tag_oci(&found.manifest, &found.oci_index, &tag));
        Ok(tagged.await?)
    }
}

impl Origins {
    pub(super) fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// Waits until nobody else converts.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, OriginError> {
        let turn = Arc::clone(&self.0.turns).acquire_owned().await;
        turn.map_err(|_| DiskError::ShuttingDown.into())
    }
}

/// What a registry has beside an image; nothing if that can't be had, or not soon.
fn beside<T: Default>(
    manifest: &Digest,
    what: &str,
    answered: Result<Result<T, peerfs_registry::Error>, Elapsed>,
) -> T {
    match answered {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            debug!(%manifest, what, error = %Causes(&error), "what the registry has beside the image is not known");
            T::default()
        }
        Err(Elapsed { .. }) => T::default(),
    }
}

/// Fails unless an ordinary image is for this platform: one that is there alone need not be for what was asked for.
async fn check_platform(
    remote: &Remote,
    reference: &RegistryReference,
    image: &OrdinaryImage,
    platform: &Platform,
) -> Result<(), OriginError> {
    let config = remote.config(image).await?;
    let config = ContainerConfig::parse(&config);
    let checked = config.and_then(|config| platform.check(&config.platform));
    checked.map_err(|source| OriginError::Container {
        image: reference.to_string(),
        source,
    })
}

/// The signatures of what a reference stands for that the policy requires.
async fn signatures(
    remote: &Remote,
    reference: &RegistryReference,
    digest: Digest,
    required: &Requirement,
) -> Result<Vec<ImageSignature>, OriginError> {
    let Requirement::Signature(keys) = required else {
        return Ok(Vec::new());
    };
    let mut signatures = remote.signatures(&digest).await?;
    let found = signatures.len();
    signatures.retain(|signature| is_signed(signature, &digest, keys));
    if signatures.is_empty() {
        return Err(PolicyError::unsigned(reference, digest, keys, found).into());
    }
    Ok(signatures)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in it is valid after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sources that are noted to have an image.
    async fn sources(&self, manifest: Digest) -> Vec<(SourceId, Arc<RemoteSource>)> {
        let now = Instant::now();
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < READ_INTERVAL;
        let must_read = !self.lock().read_at.is_some_and(is_fresh);
        if must_read {
            match self.disk.run(|store| store.origins()).await {
                Ok(origins) => {
                    let mut noted: HashMap<Digest, Vec<String>> = HashMap::new();
                    for (manifest, origin) in origins {
                        noted.entry(manifest).or_default().push(origin);
                    }
                    let mut state = self.lock();
                    state.noted = noted;
                    state.read_at = Some(now);
                }
                Err(error) => debug!(error = %Causes(&error), "cannot read where images are from"),
            }
        }
        let mut state = self.lock();
        let origins = state.noted.get(&manifest).cloned().unwrap_or_default();
        let sources = origins
            .iter()
            .filter_map(|origin| self.source(&mut state, origin));
        sources.collect()
    }

    fn source(&self, state: &mut State, origin: &str) -> Option<(SourceId, Arc<RemoteSource>)> {
        if let Some(known) = state.sources.get(origin) {
            return Some(known.clone());
        }
        // A store may come from somebody else: whatever stands there.
        let Ok(Reference::Registry(reference)) = origin.parse() else {
            debug!(origin = %printable(origin), "is no repository of a registry");
            return None;
        };
        let remote = Remote::repository(&reference, &self.options).ok()?;
        let source = Arc::new(RemoteSource::origin(remote));
        let id = self.registry.register(Arc::<RemoteSource>::clone(&source));
        let made = (id, source);
        let gone = state.sources.push(origin.to_owned(), made.clone());
        if let Some((_, (id, _))) = gone {
            self.registry.remove(id);
        }
        Some(made)
    }
}

impl Discovery for Origins {
    fn find(&self, content: Digest, subject: &Subject) -> BoxStream<'static, (SourceId, Have)> {
        let (shared, subject) = (Arc::clone(&self.0), subject.clone());
        let found = async move {
            let sources = shared.sources(subject.manifest()).await;
            let asking = sources.into_iter().map(|(id, source)| {
                let subject = subject.clone();
                async move {
                    let source: &dyn Source = source.as_ref();
                    Some((id, ask(source, content, &subject).await?))
                }
            });
            asking.collect::<FuturesUnordered<_>>()
        };
        stream::once(found)
            .flatten()
            .filter_map(|found| async move { found })
            .boxed()
    }

    fn newcomers(&self) -> BoxStream<'static, SourceId> {
        stream::empty().boxed()
    }
}
