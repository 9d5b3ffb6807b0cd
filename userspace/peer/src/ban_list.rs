// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The peers that the node has nothing to do with any more.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;

use crate::Error;

/// The most peers that are remembered. Ids cost an attacker nothing, so that the list must not grow
/// with them.
const PEERS_MAX: usize = 4096;
/// The longest reason, in bytes.
const REASON_MAX: usize = 200;

/// The banned peers, each with the reason; in a file too if there is one: a line for each peer, its
/// id and the reason.
#[derive(Debug, Default)]
pub(crate) struct BanList {
    path: Option<PathBuf>,
    peers: Mutex<HashMap<PeerId, String>>,
}

impl BanList {
    /// The list in this file, which need not exist yet. Lines that are none are passed over.
    pub(crate) fn load(path: Option<PathBuf>) -> Result<Self, Error> {
        let text = match path.as_deref().map(fs::read_to_string) {
            None => String::new(),
            Some(Ok(text)) => text,
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Some(Err(source)) => {
                let path = path.unwrap_or_default();
                return Err(Error::BanList { path, source });
            }
        };
        let peers = text
            .lines()
            .filter_map(|line| {
                let (id, reason) = line.split_once(' ').unwrap_or((line, ""));
                Some((id.parse().ok()?, reason.to_owned()))
            })
            .take(PEERS_MAX)
            .collect();
        Ok(BanList {
            path,
            peers: Mutex::new(peers),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, String>> {
        // Nothing that is done under the lock leaves the map half changed.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn contains(&self, peer: PeerId) -> bool {
        self.lock().contains_key(&peer)
    }

    pub(crate) fn peers(&self) -> Vec<PeerId> {
        self.lock().keys().copied().collect()
    }

    /// Adds a peer; the first reason stays. A full list forgets some other peer.
    pub(crate) fn add(&self, peer: PeerId, reason: &str) {
        let mut peers = self.lock();
        if peers.contains_key(&peer) {
            return;
        }
        if peers.len() >= PEERS_MAX {
            if let Some(other) = peers.keys().next().copied() {
                peers.remove(&other);
            }
        }
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        peers.insert(peer, reason.chars().take(REASON_MAX).collect());
    }

    /// Writes the list to its file, whole or not at all. Blocks.
    pub(crate) fn save(&self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        // The lock is held until the file is in its place, so that no older list replaces a newer.
        let peers = self.lock();
        for (peer, reason) in peers.iter() {
            writeln!(file, "{peer} {reason}")?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banned_peers_are_remembered_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("banned");
        let peer = PeerId::random();
        let list = BanList::load(Some(path.clone())).unwrap();
        list.add(peer, "sent\nwrong bytes");
        list.save().unwrap();
        let again = BanList::load(Some(path.clone())).unwrap();
        assert!(again.contains(peer));
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text, format!("{peer} sent wrong bytes\n"));
    }

    #[test]
    fn the_list_is_bounded_and_lines_that_are_none_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("banned");
        fs::write(&path, "nonsense\n\n").unwrap();
        let list = BanList::load(Some(path)).unwrap();
        assert!(list.peers().is_empty());
        for _ in 0..PEERS_MAX + 10 {
            list.add(PeerId::random(), "");
        }
        assert_eq!(list.peers().len(), PEERS_MAX);
    }
}
