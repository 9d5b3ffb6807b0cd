// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the tests with whole daemons share: a store with an image, daemons, and a kernel.

#![allow(dead_code)] // Each test uses a part of it.

mod image;
mod kernel;
pub mod process;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

pub use image::TestImage;
pub use kernel::FakeKernel;
use peerfs_daemon::config::{Config, DeviceChoice};
use peerfs_daemon::daemon::Daemon;
use peerfs_peer::Multiaddr;
use tempfile::TempDir;
use tokio::time::timeout;

/// A daemon over a store of its own, on the loopback interface.
pub struct TestDaemon {
    pub daemon: Daemon,
    pub root: TempDir,
}

impl TestDaemon {
    /// Starts one that knows these others.
    pub async fn start(bootstrap: Vec<Multiaddr>) -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), bootstrap, |_| ()).await
    }

    /// Starts one over this directory, with changes to its configuration.
    pub async fn start_with(
        root: TempDir,
        bootstrap: Vec<Multiaddr>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config {
            root_dir: store_dir(root.path()),
            state_dir: Some(root.path().join("state")),
            device: DeviceChoice::None,
            control_socket: root.path().join("control"),
            ..Config::default()
        };
        config.peer.listen = Some(vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
        config.peer.mdns = false;
        config.peer.bootstrap = bootstrap;
        change(&mut config);
        let daemon = soon(Daemon::start(&config, None)).await.unwrap();
        TestDaemon { daemon, root }
    }

    /// Where others reach it.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.daemon.node().listen_addresses()
    }

    /// A kernel that is served by it.
    pub fn kernel(&self) -> FakeKernel {
        FakeKernel::new(self.daemon.handler())
    }
}

/// The store in a test's directory.
pub fn store_dir(root: &Path) -> std::path::PathBuf {
    root.join("store")
}

/// Tests wait long for what must happen, so that a slow machine does not fail them.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future)
        .await
        .expect("within a minute")
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute: {what}");
}
