// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Packs whose chunks lie elsewhere, as tables of places say, rightly or wrongly.

mod table;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use clap::ValueEnum;
use fastrand::Rng;
use peerfs_format::{
    BlobTable, DataFile, Digest, Manifest, PackIndex, PackRecord, Place, PlacesHeader,
    DATA_FILE_MAX, LOOSE_MAX, SLOTS_MAX, SLOT_SIZE,
};

use crate::{Error, Result};
pub(crate) use table::{encoded, open_file, PlacesTable};

/// Bytes of a loose file of these tests: so few that there are several, if not all are to be in one.
const LOOSE_BYTES: u64 = 1024 * 1024;

/// A way to lay out the chunks of an image's packs, or to say so and be wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Layout {
    /// All in loose files, in order.
    Loose,
    /// All in loose files, in any order.
    Shuffled,
    /// Some in the partial pack, some in loose files.
    Mixed,
    /// Those that other packs of the store have in these, the others in loose files.
    Shared,
    /// In one loose file, which all 64 slots name in turn.
    Crowded,
    /// As loose, but no entry says so.
    Empty,
    /// As loose, but the table is that of another pack.
    OtherPack,
    /// As loose, but a byte beside.
    Shifted,
    /// As loose, but each chunk has the entry of the next one.
    Rotated,
    /// As loose, but behind the ends of the files.
    Beyond,
    /// As loose, but nobody knows the kinds of the slots.
    UnknownKinds,
    /// As loose, but the files are not there.
    Vanished,
    /// As loose, but the table was cut in the middle of an entry.
    Cut,
    /// As loose, but all of the table behind its header is random.
    Noise,
}

/// Lays out the whole packs of an image anew, and removes them.
pub(crate) fn lay_out(store: &Path, manifest: &Digest, layout: Layout, seed: u64) -> Result<()> {
    let image = packs(store, manifest)?;
    let others = match layout {
        Layout::Shared => others(store, &image)?,
        _ => HashMap::new(),
    };
    let mut rng = Rng::with_seed(seed);
    let mut loose = Loose::open(store, layout)?;
    for pack in &image {
        let index = blob(store, &pack.index_digest)?;
        let index = PackIndex::parse(&index, pack).map_err(Error::format(store))?;
        let path = blob_path(store, &pack.digest);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let mut numbers: Vec<u32> = (0..pack.chunk_count).collect();
        if layout == Layout::Shuffled {
            rng.shuffle(&mut numbers);
        }
        let mut table = PlacesTable::open(store, pack)?;
        let mut entries = vec![0; numbers.len()];
        let mut slots = BTreeMap::new();
        for number in numbers {
            let chunk = index.chunk(number).map_err(Error::format(store))?;
            let start = chunk.stored_offset as usize;
            let stored = &bytes[start..start + chunk.stored_length as usize];
            let (file, offset) = match others.get(&chunk.digest) {
                Some(place) => *place,
                None if layout == Layout::Mixed && number % 3 == 0 => {
                    put_partial(store, pack, stored, start as u64)?
                }
                None => loose.append(stored)?,
            };
            let slot = match layout {
                Layout::Crowded => number % SLOTS_MAX,
                _ => match slots.get(&file) {
                    Some(slot) => *slot,
                    None => *slots.entry(file).or_insert(table.slot_of(&file)?),
                },
            };
            entries[number as usize] = Place { slot, offset }.to_entry();
        }
        if layout == Layout::Crowded {
            for slot in 0..SLOTS_MAX {
                table.set_slot(slot, &encoded(&DataFile::Loose(loose.number)))?;
            }
        }
        spoil(&mut entries, layout, &mut rng);
        table.set_entries(0, &entries)?;
        spoil_table(&mut table, pack, layout, &mut rng)?;
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    loose.write()?;
    if layout == Layout::Vanished {
        let folder = store.join("loose");
        fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
    }
    Ok(())
}

/// Makes right entries those that the layout says.
fn spoil(entries: &mut [u64], layout: Layout, rng: &mut Rng) {
    match layout {
        Layout::Empty => entries.fill(0),
        Layout::Shifted => entries.iter_mut().for_each(|entry| *entry += 1),
        Layout::Beyond => entries
            .iter_mut()
            .for_each(|entry| *entry |= DATA_FILE_MAX - 1),
        Layout::Rotated => entries.rotate_left(1),
        Layout::Noise => entries.fill_with(|| rng.u64(..)),
        _ => {}
    }
}

/// Makes of a right table what the layout says.
fn spoil_table(
    table: &mut PlacesTable,
    pack: &PackRecord,
    layout: Layout,
    rng: &mut Rng,
) -> Result<()> {
    match layout {
        Layout::OtherPack => table.set_header(&PlacesHeader {
            pack: pack.index_digest,
            ..table.header()
        }),
        Layout::UnknownKinds => {
            for slot in 0..SLOTS_MAX {
                let mut bytes = vec![slot as u8; SLOT_SIZE];
                bytes[0] = 3;
                table.set_slot(slot, &bytes)?;
            }
            Ok(())
        }
        Layout::Cut => {
            let length = PlacesHeader::place_offset(pack.chunk_count / 2) + 5;
            let cut = table.file.set_len(length);
            cut.map_err(Error::io("cut", &table.path))
        }
        Layout::Noise => {
            for slot in 0..SLOTS_MAX {
                let mut bytes = vec![0; SLOT_SIZE];
                rng.fill(&mut bytes);
                table.set_slot(slot, &bytes)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The loose file of a store that is being written.
struct Loose<'a> {
    store: &'a Path,
    number: u64,
    bytes: Vec<u8>,
    length_max: u64,
}

impl<'a> Loose<'a> {
    /// Begins a file behind those that are there.
    fn open(store: &'a Path, layout: Layout) -> Result<Self> {
        let folder = store.join("loose");
        let count = || -> std::io::Result<u64> {
            fs::create_dir_all(&folder)?;
            Ok(fs::read_dir(&folder)?.count() as u64)
        };
        Ok(Loose {
            store,
            number: count().map_err(Error::io("open", &folder))?,
            bytes: Vec::new(),
            length_max: match layout {
                Layout::Crowded => LOOSE_MAX,
                _ => LOOSE_BYTES,
            },
        })
    }

    /// Appends bytes, and says where they are.
    fn append(&mut self, bytes: &[u8]) -> Result<(DataFile, u64)> {
        if (self.bytes.len() + bytes.len()) as u64 > self.length_max {
            self.write()?;
            self.bytes.clear();
            self.number += 1;
        }
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        Ok((DataFile::Loose(self.number), offset))
    }

    fn write(&self) -> Result<()> {
        let path = self.store.join("loose").join(self.number.to_string());
        fs::write(&path, &self.bytes).map_err(Error::io("write", &path))
    }
}

/// Writes a chunk where it is in the pack, and says where that is.
fn put_partial(
    store: &Path,
    pack: &PackRecord,
    bytes: &[u8],
    offset: u64,
) -> Result<(DataFile, u64)> {
    let name = format!("{}-{}", pack.digest, pack.index_digest);
    let path = store.join("partial").join(name);
    open_file(&path)
        .and_then(|file| file.write_all_at(bytes, offset))
        .map_err(Error::io("write", &path))?;
    Ok((DataFile::Pack(pack.digest, pack.index_digest), offset))
}

/// Where the chunks of all other packs of the store are that an image of it has whole.
fn others(store: &Path, image: &[PackRecord]) -> Result<HashMap<Digest, (DataFile, u64)>> {
    let folder = store.join("blobs/sha256");
    let mut found = HashMap::new();
    for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
        let name = entry.map_err(Error::io("read", &folder))?.file_name();
        let Some(Ok(digest)) = name.to_str().map(str::parse::<Digest>) else {
            continue;
        };
        // What is no manifest is no image.
        let Ok(packs) = packs(store, &digest) else {
            continue;
        };
        for pack in packs {
            let is_whole = blob_path(store, &pack.digest).exists();
            if !is_whole || image.iter().any(|own| own.digest == pack.digest) {
                continue;
            }
            let index = blob(store, &pack.index_digest)?;
            let index = PackIndex::parse(&index, &pack).map_err(Error::format(store))?;
            let file = DataFile::Pack(pack.digest, pack.index_digest);
            let places = index.chunks.iter();
            found.extend(places.map(|chunk| (chunk.digest, (file, chunk.stored_offset.into()))));
        }
    }
    Ok(found)
}

/// The packs of an image.
fn packs(store: &Path, manifest: &Digest) -> Result<Vec<PackRecord>> {
    let parsed = Manifest::parse(&blob(store, manifest)?).map_err(Error::format(store))?;
    let table = blob(store, &parsed.blob_table)?;
    let table = BlobTable::parse(&table, parsed.inode_count).map_err(Error::format(store))?;
    Ok(table.packs.iter().collect())
}

fn blob_path(store: &Path, digest: &Digest) -> std::path::PathBuf {
    store.join("blobs/sha256").join(digest.to_string())
}

fn blob(store: &Path, digest: &Digest) -> Result<Vec<u8>> {
    let path = blob_path(store, digest);
    fs::read(&path).map_err(Error::io("read", &path))
}
