// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Swarms whose nodes are certified: keys, certificates and revocations by the command line.

use std::path::PathBuf;
use std::process::Output;

use super::*;

/// A swarm's key, and what its owner does with it.
struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority = Authority {
            folder: tempfile::tempdir().unwrap(),
        };
        succeed(authority.peerfs("key").arg("new"));
        authority
    }

    fn peerfs(&self, command: &str) -> Command {
        let mut process = Command::new(peerfs());
        process.arg(command);
        process.env("PEERFS_KEYS", self.folder.path().join("keys"));
        process
    }

    /// Makes a node a member; returns the file of its certificate.
    fn issue(&self, node: &str) -> PathBuf {
        self.issue_for(node, "90d")
    }

    /// The same for a time.
    fn issue_for(&self, node: &str, time: &str) -> PathBuf {
        let text = succeed(
            self.peerfs("member")
                .args(["issue", "--expires", time, node]),
        );
        let file = self.folder.path().join(format!("{node}.pem"));
        fs::write(&file, text).unwrap();
        let shown = succeed(self.peerfs("member").arg("show").arg(&file));
        assert!(shown.contains(node), "{shown}");
        file
    }

    /// Changes the list of revoked members, by a node's daemon.
    fn revoke(&self, by: &Running, arguments: &[&str]) -> Output {
        let mut revoke = self.peerfs("member");
        revoke.arg("revoke").args(arguments);
        revoke.arg("--root-dir").arg(by.store());
        revoke.arg("--socket").arg(by.socket());
        revoke.output().unwrap()
    }
}

/// A daemon that becomes a member, and knows some others.
fn join(authority: &Authority, daemon: Running, known: &[&Running]) -> Running {
    let certificate = authority.issue(&daemon.status().node_id);
    restart(daemon, &certificate, known)
}

fn restart(daemon: Running, certificate: &PathBuf, known: &[&Running]) -> Running {
    let addresses = known.iter().flat_map(|one| one.status().listen_addresses);
    let addresses: Vec<_> = addresses.collect();
    let more = format!("certificate = {certificate:?}\nbootstrap = {addresses:?}\n");
    daemon.restart(&more).0
}

fn new() -> Running {
    Running::start_over(tempfile::tempdir().unwrap(), "").0
}

fn ids(daemon: &Running) -> Vec<String> {
    let peers = peers(daemon).peers.into_iter();
    peers.map(|peer| peer.id).collect()
}

#[test]
fn members_exchange_until_they_are_revoked() {
    let [authority, other] = [Authority::new(), Authority::new()];
    let (giver, image) = seed(300_000);
    let giver = join(&authority, giver, &[]);
    let status = giver.status();
    assert!(giver
        .succeed("status", &[])
        .contains("a member of the swarm"));
    let taker = join(&authority, new(), &[&giver]);
    let second = join(&authority, new(), &[&giver]);
    let strangers = [new(), join(&other, new(), &[&giver])];
    let strangers = strangers.map(|daemon| daemon.restart(&knowing(&giver)).0);
    succeed(&mut taker.client("pull", &[&image]));
    until("both members", || ids(&giver).len() == 2);
    for stranger in &strangers {
        assert!(ids(stranger).is_empty());
    }

    // The list gets about among the members, and the one that is on it is cut off by all.
    let revoked = second.status().node_id;
    let done = authority.revoke(&taker, &["--expires", "2s", &revoked]);
    assert!(done.status.success(), "{done:?}");
    let taker_id = taker.status().node_id;
    until("one member", || ids(&giver) == [taker_id.clone()]);
    until("nobody", || ids(&second).is_empty());
    // Not even by waiting until the record has expired, and not by a restart.
    thread::sleep(Duration::from_secs(2));
    let certificate = authority
        .folder
        .path()
        .join(format!("{}.pem", status.node_id));
    let giver = restart(giver, &certificate, &[&taker]);
    let second_certificate = authority.folder.path().join(format!("{revoked}.pem"));
    let second = restart(second, &second_certificate, &[&giver, &taker]);
    until("the member again", || ids(&giver) == [taker_id.clone()]);
    thread::sleep(Duration::from_secs(3));
    assert!(ids(&second).is_empty());
    assert_eq!(ids(&giver), [taker_id]);

    // From another store the list can't be replaced by a shorter one.
    let done = authority.revoke(&giver, &["--undo", &revoked]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(
        !done.status.success() && said.contains("peerfs pull"),
        "{said}"
    );
    let done = authority.revoke(&taker, &["--undo", &revoked]);
    assert!(done.status.success(), "{done:?}");
    until("both members again", || ids(&giver).len() == 2);
}

#[test]
fn a_certificate_is_renewed_while_the_daemon_runs() {
    let authority = Authority::new();
    let giver = join(&authority, new(), &[]);
    let node = new();
    let id = node.status().node_id;
    let short = authority.issue_for(&id, "8s");
    let node = restart(node, &short, &[&giver]);
    until("both meet", || ids(&giver) == [id.clone()]);
    until("the certificate ends", || ids(&giver).is_empty());
    let reload = || kill(Pid::from_raw(node.child.id() as i32), Signal::SIGHUP).unwrap();
    // What is no certificate of this node in this swarm changes nothing.
    let other = Authority::new();
    fs::copy(other.issue(&id), &short).unwrap();
    reload();
    thread::sleep(Duration::from_secs(2));
    assert!(ids(&giver).is_empty());
    assert_eq!(node.status().node_id, id);
    authority.issue(&id);
    reload();
    until("both meet again", || ids(&giver) == [id.clone()]);
}

#[test]
fn a_certificate_that_is_not_the_nodes_is_refused() {
    let authority = Authority::new();
    let [mut one, two] = [new(), new()];
    let of_other = authority.issue(&two.status().node_id);
    let none = authority.folder.path().join("none.pem");
    let spoiled = authority.folder.path().join("spoiled.pem");
    fs::write(&spoiled, "-----BEGIN PEERFS MEMBER-----\nAAAA\n").unwrap();
    drop(two);
    one.stop(Signal::SIGTERM);
    for (file, problem) in [
        (&of_other, "peerfs member issue"),
        (&none, "No such file"),
        (&spoiled, "no certificate"),
    ] {
        let more = format!("certificate = {file:?}\n");
        let mut command = peerfsd();
        command
            .arg("--config")
            .arg(configure(one.root.path(), &more));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(problem), "{said}");
    }
}
