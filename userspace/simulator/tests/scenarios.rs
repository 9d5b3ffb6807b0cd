// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Small scenarios, with bounds that a worse scheduler does not keep.

use peerfs_simulator::replicas;
use peerfs_simulator::scenario::{demand, origin, swarm, Burden, Options};

/// 16 nodes at 40 Mbit/s, an image of 32 MiB.
#[test]
fn a_swarm_of_16() {
    let swarm = swarm(&Options::default());
    assert_eq!((swarm.complete, swarm.incomplete), (15, 0), "{swarm}");
    assert!(swarm.last <= 1.15 && swarm.copies <= 1.1, "{swarm}");
    assert!(swarm.duplicates <= 2.0, "{swarm}");
}

/// Where nodes do not all know each other, one copy leaves the seed before a second all the same.
#[test]
fn swarms_of_48_and_100() {
    for (nodes, chunks, last, copies) in [
        (48, 512, 1.2, 1.15),
        (100, 512, 1.22, 1.2),
        (100, 1000, 1.15, 1.15),
    ] {
        let options = Options {
            nodes,
            chunks,
            ..Options::default()
        };
        let swarm = swarm(&options);
        assert_eq!(swarm.incomplete, 0, "{swarm}");
        assert!(swarm.last <= last, "{nodes} nodes: {swarm}");
        assert!(swarm.copies <= copies, "{nodes} nodes: {swarm}");
        assert!(swarm.duplicates <= 1.0, "{nodes} nodes: {swarm}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let options = Options {
            chunks: 128,
            seed,
            ..Options::default()
        };
        format!("{:?}", swarm(&options))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn an_origin_of_16() {
    let origin = origin(&Options::default());
    assert_eq!((origin.complete, origin.incomplete), (16, 0), "{origin}");
    assert!(origin.copies <= 1.12 && origin.last <= 1.25, "{origin}");
}

/// Some leave, and some lie: all that stay have all in the end.
#[test]
fn a_swarm_with_churn_and_liars() {
    let options = Options {
        nodes: 32,
        chunks: 128,
        leaving: 20,
        liars: 10,
        ..Options::default()
    };
    let swarm = swarm(&options);
    assert!(swarm.complete >= 20, "{swarm}");
    assert_eq!(swarm.incomplete, 0, "{swarm}");
}

/// In a LAN of four, one of which has stopped, a reader waits for no more than the way there and back and the chunk.
#[test]
fn a_reader_in_a_network_with_one_that_has_stopped() {
    let options = Options {
        nodes: 4,
        rate: 100_000_000,
        latency: 1,
        ..Options::default()
    };
    let burden = Burden {
        stopped: 1,
        ..Burden::default()
    };
    let demand = demand(&options, burden);
    assert!(demand.reads >= 200, "{demand}");
    assert!(demand.p50 <= 12.0 && demand.p99 <= 25.0, "{demand}");
    assert!(demand.hedged <= 5.0, "{demand}");
}

/// Half of the nodes go within hours; faster than in a day, and fewer.
#[test]
fn images_outlive_half_of_the_nodes_that_keep_them() {
    let options = replicas::Options {
        nodes: 24,
        images: 12,
        copies: 4,
        hours: 3,
        ..replicas::Options::default()
    };
    let losses = replicas::replicas(&options);
    assert_eq!((losses.lost, losses.not_repaired), (0, 0), "{losses}");
    assert!(losses.copies_gone >= 15, "{losses}");
    assert!(
        losses.noticed[1] <= 300 && losses.repaired[1] <= 1200,
        "{losses}"
    );
    assert!(losses.traffic <= 1.3, "{losses}");
}
