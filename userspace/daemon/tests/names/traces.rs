// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Traces that go with names.

use std::process::Command;
use std::time::Duration;

use peerfs_format::upcall::Workload;
use peerfs_names::Record;
use peerfs_store::Store;
use peerfs_trace::{Part, Step, Trace};

use crate::support::process::{peerfs, succeed};
use crate::{alone, build, connected, knowing, Publisher};

#[test]
fn a_trace_goes_with_a_name_and_outlives_a_collection() {
    let publisher = alone();
    let image = build(publisher.root.path(), "traced");
    let keys = publisher.root.path().join("keys");
    let store = publisher.store();
    let command = |arguments: &[&str]| {
        let mut process = Command::new(peerfs());
        process.args(arguments).env("PEERFS_KEYS", &keys);
        process
    };
    let key = succeed(command(&["key", "new"]).arg("--keys").arg(&keys));
    let publish = |of: &str, trace: &str| {
        let mut process = command(&["publish", of, "traced", trace, "--root-dir"]);
        process.arg(&store).arg("--socket").arg(publisher.socket());
        process
    };
    let refused = publish("base", "--trace").output().unwrap();
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("no trace of image"), "{message}");
    let trace = |first| Trace {
        steps: vec![Step {
            after: Duration::ZERO,
            part: Part::Chunks {
                pack: 0,
                first,
                count: 1,
            },
        }],
        ..Trace::new(image.parse().unwrap(), Workload::default())
    };
    let stored = Store::open(&store).unwrap();
    stored.add_trace(&trace(0)).unwrap();
    succeed(&mut publish("base", "--trace"));
    // What is noted here later, and what is collected, does not change what was published.
    stored.add_trace(&trace(9)).unwrap();
    // Who signs a name says that what is there is a trace: it keeps nothing, and stops nothing.
    let table = stored
        .read_manifest(&image.parse().unwrap())
        .unwrap()
        .blob_table;
    let liar = Publisher::new();
    let lie = Record {
        manifest: image.parse().unwrap(),
        trace: Some(table),
        issued: 0,
        ..liar.record(1, 1)
    };
    crate::publish(&publisher, &lie.sign(&liar.key).unwrap()).unwrap();
    let left = stored.add_blob(b"what nobody needs").unwrap();
    publisher.succeed("gc", &["--root-dir", store.to_str().unwrap()]);
    assert!(!stored.has_blob(&left));

    let reader = knowing(&[&publisher]);
    connected(&reader, 1);
    let of = format!("{}/base", key.trim_end());
    reader.succeed("pull", &["--lazy", &of]);
    let problem = reader.fail("warm", &["--trace", "cc1", &image]);
    assert!(problem.contains("no trace of image"), "{problem}");
    assert_eq!(reader.succeed("warm", &[&image]).trim_end(), image);
    let there = Store::open(&reader.store()).unwrap();
    let found = there.trace(&image.parse().unwrap(), Workload::default());
    assert_eq!(found.unwrap().unwrap().chunks(), 1);
    let inventory = there.inventory(&image.parse().unwrap()).unwrap();
    let here = inventory.blobs.iter().map(|blob| blob.present_chunks);
    assert_eq!(here.sum::<u32>(), 1);
}
