// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the configuration says of the peer node.

use std::fmt::Display;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::str::FromStr;

use peerfs_peer::{bootstrap_problem, external_problem, listen_problem, InternetConfig, Multiaddr};
use serde::{Deserialize, Deserializer};

use crate::config::{parse, ConfigError};

/// The peer node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// The node's key; made on the first start. By default `peer.key` in the state directory.
    pub key_file: Option<PathBuf>,
    /// The key of the private swarm that the node belongs to; without it, it belongs to none.
    pub swarm_key: Option<PathBuf>,
    /// Its certificate as a member of a swarm whose nodes have such; without it, it belongs to none.
    pub certificate: Option<PathBuf>,
    /// The addresses to listen on, as multiaddresses; by default any free TCP port.
    #[serde(deserialize_with = "some_from_texts")]
    pub listen: Option<Vec<Multiaddr>>,
    /// Whether peers on the local network are found by multicast DNS.
    pub mdns: bool,
    /// Peers to stay connected to, as multiaddresses.
    #[serde(deserialize_with = "from_texts")]
    pub bootstrap: Vec<Multiaddr>,
    /// What network the node is in.
    pub profile: Profile,
    /// Where others reach it on the Internet, as multiaddresses, if that is known.
    #[serde(deserialize_with = "from_texts")]
    pub external: Vec<Multiaddr>,
    /// Whether it is a relay for others on the Internet.
    pub relay: bool,
    /// Whether a router is asked to forward a port from the Internet.
    pub upnp: bool,
    /// The most connections.
    pub connections_max: NonZeroU32,
    /// Bytes a second that are sent to all peers together; by default there is no limit.
    pub upload_bytes_per_second: Option<NonZeroU64>,
}

/// What network a node is in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// One whose nodes reach each other.
    #[default]
    Lan,
    /// The Internet, where firewalls and address translation are between them.
    Internet,
}

impl Default for PeerConfig {
    fn default() -> Self {
        PeerConfig {
            key_file: None,
            swarm_key: None,
            certificate: None,
            listen: None,
            mdns: true,
            bootstrap: Vec::new(),
            profile: Profile::default(),
            external: Vec::new(),
            relay: false,
            upnp: true,
            connections_max: NonZeroU32::new(512).expect("512 is not 0"),
            upload_bytes_per_second: None,
        }
    }
}

impl PeerConfig {
    /// What a node needs to know for the Internet, if it is there.
    pub fn internet(&self) -> Option<InternetConfig> {
        match self.profile {
            Profile::Lan => None,
            Profile::Internet => Some(InternetConfig {
                external: self.external.clone(),
                relay: self.relay,
                upnp: self.upnp,
                ..InternetConfig::default()
            }),
        }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| ConfigError::Value {
            key,
            problem: problem.to_owned(),
        };
        if self.listen.as_ref().is_some_and(Vec::is_empty) {
            let problem = "must have at least one address, such as \"/ip4/0.0.0.0/tcp/4001\"";
            return Err(wrong("peer.listen", problem));
        }
        for address in self.listen.iter().flatten() {
            check_address("peer.listen", address, listen_problem(address))?;
        }
        for address in &self.bootstrap {
            check_address("peer.bootstrap", address, bootstrap_problem(address))?;
        }
        for address in &self.external {
            check_address("peer.external", address, external_problem(address))?;
        }
        if self.profile == Profile::Lan {
            let problem = "is for profile = \"internet\": on a LAN nodes reach each other without";
            if self.relay {
                return Err(wrong("peer.relay", problem));
            }
            if !self.external.is_empty() {
                return Err(wrong("peer.external", problem));
            }
        }
        Ok(())
    }
}

fn check_address(
    key: &'static str,
    address: &Multiaddr,
    problem: Option<&str>,
) -> Result<(), ConfigError> {
    match problem {
        None => Ok(()),
        Some(problem) => Err(ConfigError::Value {
            key,
            problem: format!(
                "has \"{address}\", which {problem}; an address is such as \"/ip4/192.0.2.1/tcp/4001\""
            ),
        }),
    }
}

fn from_texts<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| parse(text)).collect()
}

fn some_from_texts<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    from_texts(deserializer).map(Some)
}
