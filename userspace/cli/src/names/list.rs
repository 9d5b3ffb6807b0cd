// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images that are lists: a symbolic link for each item. A name for one is a list that is signed, never goes back, and gets about as all
//! names do.

use std::os::unix::fs::symlink;

use peerfs_build::{DirectorySource, Owner};
use peerfs_format::Digest;
use peerfs_store::Tag;

use crate::arguments::{MakeArguments, Profile, StoreArguments};
use crate::build::{Maker, Origin};
use crate::error::{Error, Result};

/// Makes the image of these links, by their names and targets. The same list is the same image, whoever makes it and when.
pub(super) fn make_list(
    maker: &Maker<'_>,
    links: impl Iterator<Item = (String, String)>,
    tag: &Tag,
) -> Result<Digest> {
    let folder = tempfile::tempdir().map_err(|source| Error::Write {
        path: std::env::temp_dir(),
        source,
    })?;
    for (name, target) in links {
        let link = folder.path().join(name);
        symlink(target, &link).map_err(|source| Error::Write { path: link, source })?;
    }
    let source = DirectorySource::new(folder.path(), &maker.store)
        .owner(Some(Owner { uid: 0, gid: 0 }))
        .latest(Some(0));
    let made = maker.make_as(source, &Origin::default(), tag, |_| ())?;
    Ok(made.image.manifest)
}

/// How images are made beside lists.
pub(super) fn make_arguments(store: &StoreArguments, tag: Tag) -> MakeArguments {
    MakeArguments {
        store: StoreArguments {
            root_dir: store.root_dir.clone(),
        },
        tag,
        base: Vec::new(),
        profile: Profile::Default,
        compression: None,
        architecture: None,
        encrypt: None,
        whole: false,
        threads: None,
        json: false,
    }
}
