// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which images are just being started, and what was missed of each.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use peerfs_format::upcall::Workload;
use peerfs_format::{BlobTable, Digest};

use crate::{Part, Step, Trace, STEPS_MAX};

/// Sessions that are remembered, the last ones.
const SESSIONS_MAX: usize = 64;
/// A start is over when nothing was missed for so long, or when it takes longer than that.
const QUIET: Duration = Duration::from_secs(60);
const START_MAX: Duration = Duration::from_secs(600);
/// What is missed after so long a time is of another start.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// What was missed is written down when nothing was for so long, and after the other time at the latest.
const SETTLED: Duration = Duration::from_secs(2);
const UNSAVED_MAX: Duration = Duration::from_secs(15);

/// Something that was asked for because it was missed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Touch {
    /// The image's manifest: nothing of it was there.
    Manifest,
    /// Another metadata blob.
    Blob(Digest),
    /// A run of a pack's chunks.
    Chunks {
        /// The pack.
        pack: Digest,
        /// The first chunk.
        first: u32,
        /// How many.
        count: u32,
    },
}

/// The images that are started; none by default. A session is what is missed of one image by the mounts for one workload, from a first miss on.
#[derive(Default)]
pub struct Sessions {
    /// The one that began first comes first.
    sessions: VecDeque<Session>,
}

struct Session {
    image: Digest,
    workload: Workload,
    began: Instant,
    last: Instant,
    /// Whether more than the manifest was missed.
    is_read: bool,
    /// Whether the start is over: what is missed from now on is not noted.
    is_over: bool,
    /// Since when there is something that was not written down.
    unsaved_since: Option<Instant>,
    touches: Vec<(Duration, Touch)>,
}

/// What was missed of an image, to be written down.
#[derive(Debug, Eq, PartialEq)]
pub struct Noted {
    /// The image.
    pub image: Digest,
    /// What its mounts were for.
    pub workload: Workload,
    touches: Vec<(Duration, Touch)>,
}

impl Sessions {
    /// Something was missed. Returns whether a session begins with that: what was noted of earlier ones is to be brought.
    pub fn touched(
        &mut self,
        image: Digest,
        workload: Workload,
        touch: Touch,
        now: Instant,
    ) -> bool {
        let is_same = |session: &Session| session.image == image && session.workload == workload;
        let place = self.sessions.iter().position(is_same);
        let begins = place
            .and_then(|place| self.sessions.get(place))
            .is_none_or(|session| {
                let is_gone = touch == Touch::Manifest && session.is_read;
                is_gone || now.saturating_duration_since(session.last) >= FORGOTTEN
            });
        if begins {
            if let Some(old) = place {
                self.sessions.remove(old);
            }
            if self.sessions.len() >= SESSIONS_MAX {
                self.sessions.pop_front();
            }
            self.sessions.push_back(Session::new(image, workload, now));
        }
        if let Some(session) = self
            .sessions
            .iter_mut()
            .rev()
            .find(|session| is_same(session))
        {
            session.note(touch, now);
        }
        begins
    }

    /// What is to be written down by now; all that was not, if it `ends`.
    pub fn due(&mut self, ends: bool, now: Instant) -> Vec<Noted> {
        let due = self.sessions.iter_mut().filter_map(|session| {
            let since = session.unsaved_since?;
            let is_settled = now.saturating_duration_since(session.last) >= SETTLED;
            let is_late = now.saturating_duration_since(since) >= UNSAVED_MAX;
            (is_settled || is_late || ends).then(|| session.take())
        });
        due.collect()
    }
}

impl Session {
    fn new(image: Digest, workload: Workload, now: Instant) -> Self {
        Session {
            image,
            workload,
            began: now,
            last: now,
            is_read: false,
            is_over: false,
            unsaved_since: None,
            touches: Vec::new(),
        }
    }

    fn note(&mut self, touch: Touch, now: Instant) {
        let after = now.saturating_duration_since(self.began);
        let is_quiet = now.saturating_duration_since(self.last) >= QUIET;
        self.is_over |= is_quiet || after >= START_MAX;
        self.last = self.last.max(now);
        if touch == Touch::Manifest {
            return;
        }
        self.is_read = true;
        if !self.is_over && self.touches.len() < STEPS_MAX {
            self.touches.push((after, touch));
            self.unsaved_since.get_or_insert(now);
        }
    }

    fn take(&mut self) -> Noted {
        self.unsaved_since = None;
        Noted {
            image: self.image,
            workload: self.workload,
            touches: std::mem::take(&mut self.touches),
        }
    }
}

impl Noted {
    /// The trace of it, by the image's blob table. What is none of the image's is left out.
    pub fn trace(&self, table: &BlobTable<'_>) -> Trace {
        let shards = (0_u32..).zip(table.shards.iter());
        let shards: HashMap<Digest, u32> =
            shards.map(|(place, shard)| (shard.digest, place)).collect();
        let packs = (0_u32..).zip(table.packs.iter());
        let packs: HashMap<Digest, (u32, u32)> = packs
            .map(|(place, pack)| (pack.digest, (place, pack.chunk_count)))
            .collect();
        let mut trace = Trace::new(self.image, self.workload);
        let steps = self.touches.iter().filter_map(|&(after, touch)| {
            let part = match touch {
                Touch::Manifest => None,
                Touch::Blob(digest) => shards.get(&digest).copied().map(Part::Shard),
                Touch::Chunks { pack, first, count } => {
                    let end = first.checked_add(count);
                    let found = packs.get(&pack).copied();
                    let found = found.filter(|(_, chunks)| end.is_some_and(|end| end <= *chunks));
                    found.map(|(pack, _)| Part::Chunks { pack, first, count })
                }
            };
            let after = Duration::from_millis(after.as_millis() as u64);
            Some(Step { after, part: part? })
        });
        let missed = Trace {
            steps: steps.collect(),
            ..Trace::new(self.image, self.workload)
        };
        trace.add(&missed);
        trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn image(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn chunk(first: u32) -> Touch {
        let pack = image(99);
        Touch::Chunks {
            pack,
            first,
            count: 1,
        }
    }

    #[test]
    fn of_two_images_and_two_workloads_each_has_its_own() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let [cc, python] = ["cc", "python"].map(|name| Workload::new(name).unwrap());
        assert!(sessions.touched(image(1), cc, Touch::Manifest, now));
        assert!(!sessions.touched(image(1), cc, chunk(1), now + SECOND));
        assert!(sessions.touched(image(1), python, chunk(2), now + SECOND));
        assert!(sessions.touched(image(2), cc, chunk(3), now + SECOND));
        assert!(!sessions.touched(image(1), cc, chunk(4), now + 2 * SECOND));
        assert_eq!(sessions.due(false, now + 2 * SECOND), []);
        let due = sessions.due(false, now + 4 * SECOND);
        let noted = |image, workload, touches: &[(Duration, Touch)]| Noted {
            image,
            workload,
            touches: touches.to_vec(),
        };
        let zero = Duration::ZERO;
        let expected = [
            noted(image(1), cc, &[(SECOND, chunk(1)), (2 * SECOND, chunk(4))]),
            noted(image(1), python, &[(zero, chunk(2))]),
            noted(image(2), cc, &[(zero, chunk(3))]),
        ];
        assert_eq!(due, expected);
        assert_eq!(sessions.due(true, now + 4 * SECOND), []);
    }

    #[test]
    fn what_is_read_later_is_no_start() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let workload = Workload::default();
        let mut touched = |touch, after| sessions.touched(image(1), workload, touch, now + after);
        assert!(touched(chunk(0), Duration::ZERO));
        assert!(!touched(chunk(1), QUIET - SECOND));
        assert!(!touched(chunk(2), 2 * QUIET));
        // Not even when others come quickly behind it.
        assert!(!touched(chunk(3), 2 * QUIET + SECOND));
        // Its image was removed, and is mounted anew; or a day has passed.
        assert!(touched(Touch::Manifest, 3 * QUIET));
        assert!(!touched(chunk(4), 3 * QUIET));
        assert!(touched(chunk(5), 3 * QUIET + FORGOTTEN));
        let due = sessions.due(true, now + 10 * FORGOTTEN);
        assert_eq!(due[0].touches, [(Duration::ZERO, chunk(5))]);
    }

    #[test]
    fn what_goes_on_is_written_down_too_and_all_of_it_is_bounded() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let workload = Workload::default();
        for number in 0..=255 {
            sessions.touched(image(number), workload, chunk(0), now);
        }
        assert_eq!(sessions.sessions.len(), SESSIONS_MAX);
        for number in 0..2 * STEPS_MAX as u32 {
            sessions.touched(image(255), workload, chunk(number), now + UNSAVED_MAX);
        }
        let due = sessions.due(false, now + UNSAVED_MAX);
        let lengths: Vec<usize> = due.iter().map(|noted| noted.touches.len()).collect();
        assert_eq!(lengths.last(), Some(&STEPS_MAX));
        assert_eq!(lengths.len(), SESSIONS_MAX);
    }
}
