// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the layers of images for containers unpack to: an image for each, with all layers below it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use indicatif::ProgressBar;
use peerfs_build::{Blob, Layer, LayersSource, Limits, Promise, ReadProgress};
use peerfs_oci::{chain_ids, Platform, Reference};
use peerfs_store::{Reference as StoreReference, Store, Tag, TemporaryFile};
use peerfs_sys::interrupt;
use tokio::runtime::Runtime;

use super::container::{self, Container, Folder, LayoutImage};
use super::source::{Format, Source};
use super::{convert, remote, show};
use crate::arguments::RegistryArguments;
use crate::build::{Maker, Origin};
use crate::error::{Error, Result};
use crate::output::tell;
use crate::progress::show_while;

/// Bytes that are copied between two looks whether to give up.
const PIECE: u64 = 1 << 20;

/// Where images for containers come from.
pub(crate) struct Sources<'a> {
    pub(crate) platform: Option<&'a Platform>,
    pub(crate) registry: &'a RegistryArguments,
    pub(crate) limits: Limits,
}

impl Sources<'_> {
    /// Makes an image of what the lowest layer of an image for containers unpacks to, one of that with the next layer over it, and so
    /// on. Each is called `NAME/ID` in the store, with the id by which runtimes know it ([`chain_ids`]); those that are there already
    /// are not made again.
    ///
    /// # Errors
    /// There is no such image, or it is none for containers; what making one fails with. Those that were made stay.
    pub(crate) fn make_layers(&self, maker: &Maker<'_>, source: &str, name: &str) -> Result<()> {
        let source = convert::source(source);
        let (container, runtime) = self.open(&source)?;
        let made = self.make_each(maker, &source.path, container, name);
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
        match made {
            // What was waited for was given up.
            Err(_) if interrupt::is_requested() => Err(Error::Cancelled),
            made => made,
        }
    }

    fn open(&self, source: &Source) -> Result<(Container, Option<Runtime>)> {
        let path = source.path.as_path();
        let refused = |problem| Error::Import {
            path: path.to_owned(),
            problem,
        };
        if source.format == Format::Registry {
            let Reference::Registry(reference) = path.to_string_lossy().parse()? else {
                return Err(refused("it is no image of a registry"));
            };
            let (container, runtime) = remote::container(&reference, self.registry, self.platform)?;
            return Ok((container, Some(runtime)));
        }
        if !path.is_dir() {
            return Err(refused("an image of a registry or a directory with an OCI image layout is expected, as they have layers"));
        }
        let folder = Arc::new(Folder::Directory(path.to_owned()));
        let name = source.image.as_deref();
        match container::oci(&folder, path, name, self.platform)? {
            LayoutImage::Container(container) => Ok((*container, None)),
            LayoutImage::PuzzleFs(_) => Err(refused("it is an image of PuzzleFS, without layers")),
        }
    }

    fn make_each(
        &self,
        maker: &Maker<'_>,
        path: &Path,
        container: Container,
        name: &str,
    ) -> Result<()> {
        let Container { layers, config } = container;
        let tags = chain_ids(&config.diff_ids)
            .iter()
            .map(|id| Ok(format!("{name}/{id}").parse()?))
            .collect::<Result<Vec<Tag>>>()?;
        let is_there = |tag: &Tag| {
            let reference = StoreReference::Tag(tag.clone());
            let manifest = maker.store.resolve(&reference);
            manifest.is_ok_and(|manifest| maker.store.read_manifest(&manifest).is_ok())
        };
        let origin = Origin {
            architecture: Some(config.platform.architecture.clone()),
            ..Origin::default()
        };
        let count = tags.len();
        // Each layer is read once for each image that it is in, and is at hand from the first one on.
        let (mut waiting, mut spooled) = (Vec::new(), Vec::new());
        let mut allowance = self.limits.unpacked;
        for (number, (tag, layer)) in (1..).zip(tags.iter().zip(layers)) {
            waiting.push(layer);
            if is_there(tag) {
                continue;
            }
            for layer in waiting.drain(..) {
                spooled.push(Spooled::new(layer, &maker.store, &mut allowance)?);
            }
            let progress = Arc::new(ReadProgress::default());
            let opened = spooled.iter().map(Spooled::open);
            let opened = opened.collect::<Result<Vec<_>>>()?;
            let total = opened.iter().filter_map(|one| one.promise.size).sum();
            let source = LayersSource::new(path, opened, &maker.store)
                .limits(self.limits)
                .progress(&progress);
            let made = maker.make_as(source, &origin, tag, |bar: &ProgressBar| {
                show(bar, &progress, total);
            })?;
            tell(&format!(
                "layer {number} of {count}: {tag} is {}",
                made.image.manifest
            ));
        }
        Ok(())
    }
}

/// The bytes of a layer in a file.
struct Spooled {
    path: PathBuf,
    file: File,
    promise: Promise,
    /// With this the file goes, if it is ours.
    _temporary: Option<TemporaryFile>,
}

impl Spooled {
    fn new(layer: Layer, store: &Store, allowance: &mut u64) -> Result<Self> {
        let Layer {
            path,
            blob,
            promise,
        } = layer;
        let failed = |source| Error::Read {
            path: path.clone(),
            source,
        };
        let stream = match blob {
            Blob::File(file) => {
                return Ok(Spooled {
                    path,
                    file,
                    promise,
                    _temporary: None,
                })
            }
            Blob::Stream(open) => open().map_err(failed)?,
            Blob::Entry(_) => return Err(failed(io::ErrorKind::Unsupported.into())),
        };
        let temporary = store.temporary_file()?;
        let file = temporary.file().try_clone().map_err(failed)?;
        copy(stream, &file, promise, allowance).map_err(failed)?;
        Ok(Spooled {
            path,
            file,
            promise,
            _temporary: Some(temporary),
        })
    }

    fn open(&self) -> Result<Layer> {
        let again = || {
            let mut file = self.file.try_clone()?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        };
        let file = again().map_err(|source| Error::Read {
            path: self.path.clone(),
            source,
        })?;
        Ok(Layer {
            path: self.path.clone(),
            blob: Blob::File(file),
            promise: self.promise,
        })
    }
}

/// Copies a layer as it comes; what it is, is verified when it is read.
fn copy(
    mut stream: Box<dyn Read + Send>,
    mut file: &File,
    promise: Promise,
    allowance: &mut u64,
) -> io::Result<()> {
    let progress = AtomicU64::new(0);
    let show = |bar: &ProgressBar| {
        let copied = progress.load(Ordering::Relaxed);
        bar.set_length(promise.size.unwrap_or_default().max(copied));
        bar.set_position(copied);
        bar.set_message("fetching");
    };
    show_while(show, || loop {
        if interrupt::is_requested() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let copied = io::copy(&mut stream.by_ref().take(PIECE), &mut file)?;
        *allowance = allowance.checked_sub(copied).ok_or_else(|| {
            io::Error::other("its layers are longer than --max-size allows for all of them")
        })?;
        progress.fetch_add(copied, Ordering::Relaxed);
        if copied == 0 {
            return file.flush();
        }
    })
}
