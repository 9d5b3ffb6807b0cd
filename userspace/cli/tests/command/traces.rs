// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Traces in Debian's docker-registry, beside the images that they are of.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use peerfs_format::upcall::Workload;
use peerfs_format::Digest;
use peerfs_trace::{Part, Step, Trace};

use crate::docker_registry::Registry;
use crate::fixture::Fixture;
use crate::running::{build, fail, peerfs, succeed};

fn trace(image: &str, workload: &str, chunk: u32) -> Trace {
    let image: Digest = image.parse().unwrap();
    Trace {
        steps: vec![Step {
            after: Duration::from_millis(7),
            part: Part::Chunks {
                pack: 0,
                first: chunk,
                count: 1,
            },
        }],
        ..Trace::new(image, Workload::new(workload).unwrap_or_default())
    }
}

fn import(store: &Path, trace: &Trace) {
    let file = store.with_extension("trace");
    fs::write(&file, trace.encode()).unwrap();
    let mut import = peerfs(store, "trace");
    succeed(import.arg("import").arg(file));
}

/// Image, workload and first chunk of each trace of a store.
fn listed(store: &Path) -> Vec<(String, String, u32)> {
    let list = succeed(peerfs(store, "trace").args(["list", "--json"]));
    let list = String::from_utf8(list).unwrap();
    let lines = list.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let image = line["image"].as_str().unwrap().to_owned();
        let workload = line["workload"].as_str().unwrap_or_default().to_owned();
        let mut show = peerfs(store, "trace");
        show.args(["show", "--json", &image]);
        if !workload.is_empty() {
            show.args(["--workload", &workload]);
        }
        let step: serde_json::Value = serde_json::from_slice(&succeed(&mut show)).unwrap();
        let first = step["chunks"]["first"].as_u64().unwrap();
        (image, workload, first as u32)
    });
    lines.collect()
}

#[test]
fn who_pulls_an_image_gets_the_traces_that_are_beside_it() {
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let repository = format!("{}/t/traced", registry.address);
    let fixture = Fixture::new();
    let store = fixture.store();
    let one = fixture.manifest.to_string();
    fs::write(fixture.tree().join("file"), "another one").unwrap();
    let two = build(&fixture.tree(), &store, "two", &[]);
    let [first, second] = ["1", "2"].map(|tag| format!("{repository}:{tag}"));
    for (image, reference) in [(&one, &first), (&two, &second)] {
        succeed(peerfs(&store, "push").args([image, reference]));
    }
    let push = |image: &str, more: &[&str]| {
        let mut push = peerfs(&store, "trace");
        push.args(["push", image, &repository]).args(more);
        push
    };
    let (_, message) = fail(&mut push(&one, &[]));
    assert!(message.contains("no trace"), "{message}");
    for (workload, chunk) in [("", 1), ("cc1", 2)] {
        import(&store, &trace(&one, workload, chunk));
    }
    // Twice is once.
    for more in [&[][..], &["--workload", "cc1"], &[]] {
        let pushed = succeed(&mut push(&one, more));
        assert_eq!(String::from_utf8(pushed).unwrap().trim(), one);
    }
    // Somebody has those of the first image pass for those of the second.
    let tagged = |image: &str| format!("docker://{repository}:peerfs-trace-{image}");
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", "--src-tls-verify=false"]);
    copy.args(["--dest-tls-verify=false", &tagged(&one), &tagged(&two)]);
    succeed(&mut copy);

    let pull = |store: &Path, reference: &str| {
        let mut pull = peerfs(Path::new("/nowhere"), "pull");
        succeed(pull.arg("--root-dir").arg(store).arg(reference));
    };
    let folder = registry.folder.path();
    let new = folder.join("new");
    pull(&new, &first);
    pull(&new, &second);
    let of_one = |workload: &str, chunk| (one.clone(), workload.to_owned(), chunk);
    assert_eq!(listed(&new), [of_one("", 1), of_one("cc1", 2)]);
    // What was noted here is better.
    let own = folder.join("own");
    let mut init = peerfs(Path::new("/nowhere"), "pull");
    succeed(init.arg("--root-dir").arg(&own).arg(&second));
    import(&own, &trace(&one, "", 3));
    pull(&own, &first);
    assert_eq!(listed(&own), [of_one("", 3), of_one("cc1", 2)]);
}

/// A way to a registry on which whoever asks for a trace is never answered.
fn without_answers_of_traces(registry: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let registry = registry.to_owned();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&registry).unwrap());
            let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut from, &mut to));
            thread::spawn(move || ask(client, server));
        }
    });
    address
}

/// Passes on what a client asks, until it asks for a trace.
fn ask(mut client: TcpStream, mut server: TcpStream) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let asked = String::from_utf8_lossy(&bytes[..count]);
        if asked.contains("peerfs-trace-") {
            // Until the client gives up.
            let _ = client.read(&mut bytes);
            return;
        }
        server.write_all(&bytes[..count]).unwrap();
    }
}

#[test]
fn a_registry_that_says_nothing_of_traces_does_not_hold_up_who_pulls() {
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let fixture = Fixture::new();
    let manifest = fixture.manifest.to_string();
    let reference = format!("{}/t/traced:1", registry.address);
    succeed(peerfs(&fixture.store(), "push").args([&manifest, &reference]));
    let way = without_answers_of_traces(&registry.address);
    let store = registry.folder.path().join("new");
    let mut pull = peerfs(Path::new("/nowhere"), "pull");
    pull.arg("--root-dir").arg(&store);
    let begun = Instant::now();
    succeed(pull.arg(format!("{way}/t/traced:1")));
    assert!(begun.elapsed() < Duration::from_secs(10), "{begun:?}");
    assert!(listed(&store).is_empty());
}
