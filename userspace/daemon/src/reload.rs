// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a changed configuration changes while the daemon runs, and what waits for its next start.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::config::{Config, LimitsConfig, LogConfig, PeerConfig};
use crate::lazy_pulls::PullChoice;

/// What the parts of a running daemon look up each time that they need it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// How long a request of the kernel may take.
    pub request_timeout: Duration,
    /// When an image that is read is fetched whole.
    pub pull: PullChoice,
    /// Bytes that what can be fetched again may take in the store, if there is a limit.
    pub cache_bytes: Option<u64>,
}

impl Settings {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        Settings {
            request_timeout: config.request_timeout,
            pull: config.pull,
            cache_bytes: config.limits.cache_bytes.map(NonZeroU64::get),
        }
    }
}

/// The keys whose value is another one than the daemon runs with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// Those that have an effect at once.
    pub at_once: Vec<&'static str>,
    /// Those that have none before the daemon is started again.
    pub at_start: Vec<&'static str>,
}

impl Changes {
    /// Takes over from `new` what `running` can change to, and says what differs.
    pub fn take_over(running: &mut Config, new: &Config) -> Self {
        // By name, so that nobody adds a key and forgets it here.
        let Config {
            root_dir,
            state_dir,
            device,
            control_socket,
            request_timeout,
            pull,
            log: LogConfig { level, format },
            peer,
            limits,
            registry,
            monitor,
            mirror,
            serve,
            names,
            replicate,
            source,
            pin,
        } = running;
        let PeerConfig {
            key_file,
            swarm_key,
            certificate,
            listen,
            mdns,
            bootstrap,
            profile,
            external,
            relay,
            upnp,
            connections_max,
            upload_bytes_per_second,
        } = peer;
        let LimitsConfig {
            requests,
            transfers,
            transfers_per_source,
            store_operations,
            cache_bytes,
        } = limits;
        let differing = |keys: &[(&'static str, bool)]| {
            let keys = keys.iter().filter(|(_, differs)| *differs);
            keys.map(|(key, _)| *key).collect()
        };
        let at_start = differing(&[
            ("root_dir", *root_dir != new.root_dir),
            ("state_dir", *state_dir != new.state_dir),
            ("device", *device != new.device),
            ("control_socket", *control_socket != new.control_socket),
            ("log.format", *format != new.log.format),
            ("peer.key_file", *key_file != new.peer.key_file),
            ("peer.swarm_key", *swarm_key != new.peer.swarm_key),
            ("peer.certificate", *certificate != new.peer.certificate),
            ("peer.listen", *listen != new.peer.listen),
            ("peer.mdns", *mdns != new.peer.mdns),
            ("peer.bootstrap", *bootstrap != new.peer.bootstrap),
            ("peer.profile", *profile != new.peer.profile),
            ("peer.external", *external != new.peer.external),
            ("peer.relay", *relay != new.peer.relay),
            ("peer.upnp", *upnp != new.peer.upnp),
            (
                "peer.connections_max",
                *connections_max != new.peer.connections_max,
            ),
            (
                "peer.upload_bytes_per_second",
                *upload_bytes_per_second != new.peer.upload_bytes_per_second,
            ),
            ("limits.requests", *requests != new.limits.requests),
            ("limits.transfers", *transfers != new.limits.transfers),
            (
                "limits.transfers_per_source",
                *transfers_per_source != new.limits.transfers_per_source,
            ),
            (
                "limits.store_operations",
                *store_operations != new.limits.store_operations,
            ),
            ("registry", *registry != new.registry),
            ("monitor", *monitor != new.monitor),
            ("mirror", *mirror != new.mirror),
            ("serve", *serve != new.serve),
            ("names", *names != new.names),
            ("replicate", *replicate != new.replicate),
            ("source", *source != new.source),
        ]);
        let at_once = differing(&[
            (
                "request_timeout",
                set(request_timeout, &new.request_timeout),
            ),
            ("pull", set(pull, &new.pull)),
            ("log.level", set(level, &new.log.level)),
            (
                "limits.cache_bytes",
                set(cache_bytes, &new.limits.cache_bytes),
            ),
            ("pin", set(pin, &new.pin)),
        ]);
        Changes { at_once, at_start }
    }
}

/// Sets a value; whether it was another one.
fn set<T: Clone + PartialEq>(value: &mut T, new: &T) -> bool {
    let differs = value != new;
    value.clone_from(new);
    differs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_next_start_is_named_until_then() {
        let mut running = Config::default();
        let new: Config = toml::from_str(
            "pull = 'never'\ndevice = 'none'\n[log]\nlevel = 'debug'\n[peer]\nmdns = false\n\
             [limits]\ncache_bytes = 5\n[[pin]]\nimage = 'debian'",
        )
        .unwrap();
        let changes = Changes::take_over(&mut running, &new);
        assert_eq!(
            changes.at_once,
            ["pull", "log.level", "limits.cache_bytes", "pin"]
        );
        assert_eq!(changes.at_start, ["device", "peer.mdns"]);
        assert_eq!(Settings::of(&running).cache_bytes, Some(5));
        let again = Changes::take_over(&mut running, &new);
        assert!(again.at_once.is_empty());
        assert_eq!(again.at_start, ["device", "peer.mdns"]);
        // It was taken back.
        let new = Config::default();
        let back = Changes::take_over(&mut running, &new);
        assert_eq!((back.at_once.len(), back.at_start.len()), (4, 0));
    }
}
