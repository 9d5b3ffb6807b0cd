// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Giving up what no image needs. See `Documentation/store.md`.

mod evict;
mod marks;
mod recency;
mod shares;
mod sweep;

use peerfs_format::Digest;

use crate::{Result, Store};
pub use evict::Evicted;
pub use recency::Recency;
pub use shares::{ImageShare, Shares};
use sweep::Sweep;

/// What a collection has given up, or would.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Collected {
    /// Blobs that were removed.
    pub blobs: u64,
    /// Tables of places that were removed.
    pub tables: u64,
    /// Packs and loose files of which a part was given up.
    pub thinned: u64,
    /// Bytes on the disk that are free now.
    pub bytes: u64,
}

/// Whether a collection changes something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Collect {
    /// It says what it would give up.
    DryRun,
    /// It gives that up.
    Really,
}

/// What is kept though no index names it.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Images, by their manifests.
    pub images: Vec<Digest>,
    /// Blobs that are traces of images. What of them is none is kept for nothing: those who publish names say what is in here.
    pub traces: Vec<Digest>,
}

impl Keep {
    /// Images alone.
    pub fn images(images: impl IntoIterator<Item = Digest>) -> Self {
        Keep {
            images: images.into_iter().collect(),
            traces: Vec::new(),
        }
    }
}

impl Store {
    /// Gives up everything that no image needs. An image is needed that `index.json` names, by a tag or without one, that
    /// is mounted, as far as this process sees, and what is in `keep`, as far as it is here. May be killed at any time: nothing that is
    /// needed is touched. Builds wait for it, and it for them, unless the store can only be read.
    ///
    /// # Errors
    /// [`Error::InUse`](crate::Error::InUse) if another process fills packs of this store, and
    /// [`Error::Locked`](crate::Error::Locked) if one builds an image; [`Error::BlobDamaged`](crate::Error::BlobDamaged)
    /// and [`Error::Format`](crate::Error::Format) for an image of which nobody can tell what it needs: nothing is given up
    /// then; [`Error::Io`](crate::Error::Io).
    pub fn collect(&self, keep: &Keep, collect: Collect) -> Result<Collected> {
        let locked = self
            .lock_for_filling()
            .and_then(|()| self.lock_out_builds().map(Some));
        let _builds = match locked {
            // Nobody here changes it, and nothing is given up.
            Err(error) if error.is_read_only() && collect == Collect::DryRun => None,
            locked => locked?,
        };
        if collect == Collect::Really {
            self.remove_abandoned()?;
        }
        // Reading takes long, and those who fill packs do not wait for it: what they enter meanwhile is needed.
        let _noting = self.shared().data_files.note_entries();
        Sweep::begin(self, keep, collect)?.run()
    }

    /// The images that are kept though no index may name them.
    fn kept(&self, keep: &Keep) -> Result<Vec<Digest>> {
        Ok(keep.images.iter().copied().chain(self.mounted()?).collect())
    }
}
