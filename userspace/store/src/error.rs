// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can go wrong with a store.

use std::io;
use std::path::{Path, PathBuf};

use peerfs_format::{Digest, KeyId, METADATA_MAX};
use peerfs_text::{printable, printable_bytes};

/// The result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("can't {action} {}{}", printable(path), hint(source))]
    Io {
        /// The action that failed, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is no store where one should be.
    #[error("{} is not a peerfs store", printable(.0))]
    NotAStore(PathBuf),
    /// The directory to make a store in holds something else.
    #[error("{} is not empty and not a peerfs store", printable(.0))]
    NotEmpty(PathBuf),
    /// Another process fills packs of this store.
    #[error(
        "another process (peerfsd?) already fills the store {}; stop it or use another store",
        printable(.0)
    )]
    InUse(PathBuf),
    /// Another process has locked a file of the store and does not give it up.
    #[error("another process has locked {} and does not give it up; end it (`fuser` finds it)", printable(.0))]
    Locked(PathBuf),
    /// Something in the store is not what can be read or written there.
    #[error(
        "{} is no regular file or directory, or is reached by a symbolic link, which is not followed \
         in a store; remove it",
        printable(.0)
    )]
    NotARegularFile(PathBuf),
    /// A pack that is what its digest says is not what the image's index says of it.
    #[error("pack {pack} is whole, and its index {index} says something else of it: the image was built wrong")]
    WrongIndex {
        /// The pack.
        pack: Digest,
        /// The index.
        index: Digest,
    },
    /// A file of the layout is not what OCI says it should be.
    #[error("{} is not valid: {}", printable(path), printable(reason))]
    Layout {
        /// The file.
        path: PathBuf,
        /// The problem with it.
        reason: String,
    },
    /// Neither a tag of the store nor a digest.
    #[error("no image is called {name:?} here; {}", list(known, *more))]
    UnknownImage {
        /// The name that was asked for.
        name: String,
        /// Tags that there are, some of them if they are many.
        known: Vec<String>,
        /// The number of those that are not listed.
        more: usize,
    },
    /// An image that should be removed by its digest has tags.
    #[error("{manifest} is called {}: remove it by that", tags.join(", "))]
    StillTagged {
        /// Its manifest.
        manifest: Digest,
        /// What it is called.
        tags: Vec<String>,
    },
    /// An image of a registry that is not here.
    #[error("{0} is not in the store")]
    NotPulled(String),
    /// A publisher's name for an image.
    #[error("{0} is a publisher's name, and a store does not know what these stand for")]
    OfPublisher(String),
    /// A tag of the store is that of something else.
    #[error("{0:?} is in the store, but is no peerfs image")]
    NotAnImage(String),
    /// The OCI image manifest that a tag stands for is missing.
    #[error(
        "{tag:?} leads nowhere, since the OCI image manifest {blob} is missing; name the image by the digest of \
         its manifest, or build it again"
    )]
    TagLeadsNowhere {
        /// The tag.
        tag: String,
        /// The blob that is missing.
        blob: Digest,
    },
    /// There is no `index.json`, or nothing in it.
    #[error("{} is missing or empty, and with it the images' names", printable(.0))]
    NoIndex(PathBuf),
    /// A file that is to be written would be refused by those who read it.
    #[error("{what} would have {length} bytes, more than the {METADATA_MAX} that are read: there are too many {of}")]
    TooLarge {
        /// The file.
        what: &'static str,
        /// The things in it that are too many.
        of: &'static str,
        /// Its bytes.
        length: u64,
    },
    /// An encrypted image, or a base of one, is to be read without its key.
    #[error("the image {image} is encrypted, and needs the realm key {key}")]
    KeyNeeded {
        /// Its manifest.
        image: Digest,
        /// What the key is called.
        key: KeyId,
    },
    /// A blob is not in the store.
    #[error("blob {0} is not in the store")]
    BlobMissing(Digest),
    /// A blob's bytes are not those of its name.
    #[error("blob {0} is damaged: its content does not have this digest")]
    BlobDamaged(Digest),
    /// Bytes that should have had this digest do not.
    #[error("the content for {expected} has the digest {actual}")]
    Mismatch {
        /// The digest that was expected.
        expected: Digest,
        /// That of the bytes.
        actual: Digest,
    },
    /// A blob is larger than its kind may be.
    #[error("blob {digest} has {length} bytes, more than the {limit} that are allowed")]
    BlobTooLarge {
        /// The blob.
        digest: Digest,
        /// Its bytes.
        length: u64,
        /// The most bytes allowed.
        limit: u64,
    },
    /// A blob has fewer bytes than the image says.
    #[error("blob {digest} has {length} bytes, fewer than the {expected} that the image says")]
    BlobTooShort {
        /// The blob.
        digest: Digest,
        /// Its bytes.
        length: u64,
        /// The length that the image says.
        expected: u64,
    },
    /// A chunk is not in the store.
    #[error("chunk {chunk} of pack {pack} is not in the store")]
    ChunkMissing {
        /// The pack.
        pack: Digest,
        /// The chunk's number in it.
        chunk: u32,
    },
    /// A chunk's bytes are not those that the pack's index promises.
    #[error("chunk {chunk} of pack {pack} is damaged")]
    ChunkDamaged {
        /// The pack.
        pack: Digest,
        /// The chunk's number in it.
        chunk: u32,
    },
    /// A blob has the right digest but can't be understood.
    #[error("blob {digest} can't be read")]
    Format {
        /// The blob.
        digest: Digest,
        /// The cause.
        source: peerfs_format::Error,
    },
    /// No such file in the image.
    #[error("{}: no such file in the image", printable_bytes(.0))]
    NoSuchFile(Vec<u8>),
    /// A path goes through, or a directory operation is on, something that is no directory.
    #[error("{}: not a directory", printable_bytes(.0))]
    NotADirectory(Vec<u8>),
    /// A path has too many symbolic links.
    #[error("{}: too many levels of symbolic links", printable_bytes(.0))]
    TooManyLinks(Vec<u8>),
    /// A file operation on something that is no regular file.
    #[error("{}: not a regular file", printable_bytes(.0))]
    NotAFile(Vec<u8>),
}

impl Error {
    /// For `map_err`: what was tried with which file.
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err`: which file of OCI's could not be read or written.
    pub(crate) fn oci(path: PathBuf) -> impl FnOnce(peerfs_oci::Error) -> Error {
        move |error| match error {
            peerfs_oci::Error::TooLarge { what, of, length } => {
                Error::TooLarge { what, of, length }
            }
            error => Error::Layout {
                path,
                reason: error.to_string(),
            },
        }
    }

    /// For `map_err`: which blob could not be understood.
    pub fn format(digest: Digest) -> impl FnOnce(peerfs_format::Error) -> Error {
        move |source| Error::Format { digest, source }
    }

    /// Whether what is wrong is that the store can only be read.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Error::Io { source, .. }
            if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }

    /// Whether what is wrong is that the disk is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Error::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (make room and try again)",
        _ => "",
    }
}

fn list(tags: &[String], more: usize) -> String {
    // Quoted, so that one sees where they begin and end.
    let mut names: Vec<String> = tags.iter().map(|tag| format!("{tag:?}")).collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    if names.is_empty() {
        "the store has no tagged images".to_owned()
    } else {
        format!("there are: {}", names.join(", "))
    }
}
