// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The store over HTTP: where it is.

use peerfs_http::Address;
use serde::Deserialize;

use crate::config::ConfigError;

/// What others fetch from by HTTP, as from a copy of the store.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Where to listen for them; by default nowhere.
    pub listen: Option<Address>,
}

impl ServeConfig {
    /// Checks what the types do not, for a node that is one of a swarm which is closed to others, or not.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self, is_closed: bool) -> Result<(), ConfigError> {
        match &self.listen {
            Some(Address::Ip(_)) if is_closed => Err(ConfigError::Value {
                key: "serve.listen",
                problem: "must be the path of a Unix socket: this node gives its swarm alone what it has, and who asks by HTTP shows no key"
                    .to_owned(),
            }),
            _ => Ok(()),
        }
    }
}
