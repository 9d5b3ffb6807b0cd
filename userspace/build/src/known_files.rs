// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Files that need not be read, since an earlier image has their content.

use std::path::Path;
use std::sync::Arc;

use peerfs_format::{Digest, FileType};
use peerfs_realm::RealmKey;
use peerfs_store::{Image, Store};

use crate::base::BaseChunks;
use crate::seen::{FileIdentity, SeenFiles};
use crate::xattrs::{XattrSet, XattrSetId, XattrSets};
use crate::Result;

/// The files of an earlier build of the tree.
pub(crate) struct KnownFiles {
    seen: Arc<SeenFiles>,
    image: Image,
    /// Where each pack of the image begins over all packs; None of those that are not whole.
    starts: Vec<Option<u64>>,
}

/// A file that need not be read.
pub(crate) struct KnownFile {
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    pub(crate) xattrs: Option<XattrSetId>,
    pub(crate) runs: Vec<KnownRun>,
}

/// Consecutive bytes of a known file.
pub(crate) struct KnownRun {
    /// Where it begins in the file.
    pub(crate) file_offset: u64,
    /// Where it begins over all packs.
    pub(crate) place: u64,
    pub(crate) length: u64,
}

impl KnownFiles {
    /// The files of the build that has seen these, whose image is one of the base.
    ///
    /// # Errors
    /// The image can't be read.
    pub(crate) fn open(
        store: &Arc<Store>,
        seen: &Arc<SeenFiles>,
        base: &BaseChunks,
        realm: Option<&RealmKey>,
    ) -> Result<Self> {
        let keys = realm.map(std::slice::from_ref).unwrap_or_default();
        let image = Image::open_with(store.clone(), &seen.manifest, keys)?;
        let packs = image.blob_table().packs;
        let starts = packs
            .iter()
            .map(|pack| base.start_of_whole(&pack))
            .collect();
        Ok(KnownFiles {
            seen: seen.clone(),
            image,
            starts,
        })
    }

    /// The file with this identity, if it is surely as it was, and all of it is there. What can't be read of the image is
    /// as good as not known.
    pub(crate) fn find(&self, identity: &FileIdentity, xattrs: &XattrSets) -> Option<KnownFile> {
        let number = self.seen.find(identity)?;
        let inode = self.image.inode(number.into()).ok()?;
        if inode.file_type() != FileType::Regular || inode.record().size != identity.size {
            return None;
        }
        let runs = inode.extents().ok()?.into_iter().map(|extent| {
            let start = (*self.starts.get(extent.pack as usize)?)?;
            Some(KnownRun {
                file_offset: extent.file_offset,
                place: start + u64::from(extent.pack_offset),
                length: extent.length.into(),
            })
        });
        let runs = runs.collect::<Option<Vec<_>>>()?;
        let mut set = XattrSet::default();
        for (name, value) in inode.xattrs().ok()? {
            // They were in an image: no error's text is needed.
            set.insert(&name, value, Path::new("")).ok()?;
        }
        Some(KnownFile {
            size: identity.size,
            digest: inode.content_digest().ok()?,
            xattrs: xattrs.add(set),
            runs,
        })
    }
}
