// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of containers in a directory or an archive: from their names to their layers.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerfs_build::{
    ArchiveTree, Blob, Error as BuildError, Layer, Promise, PuzzleFsSource, Result as BuildResult,
};
use peerfs_format::Digest;
use peerfs_oci::{
    check_layout, BlobInfo, ContainerConfig, ContainerManifest, DockerImage, Document, Platform,
};
use peerfs_store::sha256;

use super::source::Format;
use crate::error::{Error, Result};

/// The most bytes of an index, a manifest or a configuration. Registries take manifests of 4 MiB.
const DOCUMENT_MAX: u64 = 16 * 1024 * 1024;
/// The most indexes that lead to one another.
const DEPTH_MAX: usize = 4;

/// The layers of an image and its configuration.
pub(super) struct Container {
    pub(super) layers: Vec<Layer>,
    pub(super) config: ContainerConfig,
}

/// What an image layout has under a name.
pub(super) enum LayoutImage {
    Container(Box<Container>),
    PuzzleFs(PuzzleFsSource),
}

/// What the files of an image layout lie in.
pub(super) enum Folder {
    Directory(PathBuf),
    Archive(Box<ArchiveTree>),
}

/// What an archive is, by the files in it.
pub(super) fn format_of(tree: &ArchiveTree) -> Format {
    let has = |name| tree.file(name).is_some();
    if has("oci-layout") && has("index.json") {
        return Format::Oci;
    }
    let images = tree.file("manifest.json");
    let text = images.and_then(|file| file.read(DOCUMENT_MAX).ok()?);
    let is_docker = text.is_some_and(|text| {
        // What it has of images does not matter yet.
        !matches!(
            DockerImage::select(&text, None),
            Err(peerfs_oci::Error::Json(_))
        )
    });
    match is_docker {
        true => Format::DockerArchive,
        false => Format::Tar,
    }
}

/// The image of a layout that is called `name` and for this platform.
pub(super) fn oci(
    folder: &Arc<Folder>,
    path: &Path,
    name: Option<&str>,
    platform: Option<&Platform>,
) -> Result<LayoutImage> {
    let refused = refused_at(path);
    check_layout(&folder.document("oci-layout")?).map_err(refused)?;
    let index = folder.document("index.json")?;
    let Document::Index(index) = Document::parse(&index).map_err(refused)? else {
        return Err(refused(peerfs_oci::Error::NotAContainer(
            "its index.json is no index",
        )));
    };
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    let mut blob = index.called(name, &wanted).map_err(refused)?.clone();
    for _ in 0..DEPTH_MAX {
        if blob.is_puzzlefs_metadata() {
            return Err(refused(peerfs_oci::Error::Unsupported(
                "it is an image of PuzzleFS 0.1",
            )));
        }
        let text = folder.blob_document(&blob)?;
        let document = Document::parse(&text).map_err(refused)?;
        if let Some(metadata) = document.puzzlefs_metadata() {
            return puzzlefs(folder, path, metadata).map(LayoutImage::PuzzleFs);
        }
        match document {
            // An image whose platform nobody said is taken as it is, unless one was asked for.
            Document::Index(index) => blob = index.for_platform(&wanted).map_err(refused)?.clone(),
            Document::Manifest { .. } => {
                let manifest = ContainerManifest::parse(&text).map_err(refused)?;
                let container = of_manifest(folder, path, &manifest, platform)?;
                return Ok(LayoutImage::Container(Box::new(container)));
            }
        }
    }
    Err(refused(peerfs_oci::Error::Unsupported(
        "an index leads to an index, and so on",
    )))
}

/// What is said of something that OCI's crate refuses.
pub(super) fn refused_at(path: &Path) -> impl Fn(peerfs_oci::Error) -> Error + Copy + '_ {
    move |source| Error::Container {
        path: path.to_owned(),
        source,
    }
}

/// The image of PuzzleFS with this metadata.
fn puzzlefs(folder: &Arc<Folder>, path: &Path, metadata: &BlobInfo) -> Result<PuzzleFsSource> {
    let name = blob_name(&metadata.digest);
    let bytes = folder.read(&name, PuzzleFsSource::METADATA_MAX)?;
    verify(&folder.path(&name), "", &bytes, &metadata.digest)?;
    let folder = folder.clone();
    let read = move |digest: &Digest, limit| folder.read(&blob_name(digest), limit);
    Ok(PuzzleFsSource::new(path, bytes, Box::new(read)))
}

fn of_manifest(
    folder: &Folder,
    path: &Path,
    manifest: &ContainerManifest,
    platform: Option<&Platform>,
) -> Result<Container> {
    let text = folder.blob_document(&manifest.config)?;
    let config = parse_config(path, &text, platform, manifest.layers.len())?;
    let layers = manifest.layers.iter().zip(&config.diff_ids);
    let layers = layers.map(|(layer, diff_id)| {
        let name = blob_name(&layer.digest);
        Ok(Layer {
            path: path.join(&name),
            blob: folder.blob(&name)?,
            promise: Promise {
                digest: Some(layer.digest),
                size: Some(layer.length),
                diff_id: Some(*diff_id),
            },
        })
    });
    Ok(Container {
        layers: layers.collect::<Result<_>>()?,
        config,
    })
}

/// The image of an archive of `docker save` that is called `name`.
pub(super) fn docker(
    folder: &Folder,
    path: &Path,
    name: Option<&str>,
    platform: Option<&Platform>,
) -> Result<Container> {
    let refused = refused_at(path);
    let images = folder.document("manifest.json")?;
    let image = DockerImage::select(&images, name).map_err(refused)?;
    let text = folder.document(&image.config)?;
    // Its name is its digest.
    let named = Path::new(&image.config)
        .file_stem()
        .and_then(|name| name.to_str());
    if let Some(expected) = named.and_then(|name| name.parse::<Digest>().ok()) {
        verify(path, &image.config, &text, &expected)?;
    }
    let config = parse_config(path, &text, platform, image.layers.len())?;
    let layers = image.layers.iter().zip(&config.diff_ids);
    let layers = layers.map(|(name, diff_id)| {
        Ok(Layer {
            path: path.join(name),
            blob: folder.blob(name)?,
            promise: Promise {
                diff_id: Some(*diff_id),
                ..Promise::default()
            },
        })
    });
    Ok(Container {
        layers: layers.collect::<Result<_>>()?,
        config,
    })
}

pub(super) fn parse_config(
    path: &Path,
    text: &[u8],
    platform: Option<&Platform>,
    layers: usize,
) -> Result<ContainerConfig> {
    let refused = refused_at(path);
    let config = ContainerConfig::parse(text).map_err(refused)?;
    if config.diff_ids.len() != layers {
        return Err(Error::Import {
            path: path.to_owned(),
            problem: "its configuration is for another number of layers",
        });
    }
    if let Some(platform) = platform {
        platform.check(&config.platform).map_err(refused)?;
    }
    Ok(config)
}

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        match self {
            Folder::Directory(path) => path.join(name),
            Folder::Archive(_) => PathBuf::from(name),
        }
    }

    /// A blob of the layout. What an archive calls its layers is trusted with no path of this machine.
    fn blob(&self, name: &str) -> Result<Blob> {
        match self {
            Folder::Directory(directory) => Ok(Blob::File(open(&directory.join(name))?)),
            Folder::Archive(tree) => match tree.file(name) {
                Some(file) => Ok(Blob::Entry(file.clone())),
                None => Err(self.missing(name).into()),
            },
        }
    }

    /// A short file.
    fn document(&self, name: &str) -> Result<Vec<u8>> {
        Ok(self.read(name, DOCUMENT_MAX)?)
    }

    /// A file of at most so many bytes.
    fn read(&self, name: &str, limit: u64) -> BuildResult<Vec<u8>> {
        let text = match self {
            Folder::Directory(directory) => {
                let path = directory.join(name);
                let file = open(&path)?;
                let mut text = Vec::new();
                let read = file.take(limit + 1).read_to_end(&mut text);
                read.map_err(|source| BuildError::Io {
                    action: "read",
                    path,
                    source,
                })?;
                Some(text).filter(|text| text.len() as u64 <= limit)
            }
            Folder::Archive(tree) => match tree.file(name) {
                Some(file) => file.read(limit)?,
                None => return Err(self.missing(name)),
            },
        };
        text.ok_or_else(|| BuildError::Refused {
            path: self.path(name),
            reason: "it is longer than such a file may be",
        })
    }

    /// A short blob, verified.
    fn blob_document(&self, blob: &BlobInfo) -> Result<Vec<u8>> {
        let name = blob_name(&blob.digest);
        let text = self.document(&name)?;
        verify(&self.path(&name), "", &text, &blob.digest)?;
        Ok(text)
    }

    fn missing(&self, name: &str) -> BuildError {
        BuildError::Refused {
            path: self.path(name),
            reason: "there is no such file in the archive",
        }
    }
}

fn verify(path: &Path, name: &str, text: &[u8], expected: &Digest) -> Result<()> {
    let actual = sha256(text);
    if actual == *expected {
        return Ok(());
    }
    let path = match name {
        "" => path.to_owned(),
        name => path.join(name),
    };
    Err(Error::Build(peerfs_build::Error::Mismatch {
        path,
        what: "has the digest",
        expected: format!("sha256:{expected}"),
        actual: format!("sha256:{actual}"),
    }))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// Opens a regular file, and waits for nothing that somebody else put in its place.
fn open(path: &Path) -> BuildResult<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let open = || {
        let file = File::options()
            .read(true)
            .custom_flags(nonblocking)
            .open(path)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file",
            )),
        }
    };
    open().map_err(|source| BuildError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
