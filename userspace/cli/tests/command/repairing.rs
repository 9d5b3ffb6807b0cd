// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A damaged store that a daemon mends.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{change, Fixture};
use crate::running::{fail, peerfs, program_of, succeed};
use peerfs_format::Digest;

/// A daemon, until it is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_damaged_is_fetched_again() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path();
    let copy = folder.join("copy");
    succeed(Command::new("cp").arg("-a").arg(fixture.store()).arg(&copy));
    let manifest = fixture.read_manifest().1;
    let (pack, _) = fixture.pack();
    let damage = |digest: &Digest| {
        change(&fixture.blob(digest), |bytes| bytes[100] ^= 1);
    };
    let repair = || {
        let mut process = peerfs(&fixture.store(), "verify");
        process
            .arg("--repair")
            .arg("--socket")
            .arg(folder.join("socket"));
        process
    };
    damage(&pack.digest);
    let (_, message) = fail(&mut repair());
    assert!(message.contains("can't reach peerfsd"), "{message}");

    let config = format!(
        "[[source]]\ndirectory = {copy:?}\n\
         [peer]\nmdns = false\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n"
    );
    fs::write(folder.join("config"), config).unwrap();
    let mut daemon = Command::new(program_of("peerfs-daemon", "peerfsd"));
    daemon
        .args(["--device", "none", "--root-dir"])
        .arg(fixture.store());
    daemon.arg("--config").arg(folder.join("config"));
    daemon.arg("--state-dir").arg(folder.join("state"));
    daemon.arg("--control-socket").arg(folder.join("socket"));
    let _daemon = Daemon(daemon.stderr(Stdio::null()).spawn().unwrap());
    let begin = Instant::now();
    while !folder.join("socket").exists() && begin.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(10));
    }
    succeed(&mut repair());
    for digest in [pack.index_digest, manifest.blob_table, pack.digest] {
        damage(&digest);
        succeed(&mut repair());
        succeed(peerfs(&fixture.store(), "verify").arg("--complete"));
    }
}
