// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The images that a peer follows on a stream: what it was told of them, and what it is to be told next.
//!
//! First the maps of all packs of an image of which something is here, then what comes. A map takes the place of
//! what was said before, so nothing that has come is told while maps are being read: what came meanwhile is told
//! after them, perhaps for the second time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use peerfs_format::Digest;

use super::Step;
use crate::frame::Reply;
use crate::limits::{FOLLOWS_PER_STREAM, NEWS_INTERVAL, RUNS_MAX};
use crate::{Arrival, Arrivals};

#[derive(Default)]
pub(super) struct Follows {
    images: Vec<Followed>,
    /// Up to where the arrivals were told; not known before they were first looked at.
    cursor: Option<u64>,
    /// When something was last told.
    told_at: Option<Instant>,
    /// Whether a step is under way.
    is_looking: bool,
}

struct Followed {
    request: u32,
    manifest: Digest,
    state: State,
}

enum State {
    /// It is to be found out whether the image is known here.
    New,
    /// It is not.
    Unknown,
    /// The maps of its packs, which are in ascending order, are to be told from this one on.
    Mapping {
        packs: Arc<[Digest]>,
        next: usize,
        /// Whether also those are told of which nothing is here.
        again: bool,
    },
    /// All of them were told.
    Told(Arc<[Digest]>),
}

impl Followed {
    /// Begins anew with the maps.
    fn restart(&mut self) {
        self.state = match &self.state {
            State::New | State::Unknown => State::New,
            State::Mapping { packs, .. } | State::Told(packs) => {
                let packs = Arc::clone(packs);
                State::Mapping {
                    packs,
                    next: 0,
                    again: true,
                }
            }
        };
    }

    fn has(&self, pack: &Digest) -> bool {
        matches!(&self.state, State::Told(packs) if packs.binary_search(pack).is_ok())
    }
}

impl Follows {
    pub(super) fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.images.len() >= FOLLOWS_PER_STREAM
    }

    pub(super) fn add(&mut self, request: u32, manifest: Digest) {
        self.images.push(Followed {
            request,
            manifest,
            state: State::New,
        });
    }

    pub(super) fn remove(&mut self, request: u32) {
        self.images.retain(|image| image.request != request);
    }

    /// What is to be looked for next; one thing at a time, until [`Self::looked`].
    pub(super) fn next_step(&mut self) -> Option<Step> {
        if self.is_looking || self.cursor.is_none() {
            return None;
        }
        let step = self.images.iter().find_map(|image| {
            let request = image.request;
            match &image.state {
                State::New => Some(Step::Image {
                    request,
                    manifest: image.manifest,
                }),
                State::Mapping { packs, next, .. } => {
                    let pack = *packs.get(*next)?;
                    Some(Step::Map { request, pack })
                }
                State::Unknown | State::Told(_) => None,
            }
        })?;
        self.is_looking = true;
        Some(step)
    }

    /// A step has come to its end.
    pub(super) fn looked(&mut self) {
        self.is_looking = false;
    }

    /// An image has these packs, or is not known here.
    pub(super) fn known(&mut self, request: u32, packs: Option<Arc<[Digest]>>) {
        if let Some(image) = self.of(request) {
            image.state = match packs {
                Some(packs) => State::Mapping {
                    packs,
                    next: 0,
                    again: false,
                },
                None => State::Unknown,
            };
            self.settle(request);
        }
    }

    /// The next map of an image was read; whether one of nothing is told too.
    pub(super) fn mapped(&mut self, request: u32) -> bool {
        let Some(image) = self.of(request) else {
            return false;
        };
        let State::Mapping { next, again, .. } = &mut image.state else {
            return false;
        };
        *next += 1;
        let is_told = *again;
        self.settle(request);
        is_told
    }

    /// Whether that was the last map.
    fn settle(&mut self, request: u32) {
        if let Some(image) = self.of(request) {
            if let State::Mapping { packs, next, .. } = &image.state {
                if *next >= packs.len() {
                    image.state = State::Told(Arc::clone(packs));
                }
            }
        }
    }

    fn of(&mut self, request: u32) -> Option<&mut Followed> {
        let mut images = self.images.iter_mut();
        images.find(|image| image.request == request)
    }

    /// When to look at the arrivals again, if there are new ones; not before what is to be looked for was found.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let is_settled = |image: &Followed| matches!(image.state, State::Unknown | State::Told(_));
        if self.images.is_empty() || self.is_looking || !self.images.iter().all(is_settled) {
            return None;
        }
        let next = self.told_at.map(|told| told + NEWS_INTERVAL);
        Some(next.map_or(now, |next| next.max(now)))
    }

    /// What has come since the last time.
    pub(super) fn news(&mut self, arrivals: &Arrivals, now: Instant) -> Vec<Reply> {
        if self.images.is_empty() {
            self.cursor = None;
            return Vec::new();
        }
        let Some(cursor) = self.cursor else {
            self.cursor = Some(arrivals.end());
            return Vec::new();
        };
        if self.due(now).is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.cursor = Some(arrivals.end());
        let Some(arrived) = arrivals.since(cursor) else {
            self.images.iter_mut().for_each(Followed::restart);
            return Vec::new();
        };
        let mut came: BTreeMap<Digest, Vec<u32>> = BTreeMap::new();
        for arrival in arrived {
            match arrival {
                Arrival::Chunk { pack, number } => came.entry(*pack).or_default().push(*number),
                Arrival::Image(manifest) => {
                    let unknown = |image: &&mut Followed| {
                        image.manifest == *manifest && matches!(image.state, State::Unknown)
                    };
                    let images = self.images.iter_mut().filter(unknown);
                    images.for_each(|image| image.state = State::New);
                }
                Arrival::Changed(pack) => {
                    let images = self.images.iter_mut().filter(|image| image.has(pack));
                    images.for_each(Followed::restart);
                }
            }
        }
        let mut news = Vec::new();
        for (pack, numbers) in came {
            let runs = runs_of(numbers);
            for image in self.images.iter().filter(|image| image.has(&pack)) {
                news.extend(runs.chunks(RUNS_MAX).map(|runs| Reply::HaveDelta {
                    request: image.request,
                    pack,
                    runs: runs.to_vec(),
                }));
            }
        }
        if !news.is_empty() {
            self.told_at = Some(now);
        }
        news
    }
}

/// Numbers as runs in ascending order with gaps between them.
fn runs_of(mut numbers: Vec<u32>) -> Vec<Range<u32>> {
    numbers.sort_unstable();
    let mut runs: Vec<Range<u32>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(last) if number <= last.end => last.end = last.end.max(number + 1),
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
