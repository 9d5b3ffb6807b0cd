// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What containerd asks, done: snapshots as overlayfs has them, and peerfs images among them.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use peerfs_format::Digest;
use peerfs_oci::MANIFEST_ANNOTATION;
use peerfs_store::unpacked_stub;
use peerfs_sys::mount_point::unmount_all;
use peerfs_text::Causes;
use tokio::task::spawn_blocking;

use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::folder::{Snapshot, Snapshots};
use crate::images::Images;
use crate::overlay::{Mount, Overlay};
use crate::record::{since_1970, Image, Kind, Record, Usage};
use crate::usage;

/// The label with the name that a layer will have when it is committed: who asks for it would rather be told that it is there.
const TARGET: &str = "containerd.io/snapshot.ref";
/// The label with the reference that an image was pulled as.
const IMAGE_REFERENCE: &str = "containerd.io/snapshot/cri.image-ref";
/// The longest name of a snapshot, in bytes.
const KEY_MAX: usize = 4096;
/// The most bytes of all labels of a snapshot.
const LABELS_MAX: usize = 256 * 1024;

/// Labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// A snapshotter.
pub struct Snapshotter {
    snapshots: Arc<Mutex<Snapshots>>,
    images: Arc<Images>,
    /// Images that are about to become snapshots.
    coming: Arc<Mutex<Vec<Digest>>>,
    overlay: Overlay,
}

impl Snapshotter {
    /// A snapshotter over these snapshots.
    pub fn new(snapshots: Snapshots, images: Images, overlay: Overlay) -> Self {
        Snapshotter {
            snapshots: Arc::new(Mutex::new(snapshots)),
            images: Arc::new(images),
            coming: Arc::default(),
            overlay,
        }
    }

    /// Makes a snapshot over a committed one, or over nothing, and returns how it is mounted.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] also if the layer that is about to be made is an image, which needs no layer.
    pub async fn prepare(
        &self,
        kind: Kind,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        check(key, &labels)?;
        if let Some(target) = labels.get(TARGET) {
            if let Some(layer) = self.image_of_layer(target, parent, &labels).await? {
                match self.add_image(target, layer, labels.clone()).await {
                    Ok(()) => return Err(Error::AlreadyExists(target.clone())),
                    // Its layer leads to it as well, and perhaps later it comes.
                    Err(error) => tracing::warn!(error = %Causes(&error), "the layer is unpacked"),
                }
            }
        }
        let (lowers, like) = self.lowers(parent).await?;
        let record = Record::new(kind, key, parent, labels, SystemTime::now());
        let overlay = self.overlay.clone();
        self.with(move |snapshots| {
            let made = snapshots.add(record, like.as_ref())?;
            Ok(overlay.mounts(kind, &snapshots.place(&made), &lowers))
        })
        .await
    }

    /// How a snapshot is mounted.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of images below it.
    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let name = key.to_owned();
        let (snapshot, place) = self
            .with(move |snapshots| {
                let found = snapshots.get(&name)?;
                Ok((found.clone(), snapshots.place(found)))
            })
            .await?;
        let (lowers, _) = self.lowers(snapshot.record.parent.as_deref()).await?;
        Ok(self.overlay.mounts(snapshot.record.kind, &place, &lowers))
    }

    /// Calls a snapshot by another name, under which it never changes. One that holds nothing but the sign of an image becomes
    /// that image.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AlreadyExists`], [`Error::WrongKind`], [`Error::Folder`].
    pub async fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<()> {
        check(name, &labels)?;
        let (name, key) = (name.to_owned(), key.to_owned());
        let committed = self
            .with_shared(move |snapshots| {
                let (snapshot, files) = {
                    let snapshots = lock(snapshots);
                    let found = snapshots.get(&key)?;
                    found.must_be(Kind::Active)?;
                    (found.clone(), snapshots.place(found).files())
                };
                let failed = |error| Error::folder("read", &files)(error);
                // What is over others may be called so for other reasons.
                let manifest = match snapshot.record.parent {
                    None => unpacked_stub(&files).map_err(failed)?,
                    Some(_) => None,
                };
                let mut record = snapshot.record;
                let reference = [&labels, &record.labels]
                    .into_iter()
                    .find_map(|labels| labels.get(IMAGE_REFERENCE).cloned());
                record.kind = Kind::Committed;
                record.key = name;
                record.updated = since_1970(SystemTime::now());
                record.labels = labels;
                record.image = manifest.map(|manifest| Image {
                    manifest,
                    reference,
                });
                if record.image.is_none() {
                    record.usage = Some(usage::of_directory(&files).map_err(failed)?);
                }
                let image = record.image.clone();
                lock(snapshots).replace(&key, record)?;
                if image.is_some() {
                    // The image is mounted there, and hides it if it stays.
                    let _ = fs::remove_dir_all(files.join(peerfs_oci::STUB_DIRECTORY));
                }
                Ok(image)
            })
            .await?;
        if let Some(image) = committed {
            // containerd's own database waits for us meanwhile; who needs the image waits for it later.
            let images = Arc::clone(&self.images);
            let unless_needed = self.forget_unless_needed(image.manifest);
            tokio::spawn(async move {
                if let Err(error) = images.fetch(&image).await {
                    tracing::warn!(error = %Causes(&error), "it is tried again when a container needs it");
                }
                // It may have been removed meanwhile.
                let _ = spawn_blocking(unless_needed).await;
            });
        }
        Ok(())
    }

    /// Removes a snapshot that no other one lies over.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::HasChildren`], [`Error::Folder`].
    pub async fn remove(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        let gone = self.with(move |snapshots| snapshots.remove(&key)).await?;
        if let Some(image) = gone.record.image {
            let unless_needed = self.forget_unless_needed(image.manifest);
            spawn_blocking(unless_needed)
                .await
                .map_err(|_| Error::Ending)?;
        }
        // The snapshot is gone, whatever stays of it, or of another one.
        if let Err(error) = self.cleanup().await {
            tracing::warn!(error = %Causes(&error), "something of removed snapshots stays");
        }
        Ok(())
    }

    /// Lets an image go that is no snapshot any more, and is not about to become one.
    fn forget_unless_needed(&self, manifest: Digest) -> impl FnOnce() + Send + 'static {
        let (snapshots, images) = (Arc::clone(&self.snapshots), Arc::clone(&self.images));
        let coming = Arc::clone(&self.coming);
        move || {
            // With both locks, so that nobody begins to need it meanwhile.
            let snapshots = lock(&snapshots);
            let coming = coming.lock().unwrap_or_else(PoisonError::into_inner);
            let is_it = |other: &Image| other.manifest == manifest;
            let mut all = snapshots.iter();
            let is_needed = coming.contains(&manifest)
                || all.any(|other| other.record.image.as_ref().is_some_and(is_it));
            if !is_needed {
                images.forget(&manifest);
            }
        }
    }

    /// Removes what removed snapshots have left behind, as much as can be.
    ///
    /// # Errors
    /// [`Error::Folder`] of the first that stays.
    pub async fn cleanup(&self) -> Result<()> {
        self.with_shared(|snapshots| {
            let leftovers = lock(snapshots).leftovers()?;
            let removed: Vec<Result<()>> = leftovers
                .iter()
                .map(|place| {
                    unmount_all(&place.files());
                    place.remove()
                })
                .collect();
            removed.into_iter().collect()
        })
        .await
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn stat(&self, key: &str) -> Result<Record> {
        let key = key.to_owned();
        self.with(move |snapshots| Ok(snapshots.get(&key)?.record.clone()))
            .await
    }

    /// Changes labels: all of them, or those that `paths` name (`labels`, `labels.NAME`). Returns what is known then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Folder`].
    pub async fn update(&self, key: &str, labels: Labels, paths: Vec<String>) -> Result<Record> {
        check(key, &labels)?;
        let key = key.to_owned();
        self.with(move |snapshots| {
            let mut record = snapshots.get(&key)?.record.clone();
            record.labels = changed(record.labels, labels, &paths)?;
            record.updated = since_1970(SystemTime::now());
            snapshots.replace(&key, record.clone())?;
            Ok(record)
        })
        .await
    }

    /// All snapshots that one of the filters fits; all, if there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a filter is wrong.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Record>> {
        let filters: Result<Vec<Filter>> = filters.iter().map(|text| Filter::parse(text)).collect();
        let filters = filters?;
        self.with(move |snapshots| {
            let records = snapshots.iter().map(|snapshot| &snapshot.record);
            let fits = |record: &&Record| {
                filters.is_empty() || filters.iter().any(|filter| filter.fits(record))
            };
            Ok(records.filter(fits).cloned().collect())
        })
        .await
    }

    /// What a snapshot takes, without those below it; of an image that which is in the store.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Folder`].
    pub async fn usage(&self, key: &str) -> Result<Usage> {
        let key = key.to_owned();
        let (snapshot, files) = self
            .with(move |snapshots| {
                let found = snapshots.get(&key)?;
                Ok((found.clone(), snapshots.place(found).files()))
            })
            .await?;
        if let Some(image) = &snapshot.record.image {
            return Ok(Usage {
                size: self.images.size(&image.manifest).await,
                inodes: 0,
            });
        }
        if let Some(usage) = snapshot.record.usage {
            return Ok(usage);
        }
        self.with_shared(move |_| usage::of_directory(&files).map_err(Error::folder("read", files)))
            .await
    }

    /// Mounts again what was lost with a process or a reboot, for the containers that may come back: as far as it is there.
    pub async fn restore(&self) {
        let needed = self
            .with(|snapshots| {
                let active = snapshots
                    .iter()
                    .filter(|one| one.record.kind != Kind::Committed);
                Ok(active.map(|one| one.record.key.clone()).collect::<Vec<_>>())
            })
            .await;
        for key in needed.unwrap_or_default() {
            if let Err(error) = self.mounts(&key).await {
                tracing::warn!(snapshot = key, error = %Causes(&error), "it is tried again when it is needed");
            }
        }
    }

    /// The image that a layer is which is about to be fetched and unpacked: by what the layer itself says, or by what a catalogue says
    /// of it.
    async fn image_of_layer(
        &self,
        target: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Option<ImageLayer>> {
        if let (None, Some(image)) = (parent, image_of(labels)) {
            return Ok(Some(ImageLayer::Stub(image)));
        }
        // Who lists a layer lists those below it.
        let is_over_files = match parent.map(str::to_owned) {
            None => false,
            Some(parent) => {
                let is_image =
                    move |all: &mut Snapshots| Ok(all.get(&parent)?.record.image.is_some());
                !self.with(is_image).await?
            }
        };
        if is_over_files {
            return Ok(None);
        }
        let manifest = self.images.unpacked(target).await;
        Ok(manifest.map(|manifest| ImageLayer::Listed {
            image: Image {
                manifest,
                reference: labels.get(IMAGE_REFERENCE).cloned(),
            },
            parent: parent.map(str::to_owned),
        }))
    }

    /// Makes a committed snapshot that is an image, unless there is one already.
    async fn add_image(&self, name: &str, layer: ImageLayer, labels: Labels) -> Result<()> {
        let target = name.to_owned();
        let is_there = self
            .with(move |snapshots| match snapshots.get(&target) {
                Ok(found) => found.must_be(Kind::Committed).map(|()| true),
                Err(_) => Ok(false),
            })
            .await?;
        if is_there {
            return Ok(());
        }
        let manifest = layer.image().manifest;
        let coming = Coming::new(&self.coming, manifest);
        let added = self.fetch_and_add(name, layer, labels).await;
        drop(coming);
        if added.is_err() {
            let unless_needed = self.forget_unless_needed(manifest);
            spawn_blocking(unless_needed)
                .await
                .map_err(|_| Error::Ending)?;
        }
        added
    }

    async fn fetch_and_add(&self, name: &str, layer: ImageLayer, labels: Labels) -> Result<()> {
        self.images.fetch(layer.image()).await?;
        let (image, parent) = match layer {
            ImageLayer::Stub(image) => {
                self.images.check_layer(&image, name).await?;
                (image, None)
            }
            ImageLayer::Listed { image, parent } => (image, parent),
        };
        let parent = parent.as_deref();
        let mut record = Record::new(Kind::Committed, name, parent, labels, SystemTime::now());
        record.image = Some(image);
        let added = self
            .with(move |snapshots| snapshots.add(record, None).map(drop))
            .await;
        match added {
            // Somebody else was faster with the same.
            Err(Error::AlreadyExists(_)) => Ok(()),
            added => added,
        }
    }

    /// Where all lies that a snapshot over `parent` is made of, the uppermost first, with what that directory is like. Images
    /// are mounted, and have in them what lies below.
    async fn lowers(&self, parent: Option<&str>) -> Result<(Vec<PathBuf>, Option<Metadata>)> {
        let Some(parent) = parent.map(str::to_owned) else {
            return Ok((Vec::new(), None));
        };
        let chain = self
            .with(move |snapshots| {
                let mut chain = snapshots.chain(&parent)?;
                let image = chain.iter().position(|one| one.record.image.is_some());
                chain.truncate(image.map_or(chain.len(), |image| image + 1));
                let part =
                    |one: &Snapshot| (one.record.image.clone(), snapshots.place(one).files());
                Ok(chain.into_iter().map(part).collect::<Vec<_>>())
            })
            .await?;
        for (image, files) in &chain {
            if let Some(image) = image {
                self.images.mount(image, files).await?;
            }
        }
        let lowers: Vec<PathBuf> = chain.into_iter().map(|(_, files)| files).collect();
        let Some(first) = lowers.first().cloned() else {
            return Ok((lowers, None));
        };
        let like =
            spawn_blocking(move || fs::metadata(&first).map_err(Error::folder("read", first)));
        let like = like.await.map_err(|_| Error::Ending)??;
        Ok((lowers, Some(like)))
    }

    /// Does something with the snapshots, in a thread that may wait for a disk.
    async fn with<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Snapshots) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.with_shared(move |snapshots| run(&mut lock(snapshots)))
            .await
    }

    /// The same for what needs them now and then.
    async fn with_shared<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Mutex<Snapshots>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let snapshots = Arc::clone(&self.snapshots);
        let done = spawn_blocking(move || run(&snapshots)).await;
        done.map_err(|_| Error::Ending)?
    }
}

/// A layer that need not be unpacked.
enum ImageLayer {
    /// It stands for an image in peerfs form.
    Stub(Image),
    /// A catalogue says what it is, with all below it.
    Listed {
        image: Image,
        parent: Option<String>,
    },
}

impl ImageLayer {
    fn image(&self) -> &Image {
        match self {
            ImageLayer::Stub(image) | ImageLayer::Listed { image, .. } => image,
        }
    }
}

/// An image that is about to become a snapshot, as long as this is there.
struct Coming {
    all: Arc<Mutex<Vec<Digest>>>,
    manifest: Digest,
}

impl Coming {
    fn new(all: &Arc<Mutex<Vec<Digest>>>, manifest: Digest) -> Self {
        let all = Arc::clone(all);
        all.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(manifest);
        Coming { all, manifest }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let place = all.iter().position(|one| *one == self.manifest);
        if let Some(place) = place {
            all.swap_remove(place);
        }
    }
}

fn lock(snapshots: &Mutex<Snapshots>) -> std::sync::MutexGuard<'_, Snapshots> {
    // What is there is what is on the disk, whoever panicked.
    snapshots.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(key: &str, labels: &Labels) -> Result<()> {
    if key.is_empty() || key.len() > KEY_MAX {
        return Err(Error::Invalid(format!(
            "a snapshot's name has 1 to {KEY_MAX} bytes"
        )));
    }
    let length: usize = labels
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if length > LABELS_MAX {
        return Err(Error::Invalid(format!(
            "a snapshot's labels have at most {LABELS_MAX} bytes"
        )));
    }
    Ok(())
}

/// The image that a layer with these labels stands for.
fn image_of(labels: &Labels) -> Option<Image> {
    let manifest = labels.get(MANIFEST_ANNOTATION)?;
    let manifest = manifest.strip_prefix("sha256:").unwrap_or(manifest);
    Some(Image {
        manifest: manifest.parse().ok()?,
        reference: labels.get(IMAGE_REFERENCE).cloned(),
    })
}

fn changed(mut old: Labels, mut new: Labels, paths: &[String]) -> Result<Labels> {
    if paths.is_empty() {
        return Ok(new);
    }
    for path in paths {
        match path.split_once('.') {
            None if path == "labels" => return Ok(new),
            Some(("labels", name)) => {
                match new.remove(name) {
                    Some(value) => old.insert(name.to_owned(), value),
                    None => old.remove(name),
                };
            }
            _ => {
                let problem = format!("{path} of a snapshot cannot be changed");
                return Err(Error::Invalid(problem));
            }
        }
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> Labels {
        let list = list
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        list.collect()
    }

    #[test]
    fn only_what_is_named_is_changed() {
        let old = labels(&[("a", "1"), ("b.c", "2")]);
        let new = labels(&[("a", "3"), ("d", "4")]);
        let change = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
            changed(old.clone(), new.clone(), &paths)
        };
        assert_eq!(change(&[]).unwrap(), new);
        assert_eq!(change(&["labels"]).unwrap(), new);
        assert_eq!(
            change(&["labels.a", "labels.b.c"]).unwrap(),
            labels(&[("a", "3")])
        );
        assert!(change(&["parent"]).is_err());
    }

    #[test]
    fn a_label_that_is_no_digest_is_no_image() {
        let manifest = format!("sha256:{}", "0a".repeat(32));
        let image = image_of(&labels(&[
            (MANIFEST_ANNOTATION, &manifest),
            (IMAGE_REFERENCE, "localhost:5000/a:1"),
        ]));
        assert_eq!(
            image.unwrap().reference.as_deref(),
            Some("localhost:5000/a:1")
        );
        assert_eq!(
            image_of(&labels(&[(MANIFEST_ANNOTATION, "../../etc")])),
            None
        );
    }
}
