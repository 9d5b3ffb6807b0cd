// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The options of a build.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;

use peerfs_format::encryption::Kind;
use peerfs_format::{Codec, Digest, CHUNK_MAX, FEATURE_ENCRYPTION, FEATURE_LZ4};
use peerfs_realm::RealmKey;
use peerfs_store::sha256;

use crate::{Error, PackSizes, Result, SeenFiles};

/// The options of a build.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that read, and as many that compress. What is built does not depend on it.
    pub threads: NonZeroUsize,
    /// The compression of chunks.
    pub compression: Compression,
    /// The division of the image.
    pub layout: Layout,
    /// Images of the store whose packs the new image may use, by their manifests: only what is not
    /// in them is stored anew. What is built depends on it, and on what of them is there and whole.
    pub base: Vec<Digest>,
    /// The files of an earlier build: those that are as they were are not read, and keep their extents. The image that it
    /// built must be in the store, and comes before [`Options::base`]. Not used if what decides about an image was another
    /// then.
    pub update: Option<Arc<SeenFiles>>,
    /// Whether the source's files are noted, for the next build: with a text that says what decides about them beside the
    /// options here.
    pub remember: Option<String>,
    /// The key of the realm that the image is encrypted for.
    pub realm: Option<RealmKey>,
    /// Whether all packs become blobs of the store, also those of which it has chunks.
    pub whole: bool,
    /// Asked again and again.
    pub give_up: GiveUp,
}

/// Whether to give up. Clones are the same question.
#[derive(Clone)]
pub struct GiveUp(Arc<dyn Fn() -> bool + Send + Sync>);

impl GiveUp {
    /// As soon as this is true, which any thread may ask.
    pub fn when(is_over: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        GiveUp(Arc::new(is_over))
    }

    /// Whether it is so.
    pub fn is_due(&self) -> bool {
        (self.0)()
    }
}

impl Default for GiveUp {
    /// Never.
    fn default() -> Self {
        GiveUp::when(|| false)
    }
}

impl fmt::Debug for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GiveUp")
    }
}

impl Options {
    /// The most threads that make sense.
    pub const THREADS_MAX: usize = 1024;

    /// Those for images that are small rather than fast to read: see [`Layout::small`].
    pub fn small() -> Self {
        Options {
            compression: Compression::Zstd(Compression::SMALL_LEVEL),
            layout: Layout::small(),
            ..Options::default()
        }
    }

    /// What decides about what is made of a file.
    pub(crate) fn settings(&self) -> Digest {
        let (compression, layout) = (self.compression.identity(), &self.layout);
        let source = self.remember.as_deref().unwrap_or_default();
        let realm = self.realm.as_ref().map(RealmKey::id);
        sha256(format!("{compression}\n{layout:?}\n{source}\n{realm:?}").as_bytes())
    }

    /// The features that a reader needs for what is made.
    pub(crate) fn features(&self) -> u64 {
        let encryption = match self.realm {
            Some(_) => FEATURE_ENCRYPTION,
            None => 0,
        };
        self.compression.features() | encryption
    }

    /// Bytes of a shard or a root record as they are stored.
    pub(crate) fn encrypt(&self, kind: Kind, bytes: Vec<u8>) -> Vec<u8> {
        match &self.realm {
            Some(realm) => realm.encrypt(kind, &bytes),
            None => bytes,
        }
    }

    /// The files of an earlier build, if it was made in the same way.
    pub(crate) fn usable_update(&self) -> Option<&Arc<SeenFiles>> {
        let settings = self.settings();
        self.update
            .as_ref()
            .filter(|seen| seen.settings == settings)
    }

    /// Fails if the build is to be given up.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.give_up.is_due() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// The digest of a chunk's content, as pack contents have it: of a realm's one that says nothing to others.
pub(crate) fn content_digest(realm: Option<&RealmKey>, content: &[u8]) -> Digest {
    let digest = sha256(content);
    realm.map_or(digest, |realm| realm.hide(&digest))
}

impl Default for Options {
    fn default() -> Self {
        Options {
            threads: thread::available_parallelism().map_or(NonZeroUsize::MIN, |processors| {
                const MOST: NonZeroUsize = NonZeroUsize::new(Options::THREADS_MAX).unwrap();
                processors.min(MOST)
            }),
            compression: Compression::default(),
            layout: Layout::default(),
            base: Vec::new(),
            update: None,
            remember: None,
            realm: None,
            whole: false,
            give_up: GiveUp::default(),
        }
    }
}

/// The compression of chunks; those that do not become smaller are stored as they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// Not at all.
    None,
    /// With zstd at this level, 1 to 22. Up to level 9 literals are stored as they are.
    Zstd(i32),
    /// With LZ4 at this level, 1 to 12: from 3 on it looks for better matches (LZ4 HC), which takes longer to make and not
    /// to read.
    Lz4(i32),
}

impl Compression {
    /// The level that is a good trade for most trees.
    pub(crate) const DEFAULT_LEVEL: i32 = 3;

    /// The last level whose images are made to be read fast. Literals, the bytes that no match covers,
    /// are not entropy-coded: that would save up to a tenth of the size, and take a third more time to
    /// decode (Documentation/format-choices.md).
    pub(crate) const FAST_LEVEL_MAX: i32 = 9;

    /// The level for images that are to be small: what is above it needs more memory than a chunk has use for.
    pub(crate) const SMALL_LEVEL: i32 = 19;

    /// The level of LZ4 that is meant if none is named: that of `mkfs.erofs -zlz4hc`.
    const LZ4_LEVEL: i32 = 9;

    /// How chunks are stored that become smaller by it.
    pub(crate) fn codec(self) -> Codec {
        match self {
            Compression::None => Codec::Raw,
            Compression::Zstd(_) => Codec::Zstd,
            Compression::Lz4(_) => Codec::Lz4,
        }
    }

    /// The features that a reader needs for such chunks.
    pub(crate) fn features(self) -> u64 {
        match self {
            Compression::None | Compression::Zstd(_) => 0,
            Compression::Lz4(_) => FEATURE_LZ4,
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Compression::Zstd(Self::DEFAULT_LEVEL)
    }
}

impl FromStr for Compression {
    type Err = String;

    /// Reads `none`, `zstd`, `zstd:LEVEL`, `lz4` or `lz4:LEVEL`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Compression::None),
            None if text == "zstd" => Ok(Compression::default()),
            None if text == "lz4" => Ok(Compression::Lz4(Self::LZ4_LEVEL)),
            Some(("zstd", level)) => match level.parse() {
                Ok(level @ 1..=22) => Ok(Compression::Zstd(level)),
                _ => Err(format!("zstd has levels from 1 to 22, not {level:?}")),
            },
            Some(("lz4", level)) => match level.parse() {
                Ok(level @ 1..=12) => Ok(Compression::Lz4(level)),
                _ => Err(format!("LZ4 has levels from 1 to 12, not {level:?}")),
            },
            _ => Err("one of none, zstd, zstd:LEVEL, lz4 and lz4:LEVEL is expected".to_owned()),
        }
    }
}

/// The division of an image. Readers can do with any layout, but images share chunks only if they have
/// the same one. The default is what came out best when it was measured
/// (Documentation/format-choices.md).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    /// The chunks' sizes.
    pub chunks: ChunkSizes,
    /// Files of at least so many bytes are chunked by themselves; shorter ones share chunks.
    pub large_file: u64,
    /// The packs' sizes.
    pub pack: PackSizes,
    /// The length at which an inode shard is closed: bytes.
    pub shard: usize,
}

/// The sizes of chunks in bytes, before compression: ascending, and at most [`CHUNK_MAX`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkSizes {
    /// The shortest, except for the last of a stream.
    pub min: u32,
    /// The length that the chunker aims at.
    pub average: u32,
    /// The longest.
    pub max: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Layout {
            chunks: ChunkSizes {
                min: 32 * 1024,
                average: 64 * 1024,
                max: 128 * 1024,
            },
            large_file: 64 * 1024,
            pack: PackSizes {
                min: 8 * 1024 * 1024,
                more: 8 * 1024 * 1024,
                max: 32 * 1024 * 1024,
            },
            shard: 256 * 1024,
        }
    }
}

impl Layout {
    /// The one of images that are small rather than fast to read: the longest chunks that readers take, nearly. Whatever is
    /// read of one takes decoding all of it.
    pub fn small() -> Self {
        Layout {
            chunks: ChunkSizes {
                min: 96 * 1024,
                average: 192 * 1024,
                max: CHUNK_MAX,
            },
            large_file: 256 * 1024,
            ..Layout::default()
        }
    }
}

impl ChunkSizes {
    /// Whether readers take such chunks.
    pub(crate) fn are_valid(self) -> bool {
        0 < self.min
            && self.min <= self.average
            && self.average <= self.max
            && self.max <= CHUNK_MAX
    }
}
