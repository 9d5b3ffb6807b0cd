// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Ranges of packs, and registries that take their time.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use peerfs_registry::Options;
use peerfs_store::Reference;

use super::*;

/// A registry that wants a token, which takes longer than anybody waits for what a source has.
fn slow_registry() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let realm = format!("http://{address}/token");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let realm = realm.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).split(b'\n');
                let mut head = String::new();
                while let Some(Ok(line)) = lines.next() {
                    let line = String::from_utf8_lossy(&line);
                    head += &line;
                    if !line.trim_end().is_empty() {
                        continue;
                    }
                    let (status, body) = match &*head {
                        head if head.contains("/token") => {
                            std::thread::sleep(HAVE_TIMEOUT + Duration::from_secs(1));
                            ("200 x", "{\"token\":\"t\"}")
                        }
                        head if head.contains("Bearer t") => ("200 x", ""),
                        _ => ("401 x", ""),
                    };
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nwww-authenticate: Bearer realm=\"{realm}\"\r\n\
                         content-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if (&stream).write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                    head.clear();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_token_that_comes_slowly_is_waited_for_once() {
    let reference = format!("{}/a/b", slow_registry());
    let Ok(Reference::Registry(reference)) = reference.parse() else {
        panic!("{reference}");
    };
    let options = Options {
        plain_http: true,
        ..Options::default()
    };
    let remote = Remote::repository(&reference, &options).unwrap();
    let source = RemoteSource::new(remote);
    let subject = Subject::Blob {
        manifest: Digest([1; 32]),
    };
    let mut in_vain = 0;
    let have = loop {
        match source.have(Digest([2; 32]), &subject).await {
            Ok(have) => break have,
            // Whoever asks while it is waited for is told to come later.
            Err(_) if in_vain < 20 => {
                in_vain += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(matches!(have, Have::Complete) && in_vain > 0);
}

fn chunk(number: u32, stored_offset: u32, stored_length: u32) -> (u32, ChunkRecord) {
    let record = ChunkRecord {
        digest: Digest([0; 32]),
        logical_offset: stored_offset,
        stored_offset,
        logical_length: stored_length,
        stored_length,
        codec: 0,
    };
    (number, record)
}

#[test]
fn what_is_near_is_asked_for_at_once() {
    let ranges = |chunks: &[(u32, ChunkRecord)], longest| -> Vec<(u64, u64)> {
        let runs = runs(chunks.iter().copied(), longest);
        runs.iter()
            .map(|run| (run.range.start, run.range.end))
            .collect()
    };
    let neighbours = [chunk(5, 50, 10), chunk(2, 20, 10), chunk(3, 30, 20)];
    assert_eq!(ranges(&neighbours, RUN_MAX), [(20, 60)]);
    let gap = GAP_MAX as u32;
    let near = [chunk(1, 0, 10), chunk(9, 10 + gap, 10)];
    assert_eq!(ranges(&near, RUN_MAX), [(0, 20 + GAP_MAX)]);
    let far = [chunk(1, 0, 10), chunk(9, 11 + gap, 10)];
    assert_eq!(ranges(&far, RUN_MAX).len(), 2);
    assert_eq!(ranges(&neighbours, 30), [(20, 50), (50, 60)]);
    let run = &runs(near.into_iter(), RUN_MAX)[0];
    assert_eq!(run.wanted(), 20);
    // A pack whose index lies has no run that ends before it begins.
    let overlapping = [chunk(1, 0, 10), chunk(2, 5, 10)];
    assert_eq!(ranges(&overlapping, RUN_MAX), [(0, 10), (5, 15)]);
}
