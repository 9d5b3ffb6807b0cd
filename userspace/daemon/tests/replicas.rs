// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images that willing nodes keep, between daemons as processes.

#![forbid(unsafe_code)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use nix::sys::signal::Signal;
use peerfs_control::{
    ask, PinOrigin, PublisherStatus, ReplicaHere, ReplicaStatus, ReplicasStatus, Reply, Request,
};
use peerfs_format::Digest;
use peerfs_names::{Record, SecretKey};
use peerfs_replica::account::{account_name, Account, Entry};
use peerfs_store::Store;
use support::process::{peerfs, succeed, Running};
use support::TestImage;

/// Tests wait long for what must happen.
const PATIENCE: Duration = Duration::from_secs(120);
/// Sooner than an operator would have it.
const PACE: &str = "check_interval = '1s'\npatience = '4s'\n";
/// Bytes that nodes grant, of images that have less.
const GRANT: u64 = 10 << 20;

/// Who has images kept, with a daemon and a key.
struct Publisher {
    daemon: Running,
    key: String,
}

impl Publisher {
    /// With images of so many chunks.
    fn new(images: &[u32]) -> (Self, Vec<TestImage>) {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        let images = images
            .iter()
            .map(|chunks| TestImage::build(&store, *chunks));
        let images = images.collect();
        let (daemon, _) = Running::start_over(root, &format!("[replicate]\n{PACE}"));
        let keys = daemon.root.path().join("keys");
        let key = succeed(
            Command::new(peerfs())
                .args(["key", "new", "--keys"])
                .arg(keys),
        );
        let key = key.trim().to_owned();
        (Publisher { daemon, key }, images)
    }

    fn replicas(&self, command: &str, more: &[&str]) -> String {
        let mut process = Command::new(peerfs());
        process
            .args(["replicas", command, "--socket"])
            .arg(self.daemon.socket());
        process.arg("--root-dir").arg(self.daemon.store());
        process
            .arg("--keys")
            .arg(self.daemon.root.path().join("keys"));
        succeed(process.args(more))
    }

    fn secret(&self) -> SecretKey {
        let path = self.daemon.root.path().join("keys/default.pem");
        SecretKey::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The configuration of a node that keeps images of this publisher, so many bytes of them.
    fn settings(&self, grant: u64) -> String {
        let addresses = self.daemon.status().listen_addresses;
        format!(
            "bootstrap = {addresses:?}\n[replicate]\nbytes = 1000000000\npublishers = {{ {} = {grant} }}\n{PACE}",
            self.key
        )
    }

    fn node(&self, grant: u64) -> Running {
        Running::start_over(tempfile::tempdir().unwrap(), &self.settings(grant)).0
    }
}

fn replicas(daemon: &Running) -> ReplicasStatus {
    match ask(&daemon.socket(), &Request::Replicas, PATIENCE) {
        Ok(Reply::Replicas(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// What a daemon knows of the only publisher.
fn account(daemon: &Running) -> PublisherStatus {
    replicas(daemon)
        .publishers
        .into_iter()
        .next()
        .unwrap_or_default()
}

fn replica(daemon: &Running, image: &TestImage) -> ReplicaStatus {
    let of = image.manifest.to_string();
    let images = account(daemon).images.into_iter();
    images
        .into_iter()
        .find(|known| known.image == of)
        .unwrap_or_default()
}

/// Those of the nodes that have all of an image.
fn holders(nodes: &[Option<Running>], image: &TestImage) -> BTreeSet<usize> {
    let of = image.manifest.to_string();
    let has = |node: &Running| {
        let images = node.status().images;
        let mut images = images.iter().filter(|known| known.manifest == of);
        images.any(|known| known.present_bytes == known.total_bytes && known.total_bytes > 0)
    };
    let nodes = nodes.iter().enumerate();
    let holders = nodes.filter(|(_, node)| node.as_ref().is_some_and(has));
    holders.map(|(number, _)| number).collect()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn two_of_six_nodes_die_and_there_are_three_copies_again() {
    let (publisher, images) = Publisher::new(&[20, 7]);
    let mut nodes: Vec<Option<Running>> = (0..6).map(|_| Some(publisher.node(GRANT))).collect();
    for image in &images {
        let digest = image.manifest.to_string();
        let printed = publisher.replicas("add", &[&digest]);
        assert_eq!(printed.trim(), digest);
    }
    for image in &images {
        until("three have it", || {
            holders(&nodes, image).len() >= 3 && replica(&publisher.daemon, image).proven == Some(3)
        });
    }
    let first = images.iter().map(|image| holders(&nodes, image));
    let first: Vec<BTreeSet<usize>> = first.collect();
    // On a busy machine one takes the place of another that is slow.
    assert!(first.iter().all(|holders| holders.len() <= 4), "{first:?}");
    let one = nodes[*first[0].first().unwrap()].as_ref().unwrap();
    assert_eq!(replica(one, &images[0]).here, ReplicaHere::Kept);
    let pins = one.status().pins;
    assert!(pins.iter().any(|pin| pin.origin == PinOrigin::Replica));
    let mut list = Command::new(peerfs());
    list.args(["replicas", "list", "--socket"])
        .arg(publisher.daemon.socket());
    assert!(succeed(&mut list).contains("3/3"));

    for number in first[0].iter().take(2) {
        let mut dead = nodes[*number].take().unwrap();
        dead.stop(Signal::SIGKILL);
    }
    for image in &images {
        until("three have it again", || {
            holders(&nodes, image).len() >= 3 && replica(&publisher.daemon, image).proven >= Some(3)
        });
    }
    // It is remembered over a restart, and the publisher is not needed for that.
    let kept = *holders(&nodes, &images[0]).first().unwrap();
    let publisher_key = publisher.key.clone();
    drop(publisher);
    let more =
        format!("[replicate]\nbytes = 1000000000\npublishers = {{ {publisher_key} = {GRANT} }}\n");
    let (again, _) = nodes[kept].take().unwrap().restart(&more);
    until("it is known", || {
        replica(&again, &images[0]).here == ReplicaHere::Kept
    });
    assert!(again
        .status()
        .pins
        .iter()
        .any(|pin| pin.origin == PinOrigin::Replica));
}

#[test]
fn what_is_over_the_grant_or_a_lie_is_not_kept_and_two_accounts_for_one_place_are_fraud() {
    let (publisher, images) = Publisher::new(&[10, 5, 3]);
    let [first, second, third] = &images[..] else {
        panic!("there are three");
    };
    // The first image fits the grant, the second one does not.
    let node = publisher.node(11 * 20_000);
    let stranger = publisher.node(0);
    for image in [first, second] {
        publisher.replicas("add", &[&image.manifest.to_string(), "--copies", "1"]);
    }
    until("it keeps what fits", || {
        let (one, other) = (replica(&node, first), replica(&node, second));
        one.here == ReplicaHere::Kept && other.refused
    });
    let problem = account(&node).problem.unwrap();
    assert!(
        problem.contains("1 images") && problem.contains("grants"),
        "{problem}"
    );
    until("it refuses all", || {
        let images = account(&stranger).images;
        images.len() == 2 && images.iter().all(|image| image.refused)
    });

    // An account that says that an image is smaller than it is.
    publisher.replicas("remove", &[&second.manifest.to_string()]);
    let secret = publisher.secret();
    let sign = |sequence, account: &Account| {
        let store = Store::open(&publisher.daemon.store()).unwrap();
        let record = Record {
            name: account_name(secret.public()),
            signer: secret.public(),
            sequence,
            issued: 1,
            expires: 4_102_444_800,
            manifest: store.add_blob(&account.to_bytes()).unwrap(),
            trace: None,
            replicas: 0,
            grant: None,
        };
        BASE64.encode(record.sign(&secret).unwrap().bytes())
    };
    let publish = |daemon: &Running, record: String| match ask(
        &daemon.socket(),
        &Request::Publish { record },
        PATIENCE,
    ) {
        Ok(Reply::Name(_)) => (),
        other => panic!("{other:?}"),
    };
    let entry = |image: Digest, bytes| Entry {
        image,
        bytes,
        copies: 1,
    };
    let honest = entry(first.manifest, 10 * 20_000);
    let lie = Account::new(vec![honest, entry(third.manifest, 10)]).unwrap();
    publish(&publisher.daemon, sign(10, &lie));
    until("the lie is seen", || {
        replica(&node, third).here == ReplicaHere::TooLarge
    });
    assert_eq!(replica(&node, first).here, ReplicaHere::Kept);

    // Two accounts for one place: one goes to the publisher's daemon, the other one comes from elsewhere.
    let (one, other) = (Account::default(), Account::new(vec![honest]).unwrap());
    let (one, other) = (sign(11, &one), sign(11, &other));
    publish(&publisher.daemon, one);
    until("it is known", || account(&node).sequence == Some(11));
    publish_rival(other, &node);
    let before = account(&node).images;
    let is_told = |daemon: &Running| {
        let problem = account(daemon).problem;
        problem.is_some_and(|problem| problem.contains("signed two accounts"))
    };
    until("the fraud is told", || is_told(&node));
    publish(&node, sign(12, &lie));
    thread::sleep(Duration::from_secs(2));
    assert!(is_told(&node), "also when there is a newer one");
    assert_eq!(account(&node).images, before, "nothing new is accepted");
    let proof = node
        .root
        .path()
        .join(format!("state/replicas/{}.fraud", publisher.key));
    assert!(proof.exists());
}

/// Tells `node` a rival of what it knows, by way of a daemon that knows nothing yet.
fn publish_rival(record: String, node: &Running) {
    let addresses = node.status().listen_addresses;
    let more = format!("bootstrap = {addresses:?}\n");
    let alone = Running::start(&[]);
    match ask(&alone.socket(), &Request::Publish { record }, PATIENCE) {
        Ok(Reply::Name(_)) => (),
        other => panic!("{other:?}"),
    }
    let (known, _) = alone.restart(&more);
    until("it is met", || !known.status().peers.is_empty());
    // Until it has told.
    thread::sleep(Duration::from_secs(3));
}

#[test]
fn an_image_is_published_with_copies_in_the_place_of_the_one_before() {
    let (publisher, images) = Publisher::new(&[4, 5]);
    let publish = |name: &str, image: &TestImage| {
        let mut process = Command::new(peerfs());
        process.args(["publish", "--replicas", "2", "--socket"]);
        process.arg(publisher.daemon.socket());
        process.arg("--root-dir").arg(publisher.daemon.store());
        process
            .arg("--keys")
            .arg(publisher.daemon.root.path().join("keys"));
        process
            .arg(name)
            .arg(image.manifest.to_string())
            .output()
            .unwrap()
    };
    let kept = || -> Vec<(String, u64, u64)> {
        let images = account(&publisher.daemon).images.into_iter();
        images
            .map(|known| (known.image, known.bytes, known.copies))
            .collect()
    };
    for (image, chunks) in images.iter().zip([4, 5]) {
        assert!(publish("team/base", image).status.success());
        let expected = [(image.manifest.to_string(), chunks * 20_000, 2)];
        until("it is to be kept", || kept() == expected);
    }
    let refused = publish("peerfs-account", &images[0]);
    let problem = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && problem.contains("peerfs replicas add"),
        "{problem}"
    );
    publisher.replicas("renew", &[]);
    publisher.replicas("remove", &[&images[1].manifest.to_string()]);
    until("nothing is", || kept().is_empty());
}

#[test]
fn who_claims_to_have_an_image_and_has_not_is_replaced_and_not_banned() {
    let (publisher, images) = Publisher::new(&[12]);
    let image = &images[0];
    let mut nodes: Vec<Option<Running>> = (0..2).map(|_| Some(publisher.node(GRANT))).collect();
    publisher.replicas("add", &[&image.manifest.to_string(), "--copies", "1"]);
    let kept = |node: &Running| replica(node, image).here == ReplicaHere::Kept;
    let mut holder = None;
    until("one has it", || {
        holder = nodes
            .iter()
            .position(|node| node.as_ref().is_some_and(kept));
        holder.is_some()
    });
    let holder = holder.unwrap();
    let [liar, other] = [holder, 1 - holder].map(|number| nodes[number].take().unwrap());
    let pack = Store::open(&liar.store())
        .unwrap()
        .blob_path(&image.pack.digest);
    let length = std::fs::metadata(&pack).unwrap().len();
    std::fs::write(&pack, vec![0; length as usize]).unwrap();
    // Who has had a proof trusts it for an hour.
    let (other, _) = other.restart(&publisher.settings(GRANT));
    until("another one has it", || kept(&other));
    match ask(&other.socket(), &Request::Peers, PATIENCE) {
        Ok(Reply::Peers(peers)) => assert!(peers.banned.is_empty(), "{:?}", peers.banned),
        other => panic!("{other:?}"),
    }
}
