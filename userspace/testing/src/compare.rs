// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The same reads of a tree and of its mount, in all the ways there are to read.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{IoSliceMut, Read};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use peerfs_sys::mapping::PrivateMapping;
use rustix::fs::{fadvise, seek, statvfs, Advice, RawDir, SeekFrom, StatVfsMountFlags};
use rustix::io::{pread, preadv};
use rustix::pipe::{pipe, splice, SpliceFlags};

use crate::entry::{data_segments, walk};
use crate::{ensure, Error, Result};

/// The longest single read.
const LENGTH_MAX: usize = 300 * 1024;
const PAGE: u64 = 4096;

/// Compares a mount with its source.
pub(crate) fn compare(source: &Path, mount: &Path, seed: u64, count: u32) -> Result<()> {
    let paths = walk(source).map_err(Error::io("read", source))?;
    let mut files = Vec::new();
    let mut directories = Vec::new();
    for path in paths {
        let full = source.join(&path);
        let metadata = fs::symlink_metadata(&full).map_err(Error::io("read", &full))?;
        if metadata.is_dir() {
            directories.push(path);
        } else if metadata.is_file() {
            files.push((path, metadata.size()));
        }
    }
    let mut rng = Rng::with_seed(seed);

    // Large files have more places to go wrong in; small ones are many.
    let mut by_size = files.clone();
    by_size.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    by_size.truncate(40);
    for number in 0..count {
        let from = if number % 3 == 0 { &files } else { &by_size };
        let Some((path, size)) = rng.choice(from) else {
            break;
        };
        let mut pair = Pair::open(source, mount, path)?;
        pair.read_somewhere(*size, &mut rng)
            .map_err(Error::io("read", path))?
            .map_or(Ok(()), |finding| {
                Err(Error::Finding(format!("{}: {finding}", path.display())))
            })?;
    }
    let mut holes = 0;
    for (path, size) in &files {
        holes += Pair::open(source, mount, path)?.compare_holes(*size)?;
    }
    for path in &directories {
        check_directory(&mount.join(path), &mut rng)?;
    }
    check_statistics(mount)?;
    println!(
        "{count} random reads, the holes of {} files ({holes} holes), {} directories: as in the source",
        files.len(),
        directories.len()
    );
    Ok(())
}

/// A file of the source, and the same one of the mount.
struct Pair {
    path: PathBuf,
    source: File,
    mount: File,
}

impl Pair {
    fn open(source: &Path, mount: &Path, path: &Path) -> Result<Self> {
        let open = |root: &Path| {
            let full = root.join(path);
            File::open(&full).map_err(Error::io("open", &full))
        };
        Ok(Pair {
            path: path.to_owned(),
            source: open(source)?,
            mount: open(mount)?,
        })
    }

    /// Reads some bytes in some way; what is wrong with them.
    fn read_somewhere(&mut self, size: u64, rng: &mut Rng) -> std::io::Result<Option<String>> {
        let offset = match rng.u32(..10) {
            // At and behind the end.
            0 => size.saturating_sub(rng.u64(..20)),
            1 => size + rng.u64(..100_000),
            _ => rng.u64(..=size),
        };
        let length = match rng.u32(..4) {
            0 => rng.usize(1..100),
            _ => rng.usize(1..LENGTH_MAX),
        };
        let expected = read_at(&self.source, offset, length)?;
        if rng.u32(..20) == 0 {
            let advice = *rng
                .choice(&[
                    Advice::DontNeed,
                    Advice::WillNeed,
                    Advice::Random,
                    Advice::Sequential,
                ])
                .unwrap_or(&Advice::Normal);
            fadvise(&self.mount, offset, None, advice)?;
        }
        let way = rng.u32(..6);
        let found = match way {
            0 => read_vectors(&self.mount, offset, length)?,
            1 => read_spliced(&self.mount, offset, length)?,
            2 => match self.read_mapped(offset, expected.len(), rng)? {
                Ok(bytes) => bytes,
                Err(finding) => return Ok(Some(finding)),
            },
            _ => read_at(&self.mount, offset, length)?,
        };
        if found == expected {
            return Ok(None);
        }
        let place = found.iter().zip(&expected).position(|(a, b)| a != b);
        Ok(Some(format!(
            "{length} bytes from {offset}, way {way}: {} bytes instead of {}, first difference at {place:?}",
            found.len(),
            expected.len(),
        )))
    }

    /// Through a private mapping, which is then written to: the file must not change.
    fn read_mapped(
        &self,
        offset: u64,
        length: usize,
        rng: &mut Rng,
    ) -> std::io::Result<Result<Vec<u8>, String>> {
        let start = offset - offset % PAGE;
        let skipped = (offset - start) as usize;
        let Some(mapped) = NonZeroUsize::new(skipped + length).filter(|_| length > 0) else {
            return Ok(Ok(Vec::new()));
        };
        let mut mapping = PrivateMapping::new(&self.mount, start, mapped)?;
        let mut bytes = vec![0; length];
        mapping.read(skipped, &mut bytes);
        let place = rng.usize(..length);
        mapping.write(skipped + place, !bytes[place]);
        let mut again = [0];
        pread(&self.mount, &mut again[..], offset + place as u64)?;
        if again[0] != bytes[place] {
            return Ok(Err(format!(
                "a private mapping changed the file at {}",
                offset + place as u64
            )));
        }
        Ok(Ok(bytes))
    }

    /// Each hole of the source must be one of the mount, and what the mount calls a hole must be
    /// zeros; how many holes there are.
    fn compare_holes(&self, size: u64) -> Result<usize> {
        let path = &self.path;
        let segments = |file| data_segments(file).map_err(Error::io("seek in", path));
        let holes = |segments: &[(u64, u64)]| -> Vec<(u64, u64)> {
            let starts = std::iter::once(0).chain(segments.iter().map(|segment| segment.1));
            let ends = segments.iter().map(|segment| segment.0).chain([size]);
            starts
                .zip(ends)
                .filter(|(start, end)| start < end)
                .collect()
        };
        let in_source = holes(&segments(&self.source)?);
        let in_mount = holes(&segments(&self.mount)?);
        let within = |inner: &(u64, u64)| {
            in_mount
                .iter()
                .any(|outer| outer.0 <= inner.0 && inner.1 <= outer.1)
        };
        ensure(in_source.iter().all(within), || {
            format!(
                "{}: holes {in_source:?} became {in_mount:?}",
                path.display()
            )
        })?;
        for hole in in_mount.iter().filter(|hole| !in_source.contains(hole)) {
            let length = (hole.1 - hole.0).min(64 << 20) as usize;
            let bytes = read_at(&self.source, hole.0, length).map_err(Error::io("read", path))?;
            ensure(bytes.iter().all(|byte| *byte == 0), || {
                format!("{}: data in the hole {hole:?}", path.display())
            })?;
        }
        // Behind the end there is nothing to find.
        for file in [&self.source, &self.mount] {
            ensure(seek(file, SeekFrom::Data(size)).is_err(), || {
                format!("{}: SEEK_DATA finds data at the end", path.display())
            })?;
        }
        Ok(in_mount.len())
    }
}

/// Up to `length` bytes from `offset`, in as many reads as it takes.
fn read_at(file: &File, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        match pread(file, &mut bytes[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

fn read_vectors(file: &File, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let middle = length / 3;
    let (first, second) = bytes.split_at_mut(middle);
    let mut vectors = [IoSliceMut::new(first), IoSliceMut::new(second)];
    let count = preadv(file, &mut vectors, offset)?;
    // A short read is no error; the rest in the plain way.
    let rest = read_at(file, offset + count as u64, length - count)?;
    bytes.truncate(count);
    bytes.extend(rest);
    Ok(bytes)
}

fn read_spliced(file: &File, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let (reader, writer) = pipe()?;
    let mut reader = File::from(reader);
    let mut bytes = Vec::new();
    let mut position = offset;
    while bytes.len() < length {
        // No more than fits into the pipe, which is read by the same thread.
        let wanted = (length - bytes.len()).min(16 * 4096);
        let count = splice(
            file,
            Some(&mut position),
            &writer,
            None,
            wanted,
            SpliceFlags::empty(),
        )?;
        if count == 0 {
            break;
        }
        let mut piece = vec![0; count];
        reader.read_exact(&mut piece)?;
        bytes.extend(piece);
    }
    Ok(bytes)
}

/// An entry as getdents says: name, inode, type, and the position behind it.
type Listed = (Vec<u8>, u64, rustix::fs::FileType, u64);

fn list(directory: &File, most: usize) -> rustix::io::Result<Vec<Listed>> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        found.push((
            entry.file_name().to_bytes().to_vec(),
            entry.ino(),
            entry.file_type(),
            entry.next_entry_cookie(),
        ));
        if found.len() >= most {
            break;
        }
    }
    Ok(found)
}

/// A directory lists each name once, with the right type and inode, and can be entered in the middle.
fn check_directory(path: &Path, rng: &mut Rng) -> Result<()> {
    let failed = || Error::io::<std::io::Error>("read", path);
    let directory = File::open(path).map_err(failed())?;
    let entries = list(&directory, usize::MAX).map_err(|errno| failed()(errno.into()))?;
    let names: HashMap<&[u8], &Listed> =
        entries.iter().map(|entry| (&entry.0[..], entry)).collect();
    ensure(names.len() == entries.len(), || {
        format!("{}: names are listed twice", path.display())
    })?;
    ensure(
        [b".".as_slice(), b".."]
            .iter()
            .all(|dot| names.contains_key(dot)),
        || format!("{}: . or .. is missing", path.display()),
    )?;
    for _ in 0..5 {
        let Some((name, number, kind, _)) = rng.choice(&entries).filter(|entry| entry.0 != b"..")
        else {
            continue;
        };
        let full = path.join(std::ffi::OsStr::from_bytes(name));
        let status = rustix::fs::lstat(&full).map_err(|errno| failed()(errno.into()))?;
        ensure(
            status.st_ino == *number
                && rustix::fs::FileType::from_raw_mode(status.st_mode) == *kind,
            || format!("{}: not what its directory says", full.display()),
        )?;
    }
    // The position behind an entry leads to the next one, in whatever order they are tried.
    for _ in 0..5 {
        let index = rng.usize(..entries.len());
        seek(&directory, SeekFrom::Start(entries[index].3))
            .map_err(|errno| failed()(errno.into()))?;
        let next = list(&directory, 1).map_err(|errno| failed()(errno.into()))?;
        let good =
            next.first().map(|entry| &entry.0) == entries.get(index + 1).map(|entry| &entry.0);
        ensure(good, || {
            format!(
                "{}: seeking behind entry {index} of {} leads elsewhere",
                path.display(),
                entries.len()
            )
        })?;
    }
    Ok(())
}

/// statfs tells of a full, read-only filesystem with the tree's totals.
fn check_statistics(mount: &Path) -> Result<()> {
    let found = statvfs(mount).map_err(Error::io::<rustix::io::Errno>("statfs", mount))?;
    let mut inodes = std::collections::HashSet::new();
    let mut bytes = 0;
    for path in walk(mount).map_err(Error::io("read", mount))? {
        let full = mount.join(path);
        let metadata = fs::symlink_metadata(&full).map_err(Error::io("read", &full))?;
        if inodes.insert(metadata.ino()) && metadata.is_file() {
            bytes += metadata.blocks() * 512;
        }
    }
    let total = found.f_blocks * found.f_frsize;
    let good = found.f_files == inodes.len() as u64
        && found.f_bavail == 0
        && found.f_ffree == 0
        && found.f_namemax == 255
        && found.f_flag.contains(StatVfsMountFlags::RDONLY)
        // Files are counted in sectors, the filesystem in blocks.
        && total.abs_diff(bytes) <= 4096 + 512 * inodes.len() as u64;
    ensure(good, || {
        format!(
            "statfs: {} inodes ({} free), {total} bytes ({} blocks available), names of {}; \
             but there are {} inodes with {bytes} bytes",
            found.f_files,
            found.f_ffree,
            found.f_bavail,
            found.f_namemax,
            inodes.len(),
        )
    })
}
