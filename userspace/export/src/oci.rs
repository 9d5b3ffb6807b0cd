// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image as an ordinary OCI image of one layer, in an image layout or an archive of one.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use peerfs_format::{Digest, METADATA_MAX};
use peerfs_oci::{check_layout, Architecture, Index, Layer, PlainImage, Tag, TargetKind, LAYOUT};
use peerfs_store::{is_store, sha256, ChunkReader, Image, Sha256Writer};
use rustix::fs::{flock, FlockOperation};
use tempfile::NamedTempFile;

use crate::compress::compress;
use crate::tar::{self, write_member, Purpose};
use crate::{Error, LayerCompression, Result};

/// The directory of a layout with its blobs.
const BLOBS: &str = "blobs/sha256";
/// What the names of files begin with that are being written.
const TEMPORARY: &str = ".peerfs-";
/// The file that says that a directory is a layout.
const MARK: &str = "oci-layout";
/// The file that says which images are in it.
const INDEX: &str = "index.json";

/// Where an OCI image is written to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OciPlace {
    /// An image layout: it is made, or gets a further image.
    Layout(PathBuf),
    /// A tar archive of one.
    Archive(PathBuf),
}

/// How an OCI image is made.
#[derive(Clone, Debug)]
pub struct OciOptions {
    /// How its layer is compressed.
    pub compression: LayerCompression,
    /// The OCI configuration of the image, from which it is taken how its programs are run.
    pub config: Option<Vec<u8>>,
    /// What its programs are for, if there is no configuration.
    pub architecture: Architecture,
    /// What it is called.
    pub tag: Option<Tag>,
    /// Threads that compress.
    pub threads: NonZeroUsize,
    /// Whether somebody wants it to end.
    pub is_cancelled: fn() -> bool,
}

/// Writes an image as an ordinary OCI image with its files in one layer, and returns the digest of the OCI image manifest: the
/// same for the same image and options. Sockets are left out, as for [`write_tar`](crate::write_tar).
///
/// # Errors
/// [`Error::NotALayout`]; [`Error::AStore`]; [`Error::Whiteout`]; [`Error::Io`] and [`Error::Output`] if it can't be
/// written; [`Error::Content`] and [`Error::Image`] if the image is not all here, or damaged; [`Error::Cancelled`]. The
/// layout has the images that it had then.
pub fn write_oci<R: ChunkReader>(
    image: &Image<R>,
    place: &OciPlace,
    options: &OciOptions,
    left_out: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Digest> {
    match place {
        OciPlace::Layout(path) => {
            let layout = Layout::open(path)?;
            let made = Made::new(image, temporary(path)?, options, left_out)?;
            layout.add(made, options.tag.as_ref())
        }
        OciPlace::Archive(path) => {
            let folder = match path.parent() {
                Some(folder) if folder != Path::new("") => folder,
                _ => Path::new("."),
            };
            let made = Made::new(image, temporary(folder)?, options, left_out)?;
            let archive = temporary(folder)?;
            let digest = made
                .write_archive(archive.as_file(), options.tag.as_ref())
                .map_err(Error::io("write", path))?;
            keep(archive, path)?;
            Ok(digest)
        }
    }
}

/// An OCI image, whose layer is in a file that nobody has named yet.
struct Made {
    layer: Layer,
    file: NamedTempFile,
    image: PlainImage,
}

impl Made {
    fn new<R: ChunkReader>(
        image: &Image<R>,
        file: NamedTempFile,
        options: &OciOptions,
        left_out: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Self> {
        let mut output = Hashed::new(file.as_file());
        let mut tar = Digest::default();
        compress(
            options.compression,
            options.threads,
            &mut output,
            |blocks| {
                let mut hashed = Hashed::new(blocks);
                tar::write(
                    image,
                    Purpose::Layer,
                    &mut hashed,
                    options.is_cancelled,
                    left_out,
                )?;
                tar = hashed.hash.finish();
                Ok(())
            },
        )?;
        let layer = Layer {
            format: options.compression.format(),
            digest: output.hash.finish(),
            length: output.length,
            tar,
        };
        let image = PlainImage::new(&layer, options.config.as_deref(), &options.architecture)?;
        Ok(Made { layer, file, image })
    }

    /// What names the image in `index.json`.
    fn enter(&self, index: &mut Index, tag: Option<&Tag>) -> Digest {
        let digest = sha256(&self.image.manifest);
        let length = self.image.manifest.len() as u64;
        match tag {
            Some(tag) => index.tag(TargetKind::OciManifest, &digest, length, tag),
            None => index.add(TargetKind::OciManifest, &digest, length),
        }
        digest
    }

    fn write_archive(mut self, archive: &File, tag: Option<&Tag>) -> io::Result<Digest> {
        let mut archive = io::BufWriter::new(archive);
        let mut index = Index::default();
        let digest = self.enter(&mut index, tag);
        let index = index.encode().map_err(io::Error::other)?;
        let config = sha256(&self.image.config);
        let blob = |digest: &Digest| format!("{BLOBS}/{digest}");
        let files = [
            (MARK.to_owned(), LAYOUT.as_bytes()),
            (INDEX.to_owned(), &index),
            (blob(&digest), &self.image.manifest),
            (blob(&config), &self.image.config),
        ];
        for (name, content) in files {
            write_member(
                &mut archive,
                name.as_bytes(),
                content.len() as u64,
                &mut &*content,
            )?;
        }
        let name = blob(&self.layer.digest);
        self.file.rewind()?;
        write_member(
            &mut archive,
            name.as_bytes(),
            self.layer.length,
            &mut self.file,
        )?;
        archive.write_all(&tar::END)?;
        archive.flush()?;
        Ok(digest)
    }
}

/// An image layout on the disk, or a directory that becomes one.
struct Layout {
    path: PathBuf,
}

impl Layout {
    /// Opens a layout, or an empty directory, which is made if it is not there.
    fn open(path: &Path) -> Result<Self> {
        let layout = Layout {
            path: path.to_owned(),
        };
        // Looked at first: whoever makes a layout of it begins with the mark.
        let is_used = fs::read_dir(path).is_ok_and(|entries| {
            let mut names = entries.flatten().map(|entry| entry.file_name());
            names.any(|name| !name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()))
        });
        match layout.read(MARK)? {
            Some(text) => {
                check_layout(&text).map_err(|_| layout.refused())?;
                layout.index()?;
            }
            None if is_used => return Err(layout.refused()),
            None => (),
        }
        // An image with that tag there would be lost.
        if is_store(path) {
            return Err(Error::AStore(path.to_owned()));
        }
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        Ok(layout)
    }

    fn refused(&self) -> Error {
        Error::NotALayout(self.path.clone())
    }

    fn index(&self) -> Result<Index> {
        match self.read(INDEX)? {
            Some(text) => Index::parse(&text).map_err(|_| self.refused()),
            None => Ok(Index::default()),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io("open", &path))?,
        };
        let mut text = Vec::new();
        let read = file.take(METADATA_MAX).read_to_end(&mut text);
        read.map_err(Error::io("read", &path))?;
        Ok(Some(text))
    }

    /// Adds an image, which has its name at last. Others that add one wait, and none is lost.
    fn add(&self, made: Made, tag: Option<&Tag>) -> Result<Digest> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let digest = made.enter(&mut index, tag);
        let index = index.encode()?;
        let blobs = self.path.join(BLOBS);
        fs::create_dir_all(&blobs).map_err(Error::io("create", blobs))?;
        let blob = |digest: &Digest| format!("{BLOBS}/{digest}");
        let Made { layer, file, image } = made;
        keep(file, &self.path.join(blob(&layer.digest)))?;
        self.write(&blob(&sha256(&image.config)), &image.config)?;
        self.write(&blob(&digest), &image.manifest)?;
        self.write(INDEX, &index)?;
        Ok(digest)
    }

    /// Makes the directory a layout, and locks it until the file is closed.
    fn lock(&self) -> Result<File> {
        let path = self.path.join(MARK);
        if !path.exists() {
            let mut file = temporary(&self.path)?;
            file.write_all(LAYOUT.as_bytes())
                .map_err(Error::io("write", &path))?;
            // Somebody else may have made it meanwhile.
            match file.persist_noclobber(&path) {
                Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", path)(error.error));
                }
                _ => (),
            }
        }
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(Error::io("lock", path))?;
        Ok(file)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let mut file = temporary(&self.path)?;
        file.write_all(content).map_err(Error::io("write", &path))?;
        keep(file, &path)
    }
}

/// A file in a directory that is removed unless it is kept.
fn temporary(directory: &Path) -> Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .map_err(Error::io("create a file in", directory))
}

/// Gives a temporary file its name.
fn keep(file: NamedTempFile, path: &Path) -> Result<()> {
    let kept = file.persist(path);
    kept.map(drop)
        .map_err(|error| Error::io("create", path)(error.error))
}

/// A writer that knows the digest and the number of the bytes that went through it.
struct Hashed<W> {
    writer: W,
    hash: Sha256Writer,
    length: u64,
}

impl<W> Hashed<W> {
    fn new(writer: W) -> Self {
        Hashed {
            writer,
            hash: Sha256Writer::default(),
            length: 0,
        }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.hash.update(bytes.get(..count).unwrap_or_default());
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
