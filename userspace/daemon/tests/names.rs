// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Publishers' names, between daemons as processes.

#![forbid(unsafe_code)]

mod support;
#[path = "names/traces.rs"]
mod traces;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use nix::sys::signal::Signal;
use peerfs_control::{ask, Connection, NameStatus, Next, Reply, Request};
use peerfs_format::Digest;
use peerfs_names::{Grant, Name, Record, SecretKey, SignedRecord};
use support::process::{peerfs, succeed, Running};

/// When a record of these tests expires, unless it is to be short: in the year 2100.
const LATE: u64 = 4_102_444_800;
/// Tests wait long for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

struct Publisher {
    key: SecretKey,
    name: Name,
}

impl Publisher {
    fn new() -> Self {
        let key = SecretKey::parse(&SecretKey::generate().unwrap()).unwrap();
        let name = Name::new(key.public(), "team/base").unwrap();
        Publisher { key, name }
    }

    fn record(&self, sequence: u64, image: u8) -> Record {
        Record {
            name: self.name.clone(),
            signer: self.key.public(),
            sequence,
            issued: 1,
            expires: LATE,
            manifest: Digest([image; 32]),
            trace: None,
            replicas: 0,
            grant: None,
        }
    }

    fn sign(&self, sequence: u64, image: u8) -> SignedRecord {
        self.record(sequence, image).sign(&self.key).unwrap()
    }
}

fn alone() -> Running {
    Running::start(&[])
}

/// A daemon that knows others.
fn knowing(others: &[&Running]) -> Running {
    Running::start_over(tempfile::tempdir().unwrap(), &bootstrap(others)).0
}

fn bootstrap(others: &[&Running]) -> String {
    let addresses = others
        .iter()
        .flat_map(|other| other.status().listen_addresses);
    format!("bootstrap = {:?}\n", addresses.collect::<Vec<_>>())
}

fn name(daemon: &Running, request: &Request) -> Result<NameStatus, String> {
    match ask(&daemon.socket(), request, PATIENCE) {
        Ok(Reply::Name(status)) => Ok(status),
        Ok(Reply::Error(problem)) => Err(problem),
        other => panic!("{other:?}"),
    }
}

fn publish(daemon: &Running, record: &SignedRecord) -> Result<NameStatus, String> {
    let record = BASE64.encode(record.bytes());
    name(daemon, &Request::Publish { record })
}

fn search(daemon: &Running, of: &Name) -> NameStatus {
    let request = Request::Name {
        name: of.to_string(),
        search: true,
    };
    name(daemon, &request).unwrap()
}

fn image(byte: u8) -> Option<String> {
    Some(Digest([byte; 32]).to_string())
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn connected(daemon: &Running, peers: usize) {
    until("it is connected", || daemon.status().peers.len() >= peers);
}

/// A client that follows a name.
struct Follower(Connection);

impl Follower {
    fn new(daemon: &Running, of: &Name) -> Self {
        let request = Request::Follow {
            name: of.to_string(),
        };
        Follower(Connection::open(&daemon.socket(), &request, PATIENCE).unwrap())
    }

    fn next(&mut self) -> NameStatus {
        match self.0.next(PATIENCE).unwrap() {
            Next::Reply(reply) => match *reply {
                Reply::Name(status) => status,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// Waits until it is told that the name stands for this.
    fn wait_for(&mut self, image: &Option<String>) {
        while self.next().image != *image {}
    }
}

#[test]
fn a_name_is_found_handed_on_and_known_without_a_network() {
    let publisher = Publisher::new();
    let (first, of) = (alone(), &publisher.name);
    publish(&first, &publisher.sign(1, 1)).unwrap();
    let second = knowing(&[&first]);
    connected(&second, 1);
    assert_eq!(search(&second, of).image, image(1));
    publish(&first, &publisher.sign(2, 2)).unwrap();
    assert_eq!(
        search(&second, of).image,
        image(2),
        "who asks gets the newest"
    );

    // Who has signed it is gone, and any holder hands it on.
    drop(first);
    let third = knowing(&[&second]);
    connected(&third, 1);
    assert_eq!(search(&third, of).image, image(2));
    drop(second);
    let (alone, _) = third.restart("");
    let begun = Instant::now();
    let status = search(&alone, of);
    assert_eq!(status.image, image(2));
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "nobody is waited for"
    );
    // Nor does it go back for whoever asks it to.
    let problem = publish(&alone, &publisher.sign(1, 1)).unwrap_err();
    assert!(
        problem.contains("record 2 of") && problem.contains("1 is not newer"),
        "{problem}"
    );
    let problem = publish(&alone, &publisher.sign(2, 7)).unwrap_err();
    assert!(problem.contains("2 is not newer"), "{problem}");
    assert_eq!(search(&alone, of).image, image(2));
}

#[test]
fn what_is_forged_expired_or_a_strangers_is_refused_with_the_reason() {
    let (publisher, stranger) = (Publisher::new(), Publisher::new());
    let daemon = alone();
    let mut forged = publisher.sign(1, 1).bytes().to_vec();
    forged[110] ^= 1;
    for (bytes, named) in [
        (forged, "forged"),
        (publisher.sign(1, 1).bytes()[..200].to_vec(), "length"),
        (vec![0; 1 << 11], "length"),
    ] {
        let record = BASE64.encode(&bytes);
        let problem = name(&daemon, &Request::Publish { record }).unwrap_err();
        assert!(problem.contains(named), "{named}: {problem}");
    }
    // A writer whom nobody has named.
    let grant = Grant::new(
        &stranger.name,
        1,
        [publisher.key.public()].into(),
        &stranger.key,
    );
    let foreign = Record {
        signer: stranger.key.public(),
        grant: grant.ok(),
        ..publisher.record(1, 66)
    };
    assert!(foreign.sign(&stranger.key).is_err());
    let unknown = search(&daemon, &publisher.name).problem.unwrap();
    assert!(unknown.contains("nothing is known"), "{unknown}");

    let expired = Record {
        expires: 2,
        ..publisher.record(1, 1)
    };
    publish(&daemon, &expired.sign(&publisher.key).unwrap()).unwrap();
    let status = search(&daemon, &publisher.name);
    assert_eq!(status.image, None);
    let problem = status.problem.unwrap();
    assert!(problem.contains("has expired"), "{problem}");
    let pulled = daemon.fail("pull", &[&publisher.name.to_string()]);
    assert!(pulled.contains("has expired"), "{pulled}");
    // Somebody here may take it all the same.
    daemon.succeed("rollback", &[&publisher.name.to_string(), "--to", "1"]);
    assert_eq!(search(&daemon, &publisher.name).image, image(1));
}

#[test]
fn a_fork_is_seen_by_all_and_ends_with_a_newer_record() {
    let publisher = Publisher::new();
    let of = &publisher.name;
    let (one, two) = (alone(), alone());
    publish(&one, &publisher.sign(1, 1)).unwrap();
    publish(&two, &publisher.sign(1, 2)).unwrap();
    let between = knowing(&[&one, &two]);
    connected(&between, 2);
    let mut follower = Follower::new(&between, of);
    let problem = loop {
        if let Some(problem) = follower
            .next()
            .problem
            .filter(|problem| problem.contains("forked"))
        {
            break problem;
        }
    };
    for byte in [1, 2] {
        assert!(problem.contains(&image(byte).unwrap()), "{problem}");
    }
    let history = between.fail("history", &[&of.to_string()]);
    assert!(history.contains("forked"), "{history}");
    // Who asks somebody who has seen it sees it as well.
    let late = knowing(&[&between]);
    connected(&late, 1);
    assert!(search(&late, of).problem.unwrap().contains("forked"));
    // One of both is taken only by who says which, and is told whose it is.
    let (text, second) = (of.to_string(), image(2).unwrap());
    let refused = between.fail("rollback", &[&text, "--to", "1"]);
    assert!(refused.contains("signed twice"), "{refused}");
    let chosen = [&text, "--to", "1", "--image", &second];
    let output = between.client("rollback", &chosen).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&second));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("signed by its publisher"), "{told}");
    follower.wait_for(&image(2));
    publish(&between, &publisher.sign(2, 3)).unwrap();
    follower.wait_for(&image(3));
    assert_eq!(search(&late, of).image, image(3));
    assert_eq!(search(&one, of).image, image(3));
}

#[test]
fn what_has_expired_does_not_hold_again_when_the_clock_is_set_back() {
    let publisher = Publisher::new();
    let mut daemon = alone();
    publish(&daemon, &publisher.sign(1, 1)).unwrap();
    assert_eq!(search(&daemon, &publisher.name).image, image(1));
    // As if it had seen a later time than now.
    let file = daemon.root.path().join("state/names/latest-time");
    until("it has noted the time", || file.exists());
    let later = format!("{{\"latest\":{},\"behind\":0}}", LATE + 1);
    daemon.stop(Signal::SIGTERM);
    std::fs::write(&file, later).unwrap();
    let (mut daemon, _) = daemon.restart_after_death("");
    let problem = search(&daemon, &publisher.name).problem.unwrap();
    assert!(problem.contains("has expired"), "{problem}");
    // Who knows better says so.
    daemon.stop(Signal::SIGTERM);
    std::fs::remove_file(&file).unwrap();
    let (daemon, _) = daemon.restart_after_death("");
    assert_eq!(search(&daemon, &publisher.name).image, image(1));
}

#[test]
fn the_dht_has_a_record_whose_publisher_is_not_connected() {
    let publisher = Publisher::new();
    let between = alone();
    let mut one = knowing(&[&between]);
    connected(&one, 1);
    let mut other = knowing(&[&between]);
    connected(&other, 1);
    // Until the one in between is in the routing table there is nobody to keep it.
    let mut sequence = 0;
    until("the DHT has it", || {
        sequence += 1;
        publish(&one, &publisher.sign(sequence, 5)).unwrap();
        search(&other, &publisher.name).image == image(5)
    });
    let names = ask(&between.socket(), &Request::Names, PATIENCE).unwrap();
    assert_eq!(
        names,
        Reply::Names(Vec::new()),
        "it does not follow the name"
    );
    // It outlives all who know it: the one in between keeps it for others.
    publish(&one, &publisher.sign(sequence + 1, 6)).unwrap();
    thread::sleep(Duration::from_secs(1));
    one.stop(Signal::SIGTERM);
    other.stop(Signal::SIGTERM);
    let late = knowing(&[&between]);
    connected(&late, 1);
    until("the DHT has it all the same", || {
        search(&late, &publisher.name).image == image(6)
    });
}

#[test]
fn sixteen_followers_hear_of_a_record_at_once() {
    let publisher = Publisher::new();
    let first = alone();
    let followers: Vec<Running> = (0..16).map(|_| knowing(&[&first])).collect();
    let mut clients: Vec<Follower> = followers
        .iter()
        .map(|daemon| {
            connected(daemon, 1);
            Follower::new(daemon, &publisher.name)
        })
        .collect();
    publish(&first, &publisher.sign(1, 1)).unwrap();
    for client in &mut clients {
        client.wait_for(&image(1));
    }
    let mut took = Vec::new();
    for sequence in 2..=20 {
        let byte = sequence as u8;
        let record = publisher.sign(sequence, byte);
        let begun = Instant::now();
        publish(&first, &record).unwrap();
        // As threads, so that who is asked last was not told long ago.
        let waited = thread::scope(|scope| {
            let waits = clients.iter_mut().map(|client| {
                scope.spawn(move || {
                    client.wait_for(&image(byte));
                    begun.elapsed()
                })
            });
            let waits: Vec<_> = waits.collect();
            waits
                .into_iter()
                .map(|wait| wait.join().unwrap())
                .collect::<Vec<_>>()
        });
        took.extend(waited);
    }
    took.sort();
    let at = |part: usize| took[(took.len() * part).div_ceil(100) - 1];
    eprintln!("of {} p50 {:?} p99 {:?}", took.len(), at(50), at(99));
    // The bar is a second; a machine that does something else is given more.
    assert!(at(99) < Duration::from_secs(5), "{:?}", at(99));
}

/// Builds an image of one file.
fn build(root: &Path, content: &str) -> String {
    let tree = root.join(format!("tree-{content}"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), content).unwrap();
    let mut build = Command::new(peerfs());
    build.args(["build", "--tag", content, "--root-dir"]);
    let digest = succeed(build.arg(root.join("store")).arg(tree));
    digest.trim_end().to_owned()
}

#[test]
fn a_name_is_published_by_key_and_by_writers_and_rolled_back_by_date() {
    let mut daemon = alone();
    let keys = daemon.root.path().join("keys");
    let keys = keys.to_str().unwrap();
    let command = |arguments: &[&str]| {
        let mut process = Command::new(peerfs());
        process.args(arguments).env("PEERFS_KEYS", keys);
        process
    };
    let run = |arguments: &[&str]| succeed(&mut command(arguments)).trim_end().to_owned();
    let key = run(&["key", "new"]);
    let writer = run(&["key", "new", "writer"]);
    assert_eq!(run(&["key", "export"]), key);
    assert_eq!(
        run(&["key", "list"]),
        format!("default  {key}\nwriter   {writer}")
    );
    assert!(
        !command(&["key", "new"]).output().unwrap().status.success(),
        "never over another"
    );

    let images = ["one", "two", "three"].map(|content| build(daemon.root.path(), content));
    let (store, socket) = (daemon.store(), daemon.socket());
    let places = [
        "--root-dir",
        store.to_str().unwrap(),
        "--socket",
        socket.to_str().unwrap(),
    ];
    let publish = |arguments: &[&str]| {
        let mut process = command(&["publish"]);
        process.args(places).args(arguments);
        process
    };
    let of = succeed(&mut publish(&["team/base", "one", "--writer", &writer]));
    let of = of.trim_end();
    assert_eq!(of, format!("{key}/team/base"));
    assert_eq!(daemon.succeed("pull", &[of]).trim_end(), images[0]);
    thread::sleep(Duration::from_millis(1100));
    let before = daemon.succeed("history", &["--json", of]);
    succeed(&mut publish(&[
        of,
        "two",
        "--key",
        "writer",
        "--expires",
        "1d",
    ]));
    assert_eq!(
        daemon
            .succeed("pull", &[&format!("peerfs:{of}")])
            .trim_end(),
        images[1]
    );
    let history = daemon.succeed("history", &[of]);
    assert!(
        history.lines().count() == 2 && history.contains(&format!("by {writer}")),
        "{history}"
    );

    // By when it counted, and by sequence.
    let before: NameStatus = serde_json::from_str(&before).unwrap();
    let accepted = before.history[0].accepted;
    let back = Request::Rollback {
        name: of.to_owned(),
        sequence: None,
        generation: None,
        image: None,
        time: Some(accepted),
        refused: None,
    };
    assert_eq!(
        name(&daemon, &back).unwrap().image.as_ref(),
        Some(&images[0])
    );
    assert_eq!(
        daemon.succeed("rollback", &[of, "--to", "2"]).trim_end(),
        images[1]
    );
    let problem = daemon.fail("rollback", &[of, "--to", "2001-01-01"]);
    assert!(problem.contains("no such record"), "{problem}");

    // What was refused is not what the name stands for any more.
    let late = Request::Rollback {
        name: of.to_owned(),
        sequence: Some(1),
        generation: None,
        image: None,
        time: None,
        refused: Some(images[2].clone()),
    };
    assert_eq!(
        name(&daemon, &late).unwrap().image.as_ref(),
        Some(&images[1])
    );

    // The writer, who uses up all sequences, is struck out.
    let secret = std::fs::read_to_string(format!("{keys}/writer.pem")).unwrap();
    let secret = SecretKey::parse(&secret).unwrap();
    let grant = BASE64.decode(before.history[0].record.as_bytes()).unwrap();
    let grant = SignedRecord::parse(&grant).unwrap().record().clone();
    let last = Record {
        signer: secret.public(),
        sequence: u64::MAX,
        ..grant
    };
    self::publish(&daemon, &last.sign(&secret).unwrap()).unwrap();
    let stuck = publish(&[of, "three"]).output().unwrap();
    assert!(String::from_utf8_lossy(&stuck.stderr).contains("--no-writers"));
    succeed(&mut publish(&[of, "two", "--no-writers"]));
    succeed(&mut publish(&[of, "three"]));
    assert_eq!(
        daemon.succeed("rollback", &[of, "--to", "1.1"]).trim_end(),
        images[0]
    );
    assert_eq!(
        daemon.succeed("rollback", &[of, "--to", "2.1"]).trim_end(),
        images[1]
    );
    succeed(&mut publish(&[of, "three"]));
    let refused = publish(&[of, "one", "--key", "writer"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("neither the publisher's"));
    // An alias, after another start; what was known of the name is.
    daemon.stop(Signal::SIGTERM);
    let (daemon, _) = daemon.restart_after_death(&format!("[names.aliases]\nbase = '{of}'\n"));
    assert_eq!(
        daemon.succeed("pull", &["peerfs:base"]).trim_end(),
        images[2]
    );
    assert!(daemon.succeed("names", &[]).contains(of));
}

#[test]
fn a_policy_says_whose_records_count() {
    let (publisher, stranger) = (Publisher::new(), Publisher::new());
    let root = tempfile::tempdir().unwrap();
    let policy = root.path().join("policy.toml");
    let key = publisher.key.public();
    let text = format!("default = 'refuse'\n[[rule]]\nimages = '{key}'\nrequire = 'nothing'\n");
    std::fs::write(&policy, text).unwrap();
    let config = format!("[names]\npolicy = {policy:?}\n");
    let (daemon, _) = Running::start_over(root, &config);
    publish(&daemon, &publisher.sign(1, 1)).unwrap();
    publish(&daemon, &stranger.sign(1, 2)).unwrap();
    assert_eq!(search(&daemon, &publisher.name).image, image(1));
    let refused = search(&daemon, &stranger.name);
    assert!(refused.image.is_none() && refused.problem.unwrap().contains("the policy refuses"));
    let pulled = daemon.fail("pull", &[&stranger.name.to_string()]);
    assert!(pulled.contains("the policy refuses"), "{pulled}");
    // What a container runtime uses as an image of a registry is no other image for being named by its digest.
    let built = build(daemon.root.path(), "built");
    let pull = |used_as: Option<&str>| {
        let request = Request::Pull {
            image: built.clone(),
            tag: None,
            timeout: None,
            lazy: true,
            used_as: used_as.map(str::to_owned),
            convert: false,
            platform: None,
        };
        ask(&daemon.socket(), &request, PATIENCE).unwrap()
    };
    assert!(matches!(pull(None), Reply::Done(_)));
    let refused = pull(Some("registry.example/team/base:1"));
    assert!(
        matches!(&refused, Reply::Error(problem) if problem.contains("the policy refuses")),
        "{refused:?}"
    );
    // Nor for what the store calls it so.
    let mut tag = Command::new(peerfs());
    tag.args(["tag", "--root-dir"]).arg(daemon.store());
    succeed(tag.args([&built, "registry.example/team/base:1"]));
    for command in ["pin", "warm", "pull"] {
        let refused = daemon.fail(command, &["registry.example/team/base:1"]);
        assert!(
            refused.contains("the policy refuses"),
            "{command}: {refused}"
        );
    }
    daemon.succeed("pin", &["built"]);
    // It counts as it is now, and none that is not understood allows anything.
    let rule = format!(
        "[[rule]]\nimages = '{key}/team'\nrequire = 'signature'\nkeys = ['{}']\n",
        stranger.key.public()
    );
    for (text, named) in [(rule.as_str(), "as "), ("rules = 1", "is not valid")] {
        std::fs::write(&policy, text).unwrap();
        let problem = search(&daemon, &publisher.name).problem.unwrap();
        assert!(problem.contains(named), "{problem}");
    }
    std::fs::write(&policy, "").unwrap();
    assert_eq!(search(&daemon, &stranger.name).image, image(2));
}
