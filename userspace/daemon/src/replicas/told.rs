// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What clients are told of replicas.

use peerfs_control::{PublisherStatus, ReplicaCounts, ReplicaHere, ReplicaStatus, ReplicasStatus};
use peerfs_replica::keeper::{Copies, Own};

use super::Replicas;

impl Replicas {
    /// What is kept for others, and what others keep.
    pub(crate) fn status(&self) -> ReplicasStatus {
        let state = self.0.lock();
        let publishers = state.publishers.iter().map(|(key, publisher)| {
            let grant = self.0.config.publishers.get(key).copied();
            let side = match grant {
                Some(_) => &state.kept,
                None => &state.watched,
            };
            let images = publisher.account.entries().iter().enumerate();
            let images = images.map(|(place, entry)| {
                let copies = side.keeper.copies(&entry.image);
                let here = match copies.map(|copies| copies.own) {
                    Some(Own::Coming) => ReplicaHere::Coming,
                    Some(Own::Kept) => ReplicaHere::Kept,
                    Some(Own::TooLarge) => ReplicaHere::TooLarge,
                    Some(Own::None) | None => ReplicaHere::No,
                };
                ReplicaStatus {
                    image: entry.image.to_string(),
                    bytes: entry.bytes,
                    copies: entry.copies.into(),
                    proven: copies.map(|copies| copies.proven as u64),
                    here,
                    refused: place >= publisher.accepted,
                }
            });
            PublisherStatus {
                publisher: key.to_string(),
                sequence: publisher.sequence,
                granted_bytes: grant,
                problem: publisher.problem.clone(),
                images: images.collect(),
            }
        });
        ReplicasStatus {
            willing_bytes: self.0.config.bytes.map(std::num::NonZeroU64::get),
            used_bytes: state.kept.keeper.used(),
            willing_nodes: state.kept.roster.announcements().count() as u64,
            publishers: publishers.collect(),
        }
    }

    /// The same in numbers.
    pub(crate) fn counts(&self) -> ReplicaCounts {
        let state = self.0.lock();
        let sides = [&state.kept, &state.watched];
        let missing = sides.iter().flat_map(|side| {
            side.roster.images().map(|(image, wanted)| {
                let copies = side.keeper.copies(image);
                copies.map_or(0, |Copies { proven, own }| {
                    let here = proven + usize::from(own == Own::Kept);
                    wanted.copies.saturating_sub(here) as u64
                })
            })
        });
        ReplicaCounts {
            willing_nodes: state.kept.roster.announcements().count() as u64,
            kept: state.saved.len() as u64,
            bytes: state.kept.keeper.used(),
            missing: missing.sum(),
        }
    }
}
