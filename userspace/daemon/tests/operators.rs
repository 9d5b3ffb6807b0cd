// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an operator sees of daemons that run, and does about bans.

#![forbid(unsafe_code)]

#[path = "operators/members.rs"]
mod members;
#[path = "operators/private.rs"]
mod private;
mod support;

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use peerfs_control::{ask, Activity, PeerDirection, Peers, Reply, Request};
use support::process::{configure, peerfs, peerfsd, succeed, Running};
use tempfile::TempDir;

/// A daemon that has an image of so many bytes, which do not compress, and the digest of that.
fn seed(length: usize) -> (Running, String) {
    let root = tempfile::tempdir().unwrap();
    let tree = root.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut state = 42_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 56) as u8
    });
    fs::write(tree.join("file"), bytes.take(length).collect::<Vec<_>>()).unwrap();
    let mut build = Command::new(peerfs());
    // The same bytes are the same image.
    build.env("SOURCE_DATE_EPOCH", "1");
    build.args(["build", "--tag", "seed", "--root-dir"]);
    let digest = succeed(build.arg(root.path().join("store")).arg(tree));
    let (daemon, _) = Running::start_over(root, "");
    (daemon, digest.trim_end().to_owned())
}

fn knowing(other: &Running) -> String {
    format!("bootstrap = {:?}\n", other.status().listen_addresses)
}

fn peers(daemon: &Running) -> Peers {
    serde_json::from_str(&daemon.succeed("peers", &["--json"])).unwrap()
}

fn activity(daemon: &Running) -> Activity {
    match ask(
        &daemon.socket(),
        &Request::Activity,
        Duration::from_secs(10),
    ) {
        Ok(Reply::Activity(activity)) => activity,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_gives_what_is_seen() {
    let (a, image) = seed(3_000_000);
    let (b, _) = Running::start_over(tempfile::tempdir().unwrap(), &knowing(&a));
    succeed(&mut b.client("pull", &[&image]));
    let (of_a, of_b) = (peers(&a), peers(&b));
    assert_eq!((of_a.peers.len(), of_b.peers.len()), (1, 1));
    let (giver, taker) = (&of_b.peers[0], &of_a.peers[0]);
    assert_eq!(giver.gives, [image]);
    assert!(
        giver.bytes_received > 3_000_000 && giver.receive_rate > 0,
        "{giver:?}"
    );
    assert_eq!(giver.bytes_received, taker.bytes_sent);
    assert_eq!(giver.direction, PeerDirection::Outbound);
    assert_eq!(taker.direction, PeerDirection::Inbound);
    assert!(giver.connected_ms > 0);
    let (at_a, at_b) = (activity(&a), activity(&b));
    assert_eq!(at_a.bytes_sent, taker.bytes_sent);
    assert!(at_b.bytes_by_source["peers"] > 3_000_000);
    assert_eq!(
        (at_b.network.bootstrap, at_b.network.bootstrap_connected),
        (1, 1)
    );
    assert!(at_b.open_files > 3 && at_b.open_files_max > at_b.open_files);
    until("the DHT", || activity(&b).network.dht_nodes == 1);
    assert!(b.succeed("top", &[]).contains(&giver.id));
    assert!(b.succeed("peers", &[]).contains(&giver.id));
}

#[test]
fn a_ban_of_the_file_holds_until_it_is_lifted() {
    let (a, image) = seed(100_000);
    let id = a.status().node_id;
    let root = tempfile::tempdir().unwrap();
    let state = root.path().join("state");
    fs::create_dir(&state).unwrap();
    let mut permissions = fs::metadata(&state).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o700);
    fs::set_permissions(&state, permissions).unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let line = format!("{id} 2 {} wrong bytes\n", now + 3000);
    fs::write(state.join("banned-peers"), line).unwrap();
    let (b, _) = Running::start_over(root, &knowing(&a));
    thread::sleep(Duration::from_secs(2));
    let banned = peers(&b);
    assert!(banned.peers.is_empty(), "{banned:?}");
    assert_eq!(
        (banned.banned[0].id.as_str(), banned.banned[0].times),
        (id.as_str(), 2)
    );
    assert!(b.fail("unban", &["12D3KooW"]).contains("no peer's id"));
    let own = b.status().node_id;
    assert!(b.fail("unban", &[&own]).contains("is not banned"));
    assert_eq!(b.succeed("unban", &[&id]), format!("{id}\n"));
    until("the peer is dialled", || peers(&b).peers.len() == 1);
    succeed(&mut b.client("pull", &[&image]));
    assert_eq!(b.succeed("unban", &["--all"]), "");
    let file = b.root.path().join("state/banned-peers");
    assert_eq!(fs::read_to_string(file).unwrap(), "");
}

#[test]
fn a_daemon_that_is_well_has_no_errors() {
    let (a, _) = seed(1000);
    let (b, _) = Running::start_over(tempfile::tempdir().unwrap(), &knowing(&a));
    until("connected", || !peers(&b).peers.is_empty());
    let mut doctor = Command::new(peerfs());
    doctor
        .args(["doctor", "--config"])
        .arg(b.root.path().join("peerfsd.toml"));
    let report = succeed(&mut doctor);
    for part in [
        "ok       configuration:",
        "ok       peerfsd:",
        "ok       bootstrap peers: 1 of 1",
        "ok       peers: 1 are connected",
        "ok       store:",
        "ok       state directory:",
        "warning  listening: for this machine only",
    ] {
        assert!(report.contains(part), "{part} in {report}");
    }
}

/// Starts a daemon over this directory at a port of its own.
fn start_at(root: TempDir, port: u16) -> Running {
    let config = configure(root.path(), "");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("/tcp/0", &format!("/tcp/{port}"));
    fs::write(&config, text).unwrap();
    let mut command = peerfsd();
    command.arg("--config").arg(config);
    Running::run(command, root).0
}

#[test]
fn after_a_stop_the_first_demand_is_served_soon() {
    let (mut a, image) = seed(100_000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let again = |a: &mut Running| {
        a.stop(Signal::SIGTERM);
        let root = std::mem::replace(&mut a.root, tempfile::tempdir().unwrap());
        start_at(root, port)
    };
    let mut a = again(&mut a);
    let (b, _) = Running::start_over(tempfile::tempdir().unwrap(), &knowing(&a));
    until("connected", || !peers(&b).peers.is_empty());
    let stopped = Pid::from_raw(b.child.id() as i32);
    kill(stopped, Signal::SIGSTOP).unwrap();
    // Meanwhile the peer is another process, which knows of no connection.
    let _a = again(&mut a);
    thread::sleep(Duration::from_secs(6));
    kill(stopped, Signal::SIGCONT).unwrap();
    let begun = Instant::now();
    succeed(&mut b.client("pull", &[&image]));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}
