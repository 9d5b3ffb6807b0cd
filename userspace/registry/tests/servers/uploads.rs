// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is put into a registry.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerfs_format::Digest;
use peerfs_names::{ImageSignature, SignatureManifest};
use peerfs_registry::{Content, Error, Uploaded};

use crate::{sha256, Reply, Server};

struct Bytes(&'static [u8]);

impl Content for Bytes {
    fn digest(&self) -> Digest {
        sha256(b"0123456789")
    }

    fn length(&self) -> u64 {
        10
    }

    fn open(&self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.0))
    }
}

/// A registry without blobs, whose uploads end with this status at first.
async fn empty_registry(first: u16) -> Server {
    let failures = AtomicU64::new(u64::from(first != 201));
    Server::start(move |asked| {
        let method = asked.line.split(' ').next().unwrap();
        Some(match method {
            "HEAD" => Reply::new(404, &[], b""),
            "POST" => Reply::new(202, &["location: /upload/7?state=s"], b""),
            "PUT" if failures.swap(0, Ordering::Relaxed) == 1 => Reply::new(first, &[], b""),
            "PUT" => Reply::new(201, &[], b""),
            _ => Reply::new(200, &[], b"{}"),
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_tried_again_and_what_failed_of_it_does_not_count() {
    let server = empty_registry(500).await;
    let content: Arc<dyn Content> = Arc::new(Bytes(b"0123456789"));
    let sent = Arc::default();
    let done = server.remote().upload(&content, None, &sent).await.unwrap();
    assert_eq!(done, Uploaded::Sent);
    assert_eq!(sent.load(Ordering::Relaxed), 10);
    let puts: Vec<_> = server
        .asked()
        .into_iter()
        .filter(|asked| asked.line.starts_with("PUT"))
        .collect();
    assert_eq!(puts.len(), 2);
    for put in puts {
        assert_eq!(put.body, b"0123456789");
        let digest = format!("digest=sha256%3A{}", sha256(b"0123456789"));
        assert!(
            put.line.contains("state=s") && put.line.contains(&digest),
            "{}",
            put.line
        );
    }
    // One whose content ends early is not.
    let server = empty_registry(201).await;
    let content: Arc<dyn Content> = Arc::new(Bytes(b"012"));
    let sent = Arc::default();
    let failed = server.remote().upload(&content, None, &sent).await;
    assert!(matches!(failed, Err(Error::Content(_))), "{failed:?}");
    assert_eq!(server.lines("POST"), 1);
    assert_eq!(sent.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_uploads_elsewhere_and_refuses_them_is_not_called_busy() {
    let storage = Server::start(|_| Some(Reply::new(401, &[], b""))).await;
    let place = format!("location: http://{}/upload", storage.address);
    let server = Server::start(move |asked| {
        let method = asked.line.split(' ').next().unwrap();
        Some(match method {
            "HEAD" => Reply::new(404, &[], b""),
            "POST" => Reply::new(202, &[&place], b""),
            _ => Reply::new(200, &[], b"{}"),
        })
    })
    .await;
    let content: Arc<dyn Content> = Arc::new(Bytes(b"0123456789"));
    let refused = server
        .remote()
        .upload(&content, None, &Arc::default())
        .await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    assert_eq!(storage.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_long_to_write_is_waited_for() {
    let server = Server::start(|asked| {
        let is_put = asked.line.starts_with("PUT");
        if is_put {
            // Longer than whoever reads waits for.
            std::thread::sleep(Duration::from_secs(17));
        }
        Some(Reply::new(if is_put { 201 } else { 200 }, &[], b""))
    })
    .await;
    let remote = server.remote();
    remote.put_document("1", "x/y", b"{}").await.unwrap();
    assert_eq!(server.lines("PUT"), 1);
}

fn signature(number: u8) -> ImageSignature {
    ImageSignature {
        payload: vec![number; 10],
        signature: vec![number; 70],
    }
}

/// A registry that has no blob and one tag, and in which somebody else has signed whenever a manifest is about to be put: `meddle`
/// says how often. `compares` is whether it looks at conditions.
async fn signers(compares: bool, meddle: u8) -> (Server, Arc<Mutex<Option<Vec<u8>>>>) {
    let tag = Arc::<Mutex<Option<Vec<u8>>>>::default();
    let (kept, meddled) = (Arc::clone(&tag), AtomicU64::new(0));
    let etag = |bytes: &[u8]| format!("\"sha256:{}\"", sha256(bytes));
    let with = |bytes: Option<&[u8]>, number| {
        let mut manifest = bytes
            .map(|bytes| SignatureManifest::parse(bytes).unwrap())
            .unwrap_or_default();
        manifest.add(&signature(number));
        manifest.to_bytes().1
    };
    let server = Server::start(move |asked| {
        let (method, path) = asked.line.split_once(' ').unwrap();
        let mut kept = kept.lock().unwrap();
        Some(match method {
            "GET" if path.contains("/manifests/") => match kept.as_deref() {
                Some(bytes) if compares => {
                    Reply::new(200, &[&format!("etag: {}", etag(bytes))], bytes)
                }
                Some(bytes) => Reply::new(200, &[], bytes),
                None => Reply::new(404, &[], b""),
            },
            "PUT" if path.contains("/manifests/") => {
                let number = meddled.fetch_add(1, Ordering::Relaxed) as u8;
                let before = kept.clone();
                if number < meddle {
                    *kept = Some(with(before.as_deref(), 100 + number));
                }
                let is_old = match (asked.header("if-match"), asked.header("if-none-match")) {
                    (Some(tag), _) => kept.as_deref().map(etag).as_deref() != Some(tag),
                    (None, Some(_)) => kept.is_some(),
                    (None, None) => false,
                };
                if compares && is_old {
                    return Some(Reply::new(412, &[], b""));
                }
                *kept = Some(asked.body.clone());
                if !compares && number < meddle {
                    // Who had read what was there before puts theirs over it.
                    *kept = Some(with(before.as_deref(), 100 + number));
                }
                Reply::new(201, &[], b"")
            }
            "HEAD" => Reply::new(404, &[], b""),
            "POST" => Reply::new(202, &["location: /upload"], b""),
            "PUT" => Reply::new(201, &[], b""),
            _ => Reply::new(200, &[], b"{}"),
        })
    })
    .await;
    (server, tag)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_sign_at_once_none_is_lost() {
    for compares in [true, false] {
        let (server, tag) = signers(compares, 2).await;
        let image = sha256(b"an index");
        server
            .remote()
            .add_signature(&image, &signature(1))
            .await
            .unwrap();
        let manifest = SignatureManifest::parse(tag.lock().unwrap().as_deref().unwrap()).unwrap();
        for number in [1, 100, 101] {
            assert!(manifest.has(&signature(number)), "{compares} {number}");
        }
    }
    // Who is never heard gives up.
    let (server, _) = signers(true, u8::MAX).await;
    let image = sha256(b"an index");
    let refused = server.remote().add_signature(&image, &signature(1)).await;
    assert!(
        matches!(refused, Err(Error::Contended { .. })),
        "{refused:?}"
    );
}
