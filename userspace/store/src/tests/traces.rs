// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Traces in a store: of two images and two workloads, damaged, planted, too many.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use peerfs_format::upcall::Workload;
use peerfs_format::Digest;
use peerfs_trace::{Part, Step, Trace};

use super::Source;
use crate::{Collect, Error, Keep, Recency, Store};

fn missed(image: Digest, workload: Workload, chunks: u32) -> Trace {
    let step = Step {
        after: Duration::ZERO,
        part: Part::Chunks {
            pack: 0,
            first: 0,
            count: chunks,
        },
    };
    Trace {
        steps: vec![step],
        ..Trace::new(image, workload)
    }
}

fn chunks(store: &Store, image: &Digest, workload: Workload) -> Option<u64> {
    let trace = store.trace(image, workload).unwrap();
    trace.map(|trace| trace.chunks())
}

#[test]
fn each_image_and_workload_has_its_own_and_they_go_with_the_image() {
    let (one, other) = (Source::new(3), Source::new(4));
    let store = one.store();
    one.fill(&store);
    other.fill(&store);
    let (first, second) = (one.image(&store), other.image(&store));
    let named = Workload::new("a.b").unwrap();
    let none = Workload::default();
    assert!(store.add_trace(&missed(first, none, 2)).unwrap());
    assert!(store.add_trace(&missed(first, named, 1)).unwrap());
    assert!(store.add_trace(&missed(second, named, 3)).unwrap());
    // What was missed later is added, and what is known is not.
    assert!(!store.add_trace(&missed(first, none, 1)).unwrap());
    assert!(store.add_trace(&missed(first, named, 2)).unwrap());
    for (image, workload, expected) in [
        (first, none, Some(2)),
        (first, named, Some(2)),
        (second, none, None),
        (second, named, Some(3)),
    ] {
        assert_eq!(chunks(&store, &image, workload), expected);
    }
    store
        .collect(&Keep::images([second]), Collect::DryRun)
        .unwrap();
    assert_eq!(store.traces().unwrap().len(), 3);
    store
        .collect(&Keep::images([second]), Collect::Really)
        .unwrap();
    assert_eq!(store.traces().unwrap(), [(second, named)]);
    assert!(store.remove_trace(&second, named).unwrap());
    assert_eq!(chunks(&store, &second, named), None);
}

#[test]
fn what_is_damaged_or_planted_is_an_error_and_replaced() {
    let source = Source::new(3);
    let store = source.store();
    let (image, none) = (Digest([9; 32]), Workload::default());
    let path = store.root_dir().join(format!("traces/{image}"));
    let secret = store.root_dir().join("secret");
    fs::write(&secret, "of somebody else").unwrap();
    store.add_trace(&missed(image, none, 2)).unwrap();
    let good = fs::read(&path).unwrap();

    let of_another = missed(Digest([8; 32]), none, 1).encode();
    for damaged in [&good[..90], &of_another, &vec![0; 1 << 20]] {
        fs::write(&path, damaged).unwrap();
        assert!(store.trace(&image, none).is_err());
        store.add_trace(&missed(image, none, 1)).unwrap();
        assert_eq!(chunks(&store, &image, none), Some(1));
        fs::write(&path, damaged).unwrap();
        assert!(store.remove_trace(&image, none).unwrap());
        assert!(!store.remove_trace(&image, none).unwrap());
    }
    symlink(&secret, &path).unwrap();
    assert!(matches!(
        store.trace(&image, none),
        Err(Error::NotARegularFile(_))
    ));
    store.add_trace(&missed(image, none, 1)).unwrap();
    assert_eq!(chunks(&store, &image, none), Some(1));
    assert_eq!(fs::read(&secret).unwrap(), b"of somebody else");
    // Names that are none of ours are left alone.
    fs::write(store.root_dir().join("traces/readme"), "").unwrap();
    assert_eq!(store.traces().unwrap().len(), 1);
}

#[test]
fn the_oldest_makes_room() {
    let source = Source::new(3);
    let store = source.store();
    for number in 0..520_u32 {
        let mut image = Digest([1; 32]);
        image.0[..4].copy_from_slice(&number.to_be_bytes());
        store
            .add_trace(&missed(image, Workload::default(), 1))
            .unwrap();
    }
    assert_eq!(store.traces().unwrap().len(), 512);
}

#[test]
fn a_trace_that_is_a_blob_is_kept_and_what_is_none_is_not() {
    let source = Source::new(3);
    let store = source.store();
    source.fill(&store);
    let image = source.image(&store);
    let trace = missed(image, Workload::default(), 2).encode();
    let trace = store.add_blob(&trace).unwrap();
    let lie = store.add_blob(b"no trace at all").unwrap();
    let keep = Keep {
        traces: vec![trace, lie, Digest([7; 32])],
        ..Keep::images([image])
    };
    store.evict(&keep, u64::MAX, &Recency::default()).unwrap();
    store.collect(&keep, Collect::Really).unwrap();
    assert!(store.has_blob(&trace) && !store.has_blob(&lie));
    store
        .collect(&Keep::images([image]), Collect::Really)
        .unwrap();
    assert!(!store.has_blob(&trace));
}
