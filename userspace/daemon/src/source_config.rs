// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the configuration says of places to fetch from.

use std::path::PathBuf;

use peerfs_registry::Options;
use peerfs_store::{Reference, RegistryReference};
use serde::{Deserialize, Deserializer};

/// Another place to fetch from: one key for each kind.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum SourceConfig {
    /// The root directory of another store, on a network mount for example.
    Directory(PathBuf),
    /// Where an HTTP server has a copy of a store.
    Url(String),
    /// A repository of a registry.
    #[serde(deserialize_with = "repository")]
    Oci(RegistryReference),
}

/// How registries are asked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// The file with credentials; by default those of podman and Docker are looked at.
    pub auth_file: Option<PathBuf>,
    /// The registries whose certificates are not looked at, and that may have none.
    pub insecure: Vec<String>,
    /// Whether a conversion that a registry has beside an ordinary image is taken for what has that one's digest.
    pub trust_conversions: bool,
}

impl RegistryConfig {
    /// The same for those who ask.
    pub fn options(&self) -> Options {
        Options {
            insecure: self.insecure.clone(),
            auth_file: self.auth_file.clone(),
            trust_conversions: self.trust_conversions,
            ..Options::default()
        }
    }
}

/// `REGISTRY/NAME`.
fn repository<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RegistryReference, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse().map_err(serde::de::Error::custom)? {
        Reference::Registry(found) if found.tag.is_none() && found.digest.is_none() => Ok(found),
        _ => Err(serde::de::Error::custom(format_args!(
            "{text:?} is no repository of a registry, such as \"registry.example/team/name\""
        ))),
    }
}
