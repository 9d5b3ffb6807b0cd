// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Ordinary images of registries, of which images of peerfs are made while their layers come.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use peerfs_build::{
    build, Blob, GiveUp, Layer, LayersSource, Limits, Options, Progress, Promise, ReadProgress,
};
use peerfs_control::{Conversion, PullState, PullStatus};
use peerfs_format::Digest;
use peerfs_names::ImageSignature;
use peerfs_oci::{ContainerConfig, ContainerManifest};
use peerfs_registry::{OrdinaryImage, Remote};
use peerfs_store::{Converted, NotedSignature, RegistryReference, Store, Tag};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::origins::{OriginError, Origins};
use crate::disk::DiskError;

/// Bytes of memory for the names, links and attributes of an image, about: some 2.5 million files.
const MEMORY_MAX: u64 = 1 << 30;

/// An ordinary image of a registry, that the policy allows.
pub struct Ordinary {
    pub(super) reference: RegistryReference,
    pub(super) remote: Remote,
    pub(super) image: OrdinaryImage,
    /// Those of its signatures that the policy required.
    pub(super) signatures: Vec<ImageSignature>,
}

/// How far a conversion is, for whoever watches it.
#[derive(Clone, Default)]
pub struct ConversionProgress {
    read: Arc<ReadProgress>,
    build: Arc<Progress>,
}

/// Whether whoever wanted it is gone: set when this is dropped.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Ordinary {
    /// What is said of it where nothing may be made of it.
    pub fn refusal(&self) -> OriginError {
        OriginError::Ordinary(self.reference.to_string(), self.image.layers.len())
    }

    /// What it is called in a store, unless somebody says otherwise.
    pub fn tag_in_store(&self) -> Option<Tag> {
        self.reference.tag_in_store()
    }

    /// How far it is, as clients of a control socket are told it.
    pub fn status(&self, progress: &ConversionProgress) -> PullStatus {
        let (files, found) = progress.build.found();
        let (total, present) = if files == 0 && !progress.build.is_walk_done() {
            let layers = self.image.layers.iter().map(|layer| layer.length);
            let total = layers.fold(0, u64::saturating_add);
            (total, progress.read.bytes().min(total))
        } else {
            (found, progress.build.done().1)
        };
        PullStatus {
            image: self.reference.to_string(),
            state: PullState::Converting,
            total_bytes: Some(total),
            present_bytes: present,
            ..PullStatus::default()
        }
    }

    /// The digests by which it is known, each once: its manifest, and what its reference stands for.
    fn digests(&self) -> Vec<Digest> {
        let mut digests = vec![self.image.manifest.digest, self.image.top];
        digests.dedup();
        digests
    }

    fn container(&self, source: peerfs_oci::Error) -> OriginError {
        OriginError::Container {
            image: self.reference.to_string(),
            source,
        }
    }
}

impl Origins {
    /// Makes an image of an ordinary one, unless the store has it already, and gives it this tag; returns its manifest. When the
    /// future is dropped, that ends, and nothing is called by the tag.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn convert(
        &self,
        ordinary: &Ordinary,
        tag: Option<Tag>,
        progress: &ConversionProgress,
    ) -> Result<(Digest, Conversion), OriginError> {
        // One after the other: each takes all processors, and who wants the same finds it made.
        let turn = self.turn().await?;
        let (manifest, conversion, oci_index) = match self.find_known(ordinary).await? {
            Some(known) => {
                let originals = ordinary.digests();
                self.disk()
                    .run(move |store| store.tag_converted(&known, tag.as_ref(), &originals))
                    .await?;
                (known.manifest, Conversion::Known, known.oci_index)
            }
            None => {
                let (manifest, oci_index) = self.make(ordinary, tag, progress, turn).await?;
                (manifest, Conversion::Made, oci_index)
            }
        };
        let signatures = ordinary.signatures.iter().map(|signed| NotedSignature {
            image: oci_index,
            payload: signed.payload.clone(),
            signature: signed.signature.clone(),
        });
        let noted: Vec<NotedSignature> = signatures.collect();
        if !noted.is_empty() {
            self.disk()
                .run(move |store| store.note_signatures(&noted))
                .await?;
        }
        Ok((manifest, conversion))
    }

    /// What was made before of an image's manifest, if all of that is here.
    async fn find_known(&self, ordinary: &Ordinary) -> Result<Option<Converted>, OriginError> {
        let original = ordinary.image.manifest.digest;
        let find = move |store: &Store| {
            let mut made = store.originals()?.into_iter();
            Ok(made.find(|made| {
                let is_whole = || {
                    let inventory = store.inventory(&made.manifest);
                    inventory.is_ok_and(|inventory| inventory.is_complete())
                };
                made.original == original && is_whole()
            }))
        };
        Ok(self.disk().run(find).await?)
    }

    async fn make(
        &self,
        ordinary: &Ordinary,
        tag: Option<Tag>,
        progress: &ConversionProgress,
        turn: OwnedSemaphorePermit,
    ) -> Result<(Digest, Digest), OriginError> {
        let refused = |source| ordinary.container(source);
        let manifest = &ordinary.image.manifest.bytes;
        let manifest = ContainerManifest::parse(manifest).map_err(refused)?;
        let config = ordinary.remote.config(&ordinary.image).await?;
        let config = ContainerConfig::parse(&config).map_err(refused)?;
        if config.diff_ids.len() != manifest.layers.len() {
            let problem = "its configuration is for another number of layers";
            return Err(refused(peerfs_oci::Error::NotAContainer(problem)));
        }
        let path = PathBuf::from(ordinary.reference.to_string());
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let _abandon = Abandon(Arc::clone(&is_abandoned));
        let give_up = GiveUp::when(move || is_abandoned.load(Ordering::Relaxed));
        let layers = layers(&path, &manifest, &config, &ordinary.remote, &give_up);
        let root_dir = self.disk().run(|store| Ok(store.root_dir().to_owned()));
        let (root_dir, progress) = (root_dir.await?, progress.clone());
        let (image, originals) = (ordinary.reference.to_string(), ordinary.digests());
        let make = move || {
            let _turn = turn;
            // As if another program did it: who fills the store finds what others put into it.
            let store = Arc::new(Store::open(&root_dir)?);
            let limits = Limits {
                memory: MEMORY_MAX,
                ..Limits::default()
            };
            let source = LayersSource::new(path, layers, &store)
                .limits(limits)
                .progress(&progress.read);
            let options = Options {
                give_up: give_up.clone(),
                ..Options::default()
            };
            let built = build(source, &store, &options, &progress.build)?;
            if give_up.is_due() {
                return Err(peerfs_build::Error::Cancelled);
            }
            let form = (&config.platform.architecture, &config.runtime);
            let oci_index = built.tag_converted(&store, form, tag.as_ref(), &originals)?;
            Ok((built.manifest, oci_index))
        };
        let made = tokio::task::spawn_blocking(make).await;
        let made = made.map_err(|_| DiskError::ShuttingDown)?;
        made.map_err(|source| OriginError::Convert { image, source })
    }
}

/// The layers of an ordinary image, of which each is got when its turn comes. Must be called within a tokio runtime; the layers
/// are read outside of its asynchronous tasks.
pub fn layers(
    path: &Path,
    manifest: &ContainerManifest,
    config: &ContainerConfig,
    remote: &Remote,
    give_up: &GiveUp,
) -> Vec<Layer> {
    let layers = manifest.layers.iter().zip(&config.diff_ids);
    let layers = layers.map(|(blob, diff_id)| {
        let (remote, wanted, handle) = (remote.clone(), blob.clone(), Handle::current());
        let give_up = give_up.clone();
        Layer {
            path: path.join(blob.digest.to_string()),
            blob: Blob::Stream(Box::new(move || {
                let _runtime = handle.enter();
                Ok(Box::new(
                    remote.read_blob(&wanted, move || give_up.is_due()),
                ))
            })),
            promise: Promise {
                digest: Some(blob.digest),
                size: Some(blob.length),
                diff_id: Some(*diff_id),
            },
        }
    });
    layers.collect()
}
