// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What each image takes of a store's room, and what it shares with others.

use std::collections::{HashMap, HashSet};

use peerfs_format::{DataFile, Digest};

use super::marks::Marks;
use super::sweep::BLOCK;
use crate::oci_form::OciForms;
use crate::{index_file, layout, Error, Result, Store, TaggedImage};

/// The room that the images of a store take.
#[derive(Debug)]
pub struct Shares {
    /// Those of them whose metadata can be read, in the order of the index.
    pub images: Vec<ImageShare>,
    /// The other ones, and why.
    pub unreadable: Vec<(TaggedImage, Error)>,
    /// Bytes on the disk that any image needs.
    pub needed_bytes: u64,
}

/// The room that an image takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImageShare {
    /// The image.
    pub image: TaggedImage,
    /// Bytes that its files hold, without holes.
    pub content_bytes: u64,
    /// Bytes on the disk that it needs, as far as it is here.
    pub bytes: u64,
    /// Those of them that no other image of the store needs: what is free when it is removed, and `collect` has come, unless
    /// something else keeps it, such as a mount.
    pub unique_bytes: u64,
}

impl Store {
    /// The room that the images take which `index.json` names: blocks of the files in which what they need is. Reads their
    /// metadata and tables of places, and holds of each image the ranges that it needs of the store's files, neighbours as
    /// one; no pack is read, and nothing is locked.
    ///
    /// # Errors
    /// Those of [`Store::images`].
    pub fn shares(&self) -> Result<Shares> {
        let mut files = NeededFiles::default();
        let mut shares = Shares {
            images: Vec::new(),
            unreadable: Vec::new(),
            needed_bytes: 0,
        };
        let forms = self.oci_blobs()?;
        for image in self.images()? {
            let number = shares.images.len();
            let named = forms.get(&image.manifest).map_or(&[][..], Vec::as_slice);
            let marked = Marks::of_image(self, &image.manifest, named)
                .and_then(|marks| Ok((marks, self.read_manifest(&image.manifest)?)));
            match marked {
                Ok((marks, manifest)) => {
                    files.add(self, &marks, number);
                    shares.images.push(ImageShare {
                        image,
                        content_bytes: manifest.content_bytes,
                        bytes: 0,
                        unique_bytes: 0,
                    });
                }
                Err(error) => shares.unreadable.push((image, error)),
            }
        }
        for ranges in files.0.into_values() {
            shares.count(ranges);
        }
        Ok(shares)
    }

    /// What `index.json` names of images, by their manifests.
    fn oci_blobs(&self) -> Result<HashMap<Digest, Vec<Digest>>> {
        let index = index_file::read(self.directory())?;
        let mut forms = OciForms::new(self);
        let mut named: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for target in index.targets() {
            if let (Ok(Some(found)), Some(digest)) =
                (forms.find(target.kind, target.digest), target.digest)
            {
                named.entry(found.manifest).or_default().push(digest);
            }
        }
        Ok(named)
    }
}

/// A range of a file that an image needs: where it begins, where it ends, and the image's place.
type Needed = (u64, u64, usize);

/// By the paths of the store's files, what is needed of each.
#[derive(Default)]
struct NeededFiles(HashMap<String, Vec<Needed>>);

impl NeededFiles {
    fn add(&mut self, store: &Store, marks: &Marks, image: usize) {
        let mut ranges: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
        for blob in &marks.blobs {
            ranges
                .entry(layout::blob(blob))
                .or_default()
                .push((0, u64::MAX));
        }
        for (pack, index) in &marks.packs {
            ranges
                .entry(layout::places(pack, index))
                .or_default()
                .push((0, u64::MAX));
        }
        for (file, needed) in &marks.ranges {
            let path = match file {
                DataFile::Loose(number) => layout::loose(*number),
                DataFile::Pack(pack, index) => {
                    let partial = layout::partial(pack, index);
                    match store.directory().has_file(&partial) {
                        true => partial,
                        false => layout::blob(pack),
                    }
                }
            };
            ranges.entry(path).or_default().extend(needed);
        }
        for (path, needed) in ranges {
            let found = store.directory().metadata(&path).ok().flatten();
            if let Some(found) = found.filter(|found| found.is_file()) {
                let merged = blocks(needed, found.len()).into_iter();
                let merged = merged.map(|(start, end)| (start, end, image));
                self.0.entry(path).or_default().extend(merged);
            }
        }
    }
}

impl Shares {
    /// Counts what is needed of a file.
    fn count(&mut self, ranges: Vec<Needed>) {
        let mut borders: Vec<(u64, bool, usize)> = Vec::with_capacity(ranges.len() * 2);
        for (start, end, image) in ranges {
            borders.push((start, true, image));
            borders.push((end, false, image));
        }
        borders.sort_unstable();
        let mut active: HashSet<usize> = HashSet::new();
        let mut at = 0;
        for (place, begins, image) in borders {
            let bytes = place - at;
            if bytes > 0 && !active.is_empty() {
                self.needed_bytes += bytes;
                let is_alone = active.len() == 1;
                for image in &active {
                    if let Some(share) = self.images.get_mut(*image) {
                        share.bytes += bytes;
                        share.unique_bytes += if is_alone { bytes } else { 0 };
                    }
                }
            }
            at = place;
            match begins {
                true => active.insert(image),
                false => active.remove(&image),
            };
        }
    }
}

/// The blocks of a file of so many bytes that these ranges are in; in order, neighbours as one.
fn blocks(mut ranges: Vec<(u64, u64)>, length: u64) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges.into_iter().filter(|(start, _)| *start < length) {
        let start = start / BLOCK * BLOCK;
        let end = end.min(length).next_multiple_of(BLOCK);
        match merged.last_mut() {
            Some((_, last)) if start <= *last => *last = end.max(*last),
            _ if start < end => merged.push((start, end)),
            _ => (),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_of_whole_blocks_once() {
        let ranges = vec![(5000, 6000), (0, 10), (8192, 9000), (100_000, u64::MAX)];
        assert_eq!(blocks(ranges, 50_000), [(0, 12_288)]);
        assert_eq!(blocks(vec![(0, u64::MAX)], 1), [(0, 4096)]);
        assert_eq!(blocks(vec![(0, u64::MAX)], 0), []);
    }

    #[test]
    fn what_one_needs_alone_is_its_own() {
        let share = || ImageShare {
            image: TaggedImage {
                manifest: Digest::default(),
                oci_index: None,
                tags: Vec::new(),
                is_own: false,
            },
            content_bytes: 0,
            bytes: 0,
            unique_bytes: 0,
        };
        let mut shares = Shares {
            images: vec![share(), share(), share()],
            unreadable: Vec::new(),
            needed_bytes: 0,
        };
        shares.count(vec![(0, 10, 0), (5, 20, 1), (18, 30, 2), (40, 50, 1)]);
        let counted = shares
            .images
            .iter()
            .map(|image| (image.bytes, image.unique_bytes));
        assert_eq!(counted.collect::<Vec<_>>(), [(10, 5), (25, 18), (12, 10)]);
        assert_eq!(shares.needed_bytes, 40);
    }
}
