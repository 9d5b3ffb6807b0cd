// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Checking one image: its manifest and blob table, and which blobs of it are there.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use peerfs_format::{Digest, PackRecord, ShardRecord, Table};
use peerfs_realm::RealmKey;
use peerfs_text::Causes;

use super::marks::Marks;
use super::packs::{check_chunks, PackProblem};
use super::tree::TreeCheck;
use super::{Blobs, Damage, VerifyProgress, VerifyReport};
use crate::{Error, Image, Store};

/// The packs that were checked, each with its index and its contents.
pub(super) type CheckedPacks = BTreeSet<(Digest, Digest, Digest)>;

/// The problem with a blob whose digest is right.
const BUILT_WRONG: &str = "its digest is right, so it was built wrong: build the image again";

/// The check of one image.
pub(super) struct ImageCheck<'a> {
    store: &'a Arc<Store>,
    keys: &'a [RealmKey],
    blobs: &'a Blobs,
    progress: &'a VerifyProgress,
    names: &'a BTreeSet<String>,
    users: &'a mut HashMap<Digest, BTreeSet<String>>,
    report: &'a mut VerifyReport,
    missing: u64,
    missing_contents: u64,
}

impl<'a> ImageCheck<'a> {
    /// The check of the image with these names. The `users` of damaged blobs are noted, all else goes to the
    /// `report`.
    pub(super) fn new(
        (store, keys): (&'a Arc<Store>, &'a [RealmKey]),
        blobs: &'a Blobs,
        progress: &'a VerifyProgress,
        names: &'a BTreeSet<String>,
        users: &'a mut HashMap<Digest, BTreeSet<String>>,
        report: &'a mut VerifyReport,
    ) -> Self {
        ImageCheck {
            store,
            keys,
            blobs,
            progress,
            names,
            users,
            report,
            missing: 0,
            missing_contents: 0,
        }
    }

    /// The number of blobs and chunks of the image that are not there, pack contents aside.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// The number of packs of the image whose contents are not there.
    pub(super) fn missing_contents(&self) -> u64 {
        self.missing_contents
    }

    /// Checks the image with this manifest. Packs that were `checked` for another one are not read again.
    pub(super) fn run(&mut self, manifest: &Digest, checked: &mut CheckedPacks) {
        if !self.is_readable(manifest) {
            return;
        }
        let table = match self.store.read_manifest(manifest) {
            Ok(manifest) => manifest.blob_table,
            Err(error) => return self.add_damage(*manifest, Causes(&error).to_string()),
        };
        if !self.is_readable(&table) {
            return;
        }
        let image = match Image::open_with(self.store.clone(), manifest, self.keys) {
            Ok(image) => image,
            Err(error) => return self.add_damage(table, Causes(&error).to_string()),
        };
        match image.root_record() {
            Ok(_) => self.check_tree(&image),
            Err(_) => self.check_shards(&image),
        }
        self.check_packs(&image, checked);
    }

    /// Looks whether the shards of an image are there that can't be decrypted.
    fn check_shards(&mut self, image: &Image) {
        for shard in image.blob_table().shards.iter() {
            self.is_readable(&shard.digest);
        }
        if let Some(key) = image.manifest().key_id() {
            let names = self.names.iter().cloned();
            self.report
                .encrypted
                .extend(names.map(|name| (name, key.to_string())));
        }
    }

    fn check_tree(&mut self, image: &Image) {
        let shards = image.blob_table().shards;
        let again = repeated(&shards, |shard: &ShardRecord| shard.digest);
        let different = (0..).zip(shards.iter());
        let different = different
            .filter(|(number, _)| again.as_ref().is_none_or(|again| !again.is_marked(*number)))
            .fold((0, 0), |(count, bytes), (_, shard)| {
                (count + 1, bytes + u64::from(shard.length))
            });
        drop(again);
        let Some(mut tree) = TreeCheck::new(image, different) else {
            return self.add_table_damage(image, "it names the same shards too often");
        };
        let mut is_complete = true;
        for (number, shard) in shards.iter().enumerate() {
            if !self.is_readable(&shard.digest) {
                is_complete = false;
                continue;
            }
            if let Err(problem) = tree.read_shard(number as u32) {
                self.add_damage(shard.digest, problem);
                is_complete = false;
            }
        }
        // What is between the shards can be told only of all of them.
        if is_complete {
            self.check_whole_tree(image, tree);
        }
    }

    fn check_whole_tree(&mut self, image: &Image, mut tree: TreeCheck<'_>) {
        if tree.content_bytes() != image.manifest().content_bytes.into() {
            let problem = format!(
                "contentBytes is not {}, which is what its files hold",
                tree.content_bytes()
            );
            self.add_damage(*image.digest(), problem);
        }
        if !tree.names_all_packs() {
            self.add_table_damage(image, "it names a pack that no file needs");
        }
        for (number, shard) in image.blob_table().shards.iter().enumerate() {
            if let Err(problem) = tree.check_directories(number as u32) {
                // The rest would be a consequence of it.
                return self.add_damage(shard.digest, problem);
            }
        }
        if let Err((shard, problem)) = tree.check_inodes() {
            let shard = image.blob_table().shard(shard);
            self.add_damage(shard.map_or(*image.digest(), |shard| shard.digest), problem);
        }
    }

    fn check_packs(&mut self, image: &Image, checked: &mut CheckedPacks) {
        let packs = image.blob_table().packs;
        let again = repeated(&packs, |pack: &PackRecord| pack.digest);
        if again.is_some() {
            self.add_table_damage(image, "it names a pack twice");
        }
        let mut stored_bytes = 0_u128;
        for (number, pack) in packs.iter().enumerate() {
            if again.as_ref().is_none_or(|again| !again.is_marked(number)) {
                stored_bytes += u128::from(pack.stored_length);
            }
            self.check_pack(image, number as u32, &pack, checked);
        }
        if stored_bytes != image.manifest().stored_bytes.into() {
            let problem =
                format!("storedBytes is not {stored_bytes}, which is what its packs have");
            self.add_damage(*image.digest(), problem);
        }
    }

    fn check_pack(
        &mut self,
        image: &Image,
        number: u32,
        record: &PackRecord,
        checked: &mut CheckedPacks,
    ) {
        let has_contents = self.has_contents(&record.contents_digest);
        let has_index = self.is_readable(&record.index_digest);
        let is_whole = self.blobs.has(&record.digest);
        let is_damaged = is_whole && !self.is_readable(&record.digest);
        if !has_index {
            return;
        }
        // A damaged one is mended in the places beside it, which may be damaged too.
        let pack = match is_damaged {
            true => image.placed_pack(number).map(|found| found.map(Arc::new)),
            false => image.pack(number).map(Some),
        };
        let pack = match pack {
            Ok(Some(pack)) => pack,
            Ok(None) => return,
            Err(Error::BlobMissing(_)) => {
                self.missing += 1;
                return;
            }
            Err(error) => return self.add_damage(record.index_digest, Causes(&error).to_string()),
        };
        let is_partial = !is_whole || is_damaged;
        let whole = pack.whole_file().filter(|_| !is_partial);
        if let Some(Ok(length)) = whole.map(|file| Ok::<_, std::io::Error>(file.metadata()?.len()))
        {
            if length != record.stored_length {
                let digest = record.digest;
                let problem = format!("pack {digest} has {length} bytes, not as many as it says");
                self.add_table_damage(image, &problem);
            }
        }
        let present = (0..record.chunk_count).filter(|chunk| pack.has(*chunk));
        let present = present.count() as u64;
        if !is_damaged {
            self.missing += u64::from(record.chunk_count) - present;
        }
        if !checked.insert((record.digest, record.index_digest, record.contents_digest)) {
            return;
        }
        if is_partial {
            self.report.partial_chunks += present;
        }
        let contents = has_contents.then(|| self.read_contents(record)).flatten();
        let contents = contents.as_deref();
        let contents = contents.and_then(|blob| record.content_digests(blob).ok());
        match check_chunks(&pack, image.key(), contents.as_ref(), self.progress) {
            // What is a blob was hashed as such.
            Ok(()) if pack.is_whole() && !pack.is_blob() && matches!(pack.is_pack(), Ok(false)) => {
                let problem = "the chunks that it lists are not the pack";
                self.add_damage(record.index_digest, problem.to_owned());
            }
            Ok(()) => (),
            Err(PackProblem::Index(problem)) => self.add_damage(record.index_digest, problem),
            Err(PackProblem::Contents(problem)) => self.add_damage(record.contents_digest, problem),
            Err(PackProblem::Chunks(count)) if is_partial => self.report.damages.push(Damage {
                blob: record.digest,
                problem: format!("{count} chunks of the partial pack are damaged"),
                images: self.names.clone(),
                advice: "nothing needs to be done: peerfsd fetches them anew when they are read"
                    .to_owned(),
            }),
            Err(PackProblem::Chunks(count)) => self.add_damage(
                record.index_digest,
                format!("{count} chunks of the pack are not what it says"),
            ),
        }
    }

    /// Whether the contents of a pack are there and whole. If they are not there it is no loss to readers.
    fn has_contents(&mut self, contents: &Digest) -> bool {
        let is_there = self.blobs.has(contents);
        self.missing_contents += u64::from(!is_there);
        is_there && !self.is_damaged(contents)
    }

    /// The contents of a pack, which are there; None if they are not as long as they should be, of which no more is read.
    fn read_contents(&mut self, record: &PackRecord) -> Option<Vec<u8>> {
        let digest = &record.contents_digest;
        let read = self.store.read_metadata(digest, record.contents_length());
        let checked = read.and_then(|blob| match record.content_digests(&blob) {
            Ok(_) => Ok(blob),
            Err(error) => Err(Error::format(*digest)(error)),
        });
        checked
            .map_err(|error| self.add_damage(*digest, Causes(&error).to_string()))
            .ok()
    }

    /// Whether a blob of the image is there and whole.
    fn is_readable(&mut self, blob: &Digest) -> bool {
        let is_there = self.blobs.has(blob);
        self.missing += u64::from(!is_there);
        is_there && !self.is_damaged(blob)
    }

    /// Whether a blob of the image is damaged; notes who needs it then.
    fn is_damaged(&mut self, blob: &Digest) -> bool {
        let is_damaged = self.blobs.damaged.contains_key(blob);
        if is_damaged {
            let users = self.users.entry(*blob).or_default();
            users.extend(self.names.iter().cloned());
        }
        is_damaged
    }

    fn add_table_damage(&mut self, image: &Image, problem: &str) {
        self.add_damage(image.manifest().blob_table, problem.to_owned());
    }

    fn add_damage(&mut self, blob: Digest, problem: String) {
        self.report.damages.push(Damage {
            blob,
            problem,
            images: self.names.clone(),
            advice: BUILT_WRONG.to_owned(),
        });
    }
}

/// The records of a table that name a blob which another one names already; None if there are none.
fn repeated<R: peerfs_format::Record>(
    table: &Table<'_, R>,
    digest: impl Fn(&R) -> Digest,
) -> Option<Marks> {
    let digest_at = |number: u32| table.get(number as usize).map(|record| digest(&record).0);
    // Eight bytes a record, since there may be hundreds of thousands. Who has made the digests does not know this
    // hash of them.
    let hasher = RandomState::new();
    let mut order: Vec<(u32, u32)> = (0..)
        .zip(table.iter())
        .map(|(number, record)| (hasher.hash_one(digest(&record).0) as u32, number))
        .collect();
    order.sort_unstable_by(|one, other| {
        let by_hash = one.0.cmp(&other.0);
        by_hash
            .then_with(|| digest_at(one.1).cmp(&digest_at(other.1)))
            .then(one.1.cmp(&other.1))
    });
    let mut marks: Option<Marks> = None;
    for pair in order.windows(2) {
        if let [(one_hash, one), (other_hash, other)] = *pair {
            if one_hash == other_hash && digest_at(one) == digest_at(other) {
                marks
                    .get_or_insert_with(|| Marks::new(table.len()))
                    .mark(other as usize);
            }
        }
    }
    marks
}
