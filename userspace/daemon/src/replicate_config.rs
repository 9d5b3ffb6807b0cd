// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The table of the configuration that is about keeping images for others.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use peerfs_names::PublisherKey;
use peerfs_replica::keeper::Pace;
use peerfs_replica::roster::PUBLISHERS_MAX;
use peerfs_store::Reference;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::config::ConfigError;

/// Images that are kept for others.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicateConfig {
    /// Bytes that are kept for others in all; without it none are.
    pub bytes: Option<NonZeroU64>,
    /// Whose images, by their keys, and how many bytes of each publisher.
    #[serde(deserialize_with = "publishers")]
    pub publishers: BTreeMap<PublisherKey, u64>,
    /// How often each copy at others is checked.
    #[serde(with = "humantime_serde")]
    pub check_interval: Duration,
    /// How long a copy may be away before it is replaced.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

impl Default for ReplicateConfig {
    fn default() -> Self {
        let Pace { check, patience } = Pace::default();
        ReplicateConfig {
            bytes: None,
            publishers: BTreeMap::new(),
            check_interval: check,
            patience,
        }
    }
}

impl ReplicateConfig {
    /// How soon something is done.
    pub(crate) fn pace(&self) -> Pace {
        Pace {
            check: self.check_interval,
            patience: self.patience,
        }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let second = Duration::from_secs(1);
        let problem = if !(second..=3600 * second).contains(&self.check_interval) {
            Some((
                "replicate.check_interval",
                "must be between \"1s\" and \"1h\"",
            ))
        } else if !(second..=24 * 3600 * second).contains(&self.patience) {
            Some(("replicate.patience", "must be between \"1s\" and \"24h\""))
        } else if self.patience < 3 * self.check_interval {
            Some((
                "replicate.patience",
                "must be three times replicate.check_interval at least: two checks have to fail",
            ))
        } else if self.bytes.is_none() && !self.publishers.is_empty() {
            Some((
                "replicate.publishers",
                "needs replicate.bytes: how many bytes are kept in all",
            ))
        } else if self.publishers.len() > PUBLISHERS_MAX {
            Some(("replicate.publishers", "has too many: at most 256"))
        } else {
            None
        };
        problem.map_or(Ok(()), |(key, problem)| {
            let problem = problem.to_owned();
            Err(ConfigError::Value { key, problem })
        })
    }
}

fn publishers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<PublisherKey, u64>, D::Error> {
    let texts = BTreeMap::<String, u64>::deserialize(deserializer)?;
    let parse = |(text, bytes): (String, u64)| match format!("{text}/x").parse() {
        Ok(Reference::Published { key, .. }) => Ok((key, bytes)),
        _ => Err(D::Error::custom(format_args!(
            "{text:?} is no publisher's key, as `peerfs key export` prints it"
        ))),
    };
    texts.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_have_keys_and_bytes() {
        let key = "a".repeat(52);
        let read = |text: &str| toml::from_str::<ReplicateConfig>(text);
        let config = read(&format!("bytes = 10\npublishers = {{ {key} = 7 }}")).unwrap();
        assert_eq!(config.publishers.values().copied().collect::<Vec<_>>(), [7]);
        config.check().unwrap();
        for text in [
            format!("publishers = {{ {key} = 7 }}"),
            "check_interval = '10ms'".to_owned(),
            "patience = '2d'".to_owned(),
            "patience = '150s'".to_owned(),
        ] {
            assert!(read(&text).unwrap().check().is_err(), "{text}");
        }
        assert!(read("bytes = 1\npublishers = { x = 7 }").is_err());
        assert!(read("bytes = 0").is_err());
    }
}
