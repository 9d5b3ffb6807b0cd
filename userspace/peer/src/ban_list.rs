// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The peers that the node has nothing to do with for some time.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::PeerId;

use crate::Error;

/// The most peers that are remembered. Ids cost an attacker nothing, so that the list must not grow
/// with them.
const PEERS_MAX: usize = 4096;
/// The longest reason, in letters.
const REASON_MAX: usize = 200;

const HOUR: Duration = Duration::from_secs(60 * 60);
/// How long the first ban of a peer lasts, the second one, and each further one. The first is short, since
/// a fault of the memory, here or there, looks as a lie does.
const LASTS: [Duration; 3] = [HOUR, HOUR.saturating_mul(24), HOUR.saturating_mul(24 * 7)];
/// How long after its end a ban makes the next one longer.
const REMEMBERED: Duration = HOUR.saturating_mul(24 * 30);

/// A peer that is banned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BanInfo {
    /// Its id.
    pub peer: PeerId,
    /// When that ends.
    pub until: SystemTime,
    /// How often it was banned, this time included.
    pub times: u32,
    /// Why.
    pub reason: String,
}

/// The banned peers, and those that were; in a file too if there is one: a line for each peer, its id, how
/// often it was banned, when that ends in seconds since 1970, and the reason.
///
/// The time is passed in, but a ban holds until [`BanList::end`] says that it is over, so that all parts of a
/// node agree.
#[derive(Debug, Default)]
pub(crate) struct BanList {
    path: Option<PathBuf>,
    peers: Mutex<HashMap<PeerId, Ban>>,
}

#[derive(Debug)]
struct Ban {
    holds: bool,
    until: SystemTime,
    times: u32,
    reason: String,
}

impl BanList {
    /// The list in this file, which need not exist yet. Lines that are none are passed over.
    pub(crate) fn load(path: Option<PathBuf>, now: SystemTime) -> Result<Self, Error> {
        let text = match path.as_deref().map(fs::read_to_string) {
            None => String::new(),
            Some(Ok(text)) => text,
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Some(Err(source)) => {
                let path = path.unwrap_or_default();
                return Err(Error::BanList { path, source });
            }
        };
        let peers = text.lines().filter_map(|line| parse(line, now));
        Ok(BanList {
            path,
            peers: Mutex::new(peers.take(PEERS_MAX).collect()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Ban>> {
        // Nothing that is done under the lock leaves the map half changed.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn contains(&self, peer: PeerId) -> bool {
        self.lock().get(&peer).is_some_and(|ban| ban.holds)
    }

    /// Those that are banned, the one whose ban ends first before the others.
    pub(crate) fn infos(&self) -> Vec<BanInfo> {
        let peers = self.lock();
        let holding = peers.iter().filter(|(_, ban)| ban.holds);
        let mut infos: Vec<_> = holding
            .map(|(peer, ban)| BanInfo {
                peer: *peer,
                until: ban.until,
                times: ban.times,
                reason: ban.reason.clone(),
            })
            .collect();
        infos.sort_by_key(|info| (info.until, info.peer));
        infos
    }

    /// Bans a peer, longer each time; returns for how long, or None if it is banned already. A full list forgets
    /// another peer.
    pub(crate) fn add(&self, peer: PeerId, reason: &str, now: SystemTime) -> Option<Duration> {
        let mut peers = self.lock();
        let times = match peers.get(&peer) {
            Some(ban) if ban.holds => return None,
            Some(ban) => ban.times.saturating_add(1),
            None => 1,
        };
        if peers.len() >= PEERS_MAX && !peers.contains_key(&peer) {
            // Those whose ban is over are first.
            let least = peers.iter().min_by_key(|(_, ban)| (ban.holds, ban.until));
            if let Some(least) = least.map(|(peer, _)| *peer) {
                peers.remove(&least);
            }
        }
        let lasts = lasts(times);
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        let ban = Ban {
            holds: true,
            until: now + lasts,
            times,
            reason: reason.chars().take(REASON_MAX).collect(),
        };
        peers.insert(peer, ban);
        Some(lasts)
    }

    /// Ends the bans that are over; returns whose they were.
    pub(crate) fn end(&self, now: SystemTime) -> Vec<PeerId> {
        let mut ended = Vec::new();
        self.lock().retain(|peer, ban| {
            if ban.holds && ban.until <= now {
                ban.holds = false;
                ended.push(*peer);
            }
            ban.holds || now < ban.until + REMEMBERED
        });
        ended
    }

    /// Lifts the ban of one peer, or all, and forgets that there was any; returns whose they were.
    pub(crate) fn lift(&self, peer: Option<PeerId>) -> Vec<PeerId> {
        let mut peers = self.lock();
        let lifted = match peer {
            Some(peer) => peers.remove_entry(&peer).into_iter().collect(),
            None => std::mem::take(&mut *peers),
        };
        let holding = lifted.into_iter().filter(|(_, ban)| ban.holds);
        holding.map(|(peer, _)| peer).collect()
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
        for (peer, ban) in peers.iter() {
            let until = ban.until.duration_since(UNIX_EPOCH).unwrap_or_default();
            let (times, until, reason) = (ban.times, until.as_secs(), &ban.reason);
            writeln!(file, "{peer} {times} {until} {reason}")?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// How long a ban lasts that is so many in a row.
fn lasts(times: u32) -> Duration {
    let place = usize::try_from(times).unwrap_or(usize::MAX);
    let [first, second, further] = LASTS;
    match place {
        0 | 1 => first,
        2 => second,
        _ => further,
    }
}

/// A line of the file. A clock that was wrong when it was written makes no ban longer than it may be.
fn parse(line: &str, now: SystemTime) -> Option<(PeerId, Ban)> {
    let mut words = line.splitn(4, ' ');
    let peer = words.next()?.parse().ok()?;
    let times = words.next()?.parse::<u32>().ok()?;
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
    let until = until.min(now + lasts(times));
    let reason = words.next().unwrap_or_default().to_owned();
    let ban = Ban {
        holds: now < until,
        until,
        times,
        reason,
    };
    Some((peer, ban))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + HOUR * 500_000
    }

    #[test]
    fn banned_peers_are_remembered_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("banned");
        let peer = PeerId::random();
        let list = BanList::load(Some(path.clone()), now()).unwrap();
        assert_eq!(list.add(peer, "sent\nwrong bytes", now()), Some(HOUR));
        assert_eq!(list.add(peer, "again", now()), None, "it is banned");
        list.save().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let until = 500_001 * 3600;
        assert_eq!(text, format!("{peer} 1 {until} sent wrong bytes\n"));
        let again = BanList::load(Some(path.clone()), now()).unwrap();
        assert_eq!(again.infos(), list.infos());
        // Asleep until it was over, or with a clock that was years ahead.
        let later = BanList::load(Some(path.clone()), now() + HOUR).unwrap();
        assert!(!later.contains(peer));
        let earlier = now() - HOUR * 100_000;
        let list = BanList::load(Some(path), earlier).unwrap();
        assert!(list.contains(peer));
        assert_eq!(list.end(earlier + HOUR), [peer]);
    }

    #[test]
    fn bans_end_and_are_longer_each_time_until_they_are_forgotten() {
        let (list, peer) = (BanList::default(), PeerId::random());
        let mut time = now();
        for hours in [1, 24, 24 * 7, 24 * 7] {
            let lasts = HOUR * hours;
            assert_eq!(list.add(peer, "", time), Some(lasts));
            time += lasts;
            assert!(list.end(time - Duration::from_secs(1)).is_empty() && list.contains(peer));
            assert_eq!(list.end(time), [peer]);
            assert!(!list.contains(peer) && list.infos().is_empty());
            assert!(list.end(time).is_empty(), "once");
        }
        time += REMEMBERED;
        list.end(time);
        assert!(list.lock().is_empty());
        assert_eq!(list.add(peer, "", time), Some(HOUR));
    }

    #[test]
    fn what_is_lifted_is_forgotten() {
        let list = BanList::default();
        let [one, other, third] = [(); 3].map(|()| PeerId::random());
        for peer in [one, other, third] {
            list.add(peer, "", now());
        }
        assert_eq!(list.lift(Some(one)), [one]);
        assert!(list.lift(Some(one)).is_empty() && !list.contains(one));
        assert_eq!(list.add(one, "", now()), Some(HOUR), "the first one again");
        assert_eq!(list.lift(None).len(), 3);
        assert!(list.infos().is_empty());
    }

    #[test]
    fn the_list_is_bounded_and_lines_that_are_none_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("banned");
        let peer = PeerId::random();
        let lines = format!("nonsense\n\n{peer}\n{peer} x 1\n{peer} 1 {}\n", u64::MAX);
        fs::write(&path, lines).unwrap();
        let list = BanList::load(Some(path), now()).unwrap();
        assert!(list.lock().is_empty());
        list.add(peer, "", now());
        list.end(now() + HOUR);
        for _ in 0..PEERS_MAX + 10 {
            list.add(PeerId::random(), "", now());
        }
        assert_eq!(list.infos().len(), PEERS_MAX);
        assert!(!list.lock().contains_key(&peer), "who is free goes first");
    }
}
