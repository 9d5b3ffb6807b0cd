// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A miss can be followed through the log: from the kernel's request to the peer and back.

#![forbid(unsafe_code)]

mod support;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use support::{store_dir, until, TestDaemon, TestImage};
use tracing::Level;

/// The log of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines that were written for a request of the kernel.
    fn of_request(&self, id: u64) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        let span = format!("upcall{{id={id}}}");
        let lines = text.lines().filter(|line| line.contains(&span));
        lines.map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_can_be_followed_to_the_peer_and_back() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let root = tempfile::tempdir().unwrap();
    let image = TestImage::build(&store_dir(root.path()), 20);
    let a = TestDaemon::start_with(root, Vec::new(), |_| ()).await;
    let b = TestDaemon::start(a.addresses()).await;
    let kernel = b.kernel();
    kernel.fetch_blob(&image, image.manifest).await.unwrap();
    kernel.fetch_chunks(&image, 3, 5, 0).await.unwrap();
    until("the answer is logged", || {
        log.of_request(2)
            .iter()
            .any(|line| line.contains("answered"))
    })
    .await;

    let lines = log.of_request(2);
    let (peer, pack) = (a.daemon.node().peer_id(), image.pack.digest);
    let mut rest = lines.iter();
    for (what, named) in [
        ("wanted", format!("content={pack}")),
        ("asks", format!("content={pack}")),
        ("sends a request", format!("peer={peer}")),
        ("ended", format!("peer {peer}")),
    ] {
        let found = rest.any(|line| line.contains(what) && line.contains(&named));
        assert!(found, "no {what} with {named} in {lines:#?}");
    }
    // Nothing of the one is told for the other.
    assert!(log
        .of_request(1)
        .iter()
        .all(|line| !line.contains(&pack.to_string())));
}
