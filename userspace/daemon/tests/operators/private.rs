// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Private swarms: keys by the command line, and daemons that have them or not.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::*;

/// Makes a key; returns its file and its fingerprint.
fn key(folder: &Path, name: &str) -> (PathBuf, String) {
    let path = folder.join(name);
    let mut new = Command::new(peerfs());
    let fingerprint = succeed(new.args(["key", "swarm"]).arg(&path));
    let mut show = Command::new(peerfs());
    let shown = succeed(show.args(["key", "swarm", "--show"]).arg(&path));
    assert_eq!(shown, fingerprint);
    (path, fingerprint.trim_end().to_owned())
}

/// A daemon that has this key and knows some others.
fn member(key: &Path, known: &[&Running]) -> Running {
    member_over(tempfile::tempdir().unwrap(), key, known)
}

fn member_over(root: TempDir, key: &Path, known: &[&Running]) -> Running {
    let addresses = known.iter().flat_map(|one| one.status().listen_addresses);
    let addresses: Vec<_> = addresses.collect();
    let more = format!("swarm_key = {key:?}\nbootstrap = {addresses:?}\n");
    Running::start_over(root, &more).0
}

/// A member that has an image, and the digest of that: the same for all.
fn giver(key: &Path) -> (Running, String) {
    let (daemon, image) = seed(300_000);
    let daemon = daemon.restart(&format!("swarm_key = {key:?}\n")).0;
    (daemon, image)
}

fn ids(daemon: &Running) -> Vec<String> {
    let peers = peers(daemon).peers.into_iter();
    peers.map(|peer| peer.id).collect()
}

#[test]
fn two_swarms_with_the_same_image_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ["one", "two"].map(|name| key(folder.path(), name));
    assert_ne!(keys[0].1, keys[1].1);
    let givers = keys.each_ref().map(|(key, _)| giver(key));
    assert_eq!(givers[0].1, givers[1].1);
    let image = &givers[0].1;
    let [one, two] = givers.each_ref().map(|(giver, _)| giver);
    // One that is open to all, and knows both.
    let (stranger, _) = Running::start_over(tempfile::tempdir().unwrap(), &knowing(one));
    for ((key, fingerprint), own) in keys.iter().zip([one, two]) {
        let taker = member(key, &[one, two, &stranger]);
        let id = own.status().node_id;
        until("its own swarm", || ids(&taker) == [id.clone()]);
        succeed(&mut taker.client("pull", &[image]));
        assert_eq!(ids(&taker), [id]);
        let said = taker.succeed("status", &[]);
        assert!(said.contains(fingerprint), "{said}");
    }
    // Who has another swarm's key waits for ever for what both givers have.
    let outside = member(&keys[0].0, &[two]);
    let mut pull = outside.client("pull", &[image]);
    let mut pull = pull.stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(Duration::from_secs(3));
    assert!(pull.try_wait().unwrap().is_none());
    kill(Pid::from_raw(pull.id() as i32), Signal::SIGINT).unwrap();
    pull.wait().unwrap();
    for daemon in [&outside, &stranger] {
        assert!(peers(daemon).peers.is_empty());
    }
    assert_eq!(activity(two).bytes_sent, activity(one).bytes_sent);
}

#[test]
fn a_key_that_cannot_be_used_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (path, _) = key(root.path(), "swarm.key");
    let refusal = || {
        let more = format!("swarm_key = {path:?}\n");
        let mut command = peerfsd();
        command.arg("--config").arg(configure(root.path(), &more));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let said = refusal();
    assert!(said.contains("chmod 600"), "{said}");
    let text = fs::read_to_string(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, text.replace("16", "64")).unwrap();
    let said = refusal();
    assert!(said.contains("/base16/"), "{said}");
    fs::remove_file(&path).unwrap();
    let said = refusal();
    assert!(said.contains("peerfs key swarm"), "{said}");
}

#[test]
fn a_key_is_seen_nowhere_and_may_be_a_credential() {
    let folder = tempfile::tempdir().unwrap();
    let (path, fingerprint) = key(folder.path(), "swarm.key");
    let text = fs::read_to_string(&path).unwrap();
    let digits = text.lines().nth(2).unwrap();
    let (stranger, _) = seed(1000);
    let root = tempfile::tempdir().unwrap();
    let more = format!("{}[log]\nlevel = \"trace\"\n", knowing(&stranger));
    let log = root.path().join("log");
    let mut command = peerfsd();
    command.arg("--config").arg(configure(root.path(), &more));
    command.env("CREDENTIALS_DIRECTORY", folder.path());
    command.stderr(File::create(&log).unwrap());
    let child = command.spawn().unwrap();
    let daemon = Running { child, root };
    until("it is started", || daemon.socket().exists());
    assert_eq!(daemon.status().private_swarm, Some(fingerprint));
    let logged = || fs::read_to_string(&log).unwrap();
    until("a handshake fails", || {
        logged().contains("cannot reach a bootstrap peer")
    });
    let process = format!("/proc/{}", daemon.child.id());
    let mut seen = logged();
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("{process}/{file}")).unwrap();
        seen += &String::from_utf8_lossy(&bytes);
    }
    seen += &daemon.succeed("status", &["--json"]);
    assert!(!seen.to_lowercase().contains(digits));
    // Nor as the bytes that derive(Debug) shows.
    let first = u8::from_str_radix(&digits[..2], 16).unwrap();
    let second = u8::from_str_radix(&digits[2..4], 16).unwrap();
    assert!(!seen.contains(&format!("[{first}, {second}, ")));
}

#[test]
fn another_key_waits_for_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ["one", "two"].map(|name| key(folder.path(), name));
    let giver = member(&keys[1].0, &[]);
    let daemon = member(&keys[0].0, &[&giver]);
    let more = format!("swarm_key = {:?}\n{}", keys[1].0, knowing(&giver));
    configure(daemon.root.path(), &more);
    kill(Pid::from_raw(daemon.child.id() as i32), Signal::SIGHUP).unwrap();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.status().private_swarm.as_ref(), Some(&keys[0].1));
    assert!(ids(&daemon).is_empty());
    let (daemon, _) = daemon.restart(&more);
    let id = giver.status().node_id;
    until("the other swarm", || ids(&daemon) == [id.clone()]);
}
