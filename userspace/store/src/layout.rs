// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The names of things in a store, relative to its directory.

use peerfs_format::Digest;

/// Says that the directory is an OCI image layout; its flock guards changes to the index.
pub(crate) const OCI_LAYOUT: &str = "oci-layout";
/// The images by tag.
pub(crate) const INDEX: &str = "index.json";
/// The directory that the one of the complete blobs is in.
pub(crate) const BLOBS_PARENT: &str = "blobs";
/// The complete blobs.
pub(crate) const BLOBS: &str = "blobs/sha256";
/// The packs that are being filled.
pub(crate) const PARTIALS: &str = "partial";
/// The directory of files that are being written.
pub(crate) const TMP: &str = "tmp";
/// All directories, those first that others are in.
pub(crate) const DIRECTORIES: [&str; 4] = [BLOBS_PARENT, BLOBS, PARTIALS, TMP];
/// Its flock is held by the one process that fills packs.
pub(crate) const LOCK: &str = "lock";

/// The end of the names of files in [`TMP`]: whatever is called otherwise is not ours.
const TEMPORARY: &str = ".new";

/// A complete blob.
pub(crate) fn blob(digest: &Digest) -> String {
    format!("{BLOBS}/{digest}")
}

/// A pack that is being filled, as this index describes it.
pub(crate) fn partial(pack: &Digest, index: &Digest) -> String {
    format!("{PARTIALS}/{pack}-{index}")
}

/// The map of its chunks that are there.
pub(crate) fn map(pack: &Digest, index: &Digest) -> String {
    format!("{PARTIALS}/{pack}-{index}.map")
}

/// The pack and the index that a name in [`PARTIALS`] stands for; None for that of a map.
pub(crate) fn parse_partial(name: &str) -> Option<(Digest, Digest)> {
    let (pack, index) = name.split_once('-')?;
    Some((pack.parse().ok()?, index.parse().ok()?))
}

/// A file that is being written, one of many of this process.
pub(crate) fn temporary(number: u64) -> String {
    let process = std::process::id();
    format!("{TMP}/{process}-{number}{TEMPORARY}")
}

/// Whether a name in [`TMP`] is one of ours.
pub(crate) fn is_temporary(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_suffix(TEMPORARY)
        .and_then(|name| name.split_once('-'))
        .is_some_and(|(process, number)| is_number(process) && is_number(number))
}
