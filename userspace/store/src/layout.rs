// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The names of things in a store, relative to its directory.

use data_encoding::HEXLOWER;
use peerfs_format::upcall::Workload;
use peerfs_format::{Digest, KeyId};

/// Says that the directory is an OCI image layout; its flock guards changes to the index.
pub(crate) const OCI_LAYOUT: &str = "oci-layout";
/// The images by tag.
pub(crate) const INDEX: &str = "index.json";
/// Signatures that images came with.
pub(crate) const SIGNATURES: &str = "signatures";
/// The directory that the one of the complete blobs is in.
pub(crate) const BLOBS_PARENT: &str = "blobs";
/// The complete blobs.
pub(crate) const BLOBS: &str = "blobs/sha256";
/// The packs that are being filled.
pub(crate) const PARTIALS: &str = "partial";
/// Files of chunks that came one after the other.
pub(crate) const LOOSE: &str = "loose";
/// The tables of places.
pub(crate) const PLACES: &str = "places";
/// The directory of what finds chunks: removed, it is made anew.
pub(crate) const CATALOGUE: &str = "catalogue";
/// The table of chunks by the digests of their stored bytes.
pub(crate) const CATALOGUE_STORED: &str = "catalogue/stored";
/// The table of chunks by their content.
pub(crate) const CATALOGUE_CONTENT: &str = "catalogue/content";
/// The digests that the table of content leads to.
pub(crate) const CATALOGUE_CONTENTS: &str = "catalogue/contents";
/// The data files that these name.
pub(crate) const CATALOGUE_NAMES: &str = "catalogue/names";
/// Is there while a catalogue is made anew, and locked by who does it.
pub(crate) const CATALOGUE_REBUILT: &str = "catalogue/rebuilt";
/// What is missed of images when they are started; made when there is something to be put there.
pub(crate) const TRACES: &str = "traces";
/// Its flock is held by who changes a trace.
pub(crate) const TRACES_LOCK: &str = "traces.lock";
/// Signatures of images that kernels ask for; made when there is something to be put there.
pub(crate) const SIGNED: &str = "signed";
/// Envelopes of realms, of which images are here; made when there is something to be put there.
pub(crate) const ENVELOPES: &str = "envelopes";
/// The directory of files that are being written.
pub(crate) const TMP: &str = "tmp";
/// All directories, those first that others are in.
pub(crate) const DIRECTORIES: [&str; 7] =
    [BLOBS_PARENT, BLOBS, PARTIALS, LOOSE, PLACES, CATALOGUE, TMP];
/// Its flock is held while tables of places are changed.
pub(crate) const CHANGES: &str = "places.lock";
/// Its flock is shared by those who build images, and held alone by a collection.
pub(crate) const BUILDS: &str = "builds.lock";
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

/// A file of chunks that came one after the other.
pub(crate) fn loose(number: u64) -> String {
    format!("{LOOSE}/{number}")
}

/// The table of places of a pack, as this index describes it.
pub(crate) fn places(pack: &Digest, index: &Digest) -> String {
    format!("{PLACES}/{pack}-{index}")
}

/// The pack and the index that a name in [`PLACES`] or [`PARTIALS`] stands for.
pub(crate) fn parse_pair(name: &str) -> Option<(Digest, Digest)> {
    let (pack, index) = name.split_once('-')?;
    Some((pack.parse().ok()?, index.parse().ok()?))
}

/// The trace of an image; of one for no workload in particular it is named after the image alone.
pub(crate) fn trace(image: &Digest, workload: Workload) -> String {
    match workload.name() {
        Some(workload) => format!("{TRACES}/{image}.{workload}"),
        None => format!("{TRACES}/{image}"),
    }
}

/// The image and the workload that a name in [`TRACES`] stands for.
pub(crate) fn parse_trace(name: &str) -> Option<(Digest, Workload)> {
    match name.split_once('.') {
        Some((image, workload)) => Some((image.parse().ok()?, Workload::new(workload)?)),
        None => Some((name.parse().ok()?, Workload::default())),
    }
}

/// The signatures of an image that kernels ask for.
pub(crate) fn signed(image: &Digest) -> String {
    format!("{SIGNED}/{image}")
}

/// The envelope of a realm.
pub(crate) fn envelope(key: &KeyId) -> String {
    format!("{ENVELOPES}/{key}")
}

/// The realm that a name in [`ENVELOPES`] stands for.
pub(crate) fn parse_envelope(name: &str) -> Option<KeyId> {
    let bytes = HEXLOWER.decode(name.as_bytes()).ok()?;
    Some(KeyId(bytes.try_into().ok()?))
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
