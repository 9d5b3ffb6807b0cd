// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The running daemon, and how it is connected.

use std::io;
use std::path::Path;
use std::time::Duration;

use peerfs_control::{
    ask, Activity, Error as ControlError, PeerClass, PeerDirection, Reachability, Reply, Request,
};
use peerfs_store::printable;
use peerfs_text::Causes;

use super::settings::Settings;
use super::Finding;
use crate::output::age;

const DAEMON: &str = "peerfsd";
const FILES: &str = "open files";
const MEMORY: &str = "memory";
const LISTENING: &str = "listening";
const PEERS: &str = "peers";
const BOOTSTRAP: &str = "bootstrap peers";
const MDNS: &str = "mDNS";
const DHT: &str = "DHT";
const REACHABLE: &str = "reachability";

/// How long it may take for an answer that needs no disk.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A daemon that has been up for less may not have found its peers yet.
const YOUNG_MS: u64 = 30_000;
/// So many sources that sent wrong bytes are not likely all at fault.
const LIARS: u64 = 3;

/// Asks the daemon how it is doing; without one there is nothing else to look at here.
pub(super) fn look(settings: &Settings) -> Vec<Finding> {
    let socket = &settings.control_socket;
    match ask(socket, &Request::Activity, TIMEOUT) {
        Ok(Reply::Activity(activity)) => judge(&activity),
        Ok(_) => vec![Finding::error(
            DAEMON,
            "does not understand what it is asked",
            "install peerfs and peerfsd of the same version, and start peerfsd anew",
        )],
        Err(error) => vec![no_answer(socket, &error)],
    }
}

fn no_answer(socket: &Path, error: &ControlError) -> Finding {
    let shown = printable(socket);
    match error {
        ControlError::Connect { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            let text = format!("its user alone may ask at {shown}");
            Finding::warning(DAEMON, text, "try as root")
        }
        ControlError::Connect { source, .. } => Finding::error(
            DAEMON,
            format!("nobody answers at {shown}: {source}"),
            "start it with `systemctl start peerfsd`, or `peerfsd`; its log (`journalctl -u peerfsd`) says why it ended",
        ),
        error => Finding::error(
            DAEMON,
            format!("no answer at {shown}: {}", printable(&Causes(error).to_string())),
            "its log (`journalctl -u peerfsd`) may say why",
        ),
    }
}

/// What is wrong with a daemon that says this.
fn judge(activity: &Activity) -> Vec<Finding> {
    let mut findings = vec![version(activity), files(activity)];
    if activity.lying_sources >= LIARS {
        findings.push(Finding::warning(
            MEMORY,
            format!("{} times a source sent wrong bytes", activity.lying_sources),
            "that many do not lie: test this machine's memory, and then lift the bans with `peerfs unban --all`",
        ));
    }
    findings.push(listening(activity));
    findings.extend(discovery(activity));
    findings.push(peers(activity));
    findings.push(reachability(activity));
    findings
}

fn version(activity: &Activity) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    let (version, up) = (printable(&activity.version), age(activity.uptime_ms));
    if activity.version == own {
        return Finding::ok(DAEMON, format!("{version} has been up for {up}"));
    }
    let text = format!("{version} has been up for {up}, and this is peerfs {own}");
    Finding::warning(DAEMON, text, "restart peerfsd after an update")
}

fn files(activity: &Activity) -> Finding {
    let (open, most) = (activity.open_files, activity.open_files_max);
    let text = format!("{open} of {most}");
    if open.saturating_mul(10) >= most.saturating_mul(9) {
        let advice =
            "set LimitNOFILE= in the unit, or `ulimit -n`, to 65536, and start peerfsd anew";
        return Finding::error(FILES, text, advice);
    }
    // Each connection has one, and each open pack.
    if most < 2048 {
        let advice =
            "few connections and packs fit: set LimitNOFILE= in the unit, or `ulimit -n`, to 65536";
        return Finding::warning(FILES, text, advice);
    }
    Finding::ok(FILES, text)
}

fn listening(activity: &Activity) -> Finding {
    let addresses = &activity.network.listen_addresses;
    let is_local = |address: &&String| {
        ["/ip4/127.", "/ip6/::1/"]
            .iter()
            .any(|local| address.starts_with(local))
    };
    let advice = "set listen in peerfsd.toml, or connect this machine to a network";
    match addresses.iter().find(|address| !is_local(address)) {
        None if addresses.is_empty() => Finding::error(LISTENING, "nowhere", advice),
        None => Finding::warning(LISTENING, "for this machine only", advice),
        Some(address) => {
            let count = addresses.len();
            let text = format!("at {count} addresses, {} for example", printable(address));
            Finding::ok(LISTENING, text)
        }
    }
}

/// The ways by which peers are found.
fn discovery(activity: &Activity) -> Vec<Finding> {
    let network = &activity.network;
    let mdns = match network.neighbours {
        None => Finding::ok(MDNS, "is switched off"),
        Some(0) => Finding::ok(MDNS, "has found nobody on the link"),
        Some(count) => Finding::ok(MDNS, format!("has found {count} peers on the link")),
    };
    let (all, connected) = (network.bootstrap, network.bootstrap_connected);
    let text = format!("{connected} of {all} are connected");
    let bootstrap = match (all, connected) {
        (0, _) => Finding::ok(BOOTSTRAP, "none are configured"),
        (_, 0) => Finding::error(
            BOOTSTRAP,
            text,
            "see whether their addresses are right and no firewall is between; peerfsd's log says why each fails",
        ),
        (all, connected) if connected < all => {
            Finding::warning(BOOTSTRAP, text, "peerfsd's log says why the others fail")
        }
        _ => Finding::ok(BOOTSTRAP, text),
    };
    let dht = match network.dht_nodes {
        0 => Finding::ok(DHT, "no node is known but this one"),
        nodes => Finding::ok(DHT, format!("{nodes} nodes are known")),
    };
    vec![mdns, bootstrap, dht]
}

fn peers(activity: &Activity) -> Finding {
    let (count, banned) = (activity.peers.len(), activity.network.banned);
    let banned = match banned {
        0 => String::new(),
        banned => format!(", {banned} are banned (`peerfs peers`)"),
    };
    if count > 0 {
        return Finding::ok(PEERS, format!("{count} are connected{banned}"));
    }
    let text = format!("none are connected{banned}");
    if activity.uptime_ms < YOUNG_MS {
        return Finding::ok(PEERS, format!("{text} yet"));
    }
    let advice = "start peerfsd on another machine of this network and let UDP port 5353 through its firewall, or name \
                  peers with bootstrap in peerfsd.toml";
    match &activity.network.private_swarm {
        None => Finding::warning(PEERS, text, advice),
        Some(fingerprint) => {
            let fingerprint = printable(fingerprint);
            let text = format!(
                "{text}, and nobody else is let in than nodes with the swarm key {fingerprint}"
            );
            let advice = format!("{advice}; `peerfs status` has to say the same key there");
            Finding::warning(PEERS, text, advice)
        }
    }
}

fn reachability(activity: &Activity) -> Finding {
    if let Some(reachability) = activity.network.reachability {
        return reachability_on_the_internet(reachability, activity.uptime_ms);
    }
    let inbound = activity
        .peers
        .iter()
        .filter(|peer| peer.direction == PeerDirection::Inbound);
    let far = inbound.clone().filter(|peer| peer.class == PeerClass::Wide);
    match (far.count(), inbound.count()) {
        (0, 0) => Finding::ok(
            REACHABLE,
            "no peer has connected to this node by itself; what it fetches it serves on its own connections",
        ),
        (0, near) => Finding::ok(REACHABLE, format!("{near} near peers have connected to this node")),
        (far, _) => Finding::ok(REACHABLE, format!("{far} far peers have connected to this node")),
    }
}

fn reachability_on_the_internet(reachability: Reachability, uptime_ms: u64) -> Finding {
    let text = reachability.to_string();
    let forward = "forward a TCP port of the router to this machine, give it to listen and external in peerfsd.toml, and let \
                   it through firewalls";
    match reachability {
        Reachability::Direct => Finding::ok(REACHABLE, text),
        Reachability::Unknown if uptime_ms < 10 * YOUNG_MS => Finding::ok(REACHABLE, text),
        Reachability::Relayed | Reachability::Not => Finding::warning(REACHABLE, text, forward),
        Reachability::Unknown => Finding::warning(
            REACHABLE,
            text,
            "name peers on the Internet with bootstrap in peerfsd.toml, or give this node's address there as external",
        ),
    }
}

#[cfg(test)]
mod tests {
    use peerfs_control::{NetworkStatus, PeerStatus};

    use super::super::Level;
    use super::*;

    fn healthy() -> Activity {
        Activity {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: 60_000,
            open_files: 50,
            open_files_max: 65536,
            peers: vec![PeerStatus::default()],
            network: NetworkStatus {
                listen_addresses: vec!["/ip4/192.0.2.1/tcp/1".to_owned()],
                neighbours: Some(1),
                ..NetworkStatus::default()
            },
            ..Activity::default()
        }
    }

    fn worst(activity: &Activity) -> (Level, String) {
        let findings = judge(activity);
        let worst = findings.into_iter().max_by_key(|finding| finding.level);
        let worst = worst.unwrap();
        (worst.level, worst.check.to_owned())
    }

    #[test]
    fn each_thing_that_is_wrong_is_found() {
        assert_eq!(worst(&healthy()).0, Level::Ok);
        type Spoil = fn(&mut Activity);
        let cases: [(Spoil, Level, &str); 9] = [
            (|it| it.version = "0.0.1".to_owned(), Level::Warning, DAEMON),
            (|it| it.open_files = 64_000, Level::Error, FILES),
            (|it| it.open_files_max = 1024, Level::Warning, FILES),
            (|it| it.lying_sources = LIARS, Level::Warning, MEMORY),
            (
                |it| it.network.listen_addresses.clear(),
                Level::Error,
                LISTENING,
            ),
            (
                |it| it.network.listen_addresses = vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
                Level::Warning,
                LISTENING,
            ),
            (|it| it.network.bootstrap = 2, Level::Error, BOOTSTRAP),
            (|it| it.peers.clear(), Level::Warning, PEERS),
            (
                |it| it.network.reachability = Some(Reachability::Not),
                Level::Warning,
                REACHABLE,
            ),
        ];
        for (spoil, level, check) in cases {
            let mut activity = healthy();
            spoil(&mut activity);
            assert_eq!(worst(&activity), (level, check.to_owned()));
        }
        let mut alone = healthy();
        alone.peers.clear();
        alone.network.private_swarm = Some("45fc".to_owned());
        assert!(peers(&alone).text.contains("45fc"));
        let mut reached = healthy();
        reached.network.reachability = Some(Reachability::Direct);
        assert_eq!(worst(&reached).0, Level::Ok);
        let mut young = healthy();
        young.network.reachability = Some(Reachability::Unknown);
        young.peers.clear();
        young.uptime_ms = 1000;
        assert_eq!(worst(&young).0, Level::Ok);
    }
}
