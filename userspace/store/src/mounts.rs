// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The mounts over a store, as the kernel lists them in `/proc/self/mountinfo`.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use peerfs_format::Digest;

use crate::{Error, Result, Store};

/// Where the processes are.
const PROC: &str = "/proc";
/// Mount namespaces, each once for each root in it, that are looked into.
const VIEWS_MAX: usize = 4096;
/// The list of the mount namespace of this process.
const PATH: &str = "/proc/self/mountinfo";
/// The most bytes of it that are read: the kernel's limit of 100,000 mounts has about as many.
const LENGTH_MAX: u64 = 64 * 1024 * 1024;

/// A mount of peerfs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoreMount {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// The store, by the path that its mounter gave.
    pub root_dir: PathBuf,
    /// The image's manifest.
    pub manifest: Digest,
}

impl Store {
    /// The mounts over the store in the mount namespace of this process. Asks none of them.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel does not say.
    pub fn mounts(&self) -> Result<Vec<StoreMount>> {
        let mounts = read().map_err(Error::io("read", Path::new(PATH)))?;
        Ok(of_store(mounts, self.root_dir()))
    }

    /// The images that are mounted over any store in any mount namespace that this process may look into: root into all that
    /// have a process. What a path stands for in another namespace is not asked: an image more is kept.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel does not say.
    pub(crate) fn mounted(&self) -> Result<HashSet<Digest>> {
        let own = self.mounts()?.into_iter().map(|mount| mount.manifest);
        let others = read_others().map_err(Error::io("read", Path::new(PROC)))?;
        Ok(own.chain(others).collect())
    }
}

/// The images that are mounted in other mount namespaces. Processes end while they are looked at: what can't be read of one
/// is passed over.
fn read_others() -> io::Result<HashSet<Digest>> {
    // A process sees the mounts of its namespace that are below its root.
    let view = |process: &Path| {
        let namespace = fs::read_link(process.join("ns/mnt")).ok()?;
        Some((namespace, fs::read_link(process.join("root")).ok()?))
    };
    let mut seen: HashSet<_> = view(&Path::new(PROC).join("self")).into_iter().collect();
    let mut images = HashSet::new();
    for entry in fs::read_dir(PROC)? {
        let process = entry?.path();
        let name = process.file_name().map(OsStr::as_bytes).unwrap_or_default();
        if !name.iter().all(u8::is_ascii_digit) {
            continue;
        }
        let Some(view) = view(&process) else {
            continue;
        };
        if seen.len() >= VIEWS_MAX {
            tracing::warn!("there are more than {VIEWS_MAX} mount namespaces: images that are mounted in others may be given up");
            break;
        }
        if seen.insert(view) {
            let mounts = read_list(&process.join("mountinfo")).unwrap_or_default();
            images.extend(mounts.into_iter().map(|mount| mount.manifest));
        }
    }
    Ok(images)
}

/// Those of the mounts whose store is this directory, by whatever path.
fn of_store(mounts: Vec<StoreMount>, root_dir: &Path) -> Vec<StoreMount> {
    let id = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let own = id(root_dir);
    let mut known: BTreeMap<PathBuf, bool> = [(root_dir.to_owned(), true)].into();
    let mut is_over = |mount: &StoreMount| {
        let path = mount.root_dir.clone();
        *known
            .entry(path)
            .or_insert_with_key(|path| own.is_some() && id(path) == own)
    };
    mounts.into_iter().filter(|mount| is_over(mount)).collect()
}

/// The mounts of peerfs that this process sees. Does not ask any filesystem.
fn read() -> io::Result<Vec<StoreMount>> {
    read_list(Path::new(PATH))
}

fn read_list(path: &Path) -> io::Result<Vec<StoreMount>> {
    let mut text = Vec::new();
    File::open(path)?.take(LENGTH_MAX).read_to_end(&mut text)?;
    Ok(parse(&text))
}

/// The mounts of peerfs in a text like that of `/proc/self/mountinfo`. What is not understood is passed over.
fn parse(text: &[u8]) -> Vec<StoreMount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<StoreMount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mountpoint = fields.nth(4)?;
    // Behind the options of the mount there are some more fields, and a dash.
    fields.find(|field| field == b"-")?;
    let filesystem = fields.next()?;
    let source = fields.next()?;
    if filesystem == b"fuse.peerfs" {
        return of_fuse(mountpoint, source);
    }
    if filesystem != b"peerfs" {
        return None;
    }
    let options = fields.next()?;
    let option = |name: &[u8]| {
        let mut options = options.split(|byte| *byte == b',');
        options.find_map(|option| option.strip_prefix(name))
    };
    Some(StoreMount {
        mountpoint: path(mountpoint),
        root_dir: path(option(b"root_dir=")?),
        manifest: std::str::from_utf8(option(b"manifest=")?)
            .ok()?
            .parse()
            .ok()?,
    })
}

/// A mount that a process serves, whose source is its manifest's digest, `@`, and its store, in which bytes may be written as
/// `%` and two hexadecimal digits.
fn of_fuse(mountpoint: &[u8], source: &[u8]) -> Option<StoreMount> {
    let source = std::str::from_utf8(source).ok()?;
    let (manifest, escaped) = source.split_once('@')?;
    let mut root_dir = Vec::new();
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        root_dir.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    Some(StoreMount {
        mountpoint: path(mountpoint),
        root_dir: OsString::from_vec(root_dir).into(),
        manifest: manifest.parse().ok()?,
    })
}

/// A path in which the kernel has written blanks, commas and the like as `\040`.
fn path(escaped: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| first == b'\\').and_then(octal);
        bytes.push(octal.unwrap_or(first));
        rest = match octal {
            Some(_) => behind.get(3..).unwrap_or_default(),
            None => behind,
        };
    }
    OsString::from_vec(bytes).into()
}

/// The byte that three octal digits stand for.
fn octal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    let is_digit = |byte: u8| (b'0'..=b'7').contains(&byte);
    u8::from_str_radix(text, 8)
        .ok()
        .filter(|_| digits.iter().copied().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_peerfs_are_found_whatever_their_names() {
        let digest = Digest([0xab; 32]);
        let text = format!(
            "36 35 98:0 / /plain rw,noatime master:1 propagate_from:2 - peerfs debian \
             ro,root_dir=/var/lib/peerfs,manifest={digest},timeout=30\n\
             37 35 0:5 /sub /a\\040b\\134\\012 ro - peerfs none ro,root_dir=/x\\054y,manifest={digest}\n\
             38 35 98:0 / /ext rw - ext4 /dev/peerfs rw,root_dir=/z,manifest={digest}\n\
             39 35 0:6 / /- rw - peerfs - ro,root_dir=/q,manifest=12\n\
             40 35 0:6 / /no-options rw - peerfs\n\
             41 35 0:7 / /served ro - fuse.peerfs {digest}@/a%2cb%20c ro,user_id=0\n\
             42 35 0:7 / /other ro - fuse.peerfs {digest}@/%2 ro,user_id=0\n\
             not a mount - peerfs\n"
        );
        let mount = |mountpoint: &str, root_dir: &str| StoreMount {
            mountpoint: mountpoint.into(),
            root_dir: root_dir.into(),
            manifest: digest,
        };
        let expected = [
            mount("/plain", "/var/lib/peerfs"),
            mount("/a b\\\n", "/x,y"),
            mount("/served", "/a,b c"),
        ];
        assert_eq!(parse(text.as_bytes()), expected);
        // Cut off anywhere, also before what is wrong in the last one.
        for length in 0..text.len() {
            assert!(parse(&text.as_bytes()[..length]).len() <= 4);
        }
    }

    #[test]
    fn a_store_is_known_by_its_directory_and_not_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let [own, other, link] = ["own", "other", "link"].map(|name| folder.path().join(name));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let mount = |root_dir: &Path| StoreMount {
            mountpoint: root_dir.to_owned(),
            root_dir: root_dir.to_owned(),
            manifest: Digest([1; 32]),
        };
        let gone = folder.path().join("gone");
        let mounts = [&own, &other, &link, &gone].map(|path| mount(path));
        let found = of_store(mounts.into(), &own);
        assert_eq!(found, [mount(&own), mount(&link)]);
        assert_eq!(of_store(vec![mount(&other)], &gone), []);
    }

    #[test]
    fn an_escape_is_three_octal_digits() {
        for (escaped, expected) in [
            ("\\040", " "),
            ("\\0", "\\0"),
            ("\\", "\\"),
            ("\\+40", "\\+40"),
            ("\\777", "\\777"),
            ("\\134040", "\\040"),
        ] {
            assert_eq!(path(escaped.as_bytes()), PathBuf::from(expected));
        }
    }

    #[test]
    fn the_lists_can_be_read() {
        read().unwrap();
        read_others().unwrap();
    }
}
