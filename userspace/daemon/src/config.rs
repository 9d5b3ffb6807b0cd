// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The configuration file. `peerfsd.toml` beside this crate has every key with its default.

use std::fmt::Display;
use std::io;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use peerfs_registry::Remote;
use peerfs_store::Reference;
use peerfs_text::Causes;
use serde::{Deserialize, Deserializer};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};

pub use crate::lazy_pulls::PullChoice;
pub use crate::mirror::MirrorConfig;
pub use crate::monitor::MonitorConfig;
pub use crate::names_config::NamesConfig;
pub use crate::peer_config::{PeerConfig, Profile};
pub use crate::replicate_config::ReplicateConfig;
pub use crate::serve::ServeConfig;
pub use crate::source_config::{RegistryConfig, SourceConfig};
use crate::state;

/// Where the configuration is read from if no file is named. It need not exist.
pub const DEFAULT_PATH: &str = "/etc/peerfs/peerfsd.toml";

/// The most requests, transfers and the like that may be configured: a typing error should not
/// become an out-of-memory error.
const COUNT_MAX: usize = 65536;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or a key is unknown or has a wrong value; the cause shows the place.
    #[error("the configuration {} is not valid", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// A value is of the right type but makes no sense.
    #[error("the configuration key {key} {problem}")]
    Value {
        /// The key, with its table.
        key: &'static str,
        /// What is wrong with it and what to write in its place.
        problem: String,
    },
}

/// All settings of the daemon.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The store.
    pub root_dir: PathBuf,
    /// What is this node's own: its key, whom it has banned, what `peerfs pin` has pinned. By default
    /// `/var/lib/peerfsd` for root, and `$XDG_STATE_HOME/peerfsd` for others.
    pub state_dir: Option<PathBuf>,
    /// The kernel's device, or `none` for a daemon that only serves peers.
    pub device: DeviceChoice,
    /// Where the daemon listens for `peerfs pull`, `status` and the like.
    pub control_socket: PathBuf,
    /// How long a request of the kernel may take before it is answered with an error. Below the
    /// mounts' `timeout=`, so that the reader gets the reason.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// When an image that is read is fetched whole.
    pub pull: PullChoice,
    /// What is logged, and how.
    pub log: LogConfig,
    /// The peer node.
    pub peer: PeerConfig,
    /// What bounds the daemon.
    pub limits: LimitsConfig,
    /// How registries are asked.
    pub registry: RegistryConfig,
    /// The page and the metrics.
    pub monitor: MonitorConfig,
    /// A registry for what is not in peerfs form.
    pub mirror: MirrorConfig,
    /// The store over HTTP.
    pub serve: ServeConfig,
    /// Publishers' names.
    pub names: NamesConfig,
    /// Images that are kept for others.
    pub replicate: ReplicateConfig,
    /// Other places to fetch from, asked before the peers.
    pub source: Vec<SourceConfig>,
    /// Images that are kept complete without being asked for.
    pub pin: Vec<PinConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            root_dir: peerfs_store::DEFAULT_ROOT_DIR.into(),
            state_dir: None,
            device: DeviceChoice::default(),
            control_socket: peerfs_control::DEFAULT_SOCKET.into(),
            request_timeout: Duration::from_secs(25),
            pull: PullChoice::default(),
            log: LogConfig::default(),
            peer: PeerConfig::default(),
            limits: LimitsConfig::default(),
            registry: RegistryConfig::default(),
            monitor: MonitorConfig::default(),
            mirror: MirrorConfig::default(),
            serve: ServeConfig::default(),
            names: NamesConfig::default(),
            replicate: ReplicateConfig::default(),
            source: Vec::new(),
            pin: Vec::new(),
        }
    }
}

/// Which device the kernel's requests come from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(from = "PathBuf")]
pub enum DeviceChoice {
    /// `none`: there is no kernel to serve.
    None,
    /// This device.
    Path(PathBuf),
}

impl Default for DeviceChoice {
    fn default() -> Self {
        DeviceChoice::Path("/dev/peerfs".into())
    }
}

impl From<PathBuf> for DeviceChoice {
    fn from(path: PathBuf) -> Self {
        if path.as_os_str() == "none" {
            DeviceChoice::None
        } else {
            DeviceChoice::Path(path)
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`, also per module: `info,peerfs_peer=debug`.
    #[serde(deserialize_with = "log_level")]
    pub level: Targets,
    /// How a line is written.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            level: Targets::new()
                .with_default(Level::INFO)
                .with_target("libp2p", Level::WARN)
                // It warns of what peers do, and of a start without any.
                .with_target("libp2p_kad", Level::ERROR),
            format: LogFormat::default(),
        }
    }
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object of JSON a line, for programs.
    Json,
}

/// What bounds the daemon.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Requests of the kernel that are worked on; half of them are kept for readers that wait.
    pub requests: NonZeroUsize,
    /// Batches of chunks that are fetched at a time, from all sources together.
    pub transfers: NonZeroUsize,
    /// Batches that are fetched at a time from one source.
    pub transfers_per_source: NonZeroUsize,
    /// Reads and writes of the store that run at a time.
    pub store_operations: NonZeroUsize,
    /// Bytes of chunks that may be here and can be fetched again; by default there is no limit.
    pub cache_bytes: Option<NonZeroU64>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let count = |count| NonZeroUsize::new(count).expect("the defaults are not 0");
        LimitsConfig {
            requests: count(8192),
            transfers: count(512),
            transfers_per_source: count(16),
            store_operations: count(16),
            cache_bytes: None,
        }
    }
}

/// An image that is kept complete.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PinConfig {
    /// A digest, or a tag that the store has or will have.
    #[serde(deserialize_with = "image_of_the_store")]
    pub image: Reference,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::Parse`], or [`ConfigError::Value`] for a key that has another name now.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| match renamed(&text) {
            Some(renamed) => renamed,
            None => ConfigError::Parse {
                path: path.to_owned(),
                source,
            },
        })
    }

    /// Reads the file at [`DEFAULT_PATH`]; without one, everything has its default.
    ///
    /// # Errors
    /// Those of [`Config::read`], if there is one.
    pub fn read_default() -> Result<Config, ConfigError> {
        match Config::read(Path::new(DEFAULT_PATH)) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Config::default())
            }
            read => read,
        }
    }

    /// The directory of what is this node's own.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(state::default_path)
    }

    /// The file of the node's key.
    pub fn key_file(&self) -> PathBuf {
        match &self.peer.key_file {
            Some(path) => path.clone(),
            None => self.state_dir().join("peer.key"),
        }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let require = |holds: bool, key, problem: &str| {
            if holds {
                Ok(())
            } else {
                Err(ConfigError::Value {
                    key,
                    problem: problem.to_owned(),
                })
            }
        };
        let absolute = "must be an absolute path: the daemon may be started in any directory";
        require(self.root_dir.is_absolute(), "root_dir", absolute)?;
        require(
            self.control_socket.is_absolute(),
            "control_socket",
            absolute,
        )?;
        require(self.state_dir().is_absolute(), "state_dir", absolute)?;
        require(self.key_file().is_absolute(), "peer.key_file", absolute)?;
        let is_apart = |path: PathBuf| !path.starts_with(&self.root_dir);
        let apart = "must not be in the store, which may be copied and served: two nodes with one key are one to all others";
        require(is_apart(self.state_dir()), "state_dir", apart)?;
        require(is_apart(self.key_file()), "peer.key_file", apart)?;
        if let Some(key) = &self.peer.swarm_key {
            require(key.is_absolute(), "peer.swarm_key", absolute)?;
            let apart = "must not be in the store, which may be copied and served: who has the key is let in";
            require(is_apart(key.clone()), "peer.swarm_key", apart)?;
        }
        if let Some(certificate) = &self.peer.certificate {
            require(certificate.is_absolute(), "peer.certificate", absolute)?;
        }
        if let DeviceChoice::Path(path) = &self.device {
            let problem = "must be an absolute path, or \"none\" for a daemon without a kernel";
            require(path.is_absolute(), "device", problem)?;
        }
        if let Some(file) = &self.registry.auth_file {
            require(file.is_absolute(), "registry.auth_file", absolute)?;
        }
        require(
            (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.request_timeout),
            "request_timeout",
            "must be between \"1s\" and \"1h\"",
        )?;
        require(
            SocketAddr::from_pathname(&self.control_socket).is_ok(),
            "control_socket",
            "is too long for a socket: at most 107 bytes",
        )?;
        self.peer.check()?;
        for (key, count) in [
            ("limits.requests", self.limits.requests),
            ("limits.transfers", self.limits.transfers),
            (
                "limits.transfers_per_source",
                self.limits.transfers_per_source,
            ),
            ("limits.store_operations", self.limits.store_operations),
        ] {
            require(
                count.get() <= COUNT_MAX,
                key,
                &format!("must be at most {COUNT_MAX}"),
            )?;
        }
        self.mirror.check()?;
        let is_closed = self.peer.swarm_key.is_some() || self.peer.certificate.is_some();
        self.serve.check(is_closed)?;
        self.replicate.check()?;
        for source in &self.source {
            match source {
                SourceConfig::Directory(directory) => {
                    let key = "source.directory";
                    require(directory.is_absolute(), key, absolute)?;
                    let another = "must be another store than root_dir";
                    require(*directory != self.root_dir, key, another)?;
                }
                SourceConfig::Url(url) => {
                    Remote::directory(url).map_err(|error| ConfigError::Value {
                        key: "source.url",
                        problem: Causes(&error).to_string(),
                    })?;
                }
                SourceConfig::Oci(_) => (),
            }
        }
        Ok(())
    }
}

/// What to write in the place of a key that has another name than it had.
fn renamed(text: &str) -> Option<ConfigError> {
    let table: toml::Table = text.parse().ok()?;
    table.get("mirror")?.is_array().then(|| ConfigError::Value {
        key: "mirror",
        problem:
            "is called pin: write [[pin]] and image = \"...\" for [[mirror]] and manifest = \"...\""
                .to_owned(),
    })
}

/// A reference to an image that can be in the store or be fetched by its digest.
fn image_of_the_store<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
    let text = String::deserialize(deserializer)?;
    let image = parse(&text)?;
    let place = match image {
        Reference::Digest(_) | Reference::Tag(_) => return Ok(image),
        Reference::Registry(_) => "registries",
        Reference::Published { .. } | Reference::Alias(_) => "publishers",
    };
    let problem = format_args!(
        "{text:?}: this version can't fetch from {place}; name the image by the digest of its manifest"
    );
    Err(serde::de::Error::custom(problem))
}

/// [`Targets`] takes a word that is no level for the name of a module, of which all is logged.
fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Targets, D::Error> {
    let text = String::deserialize(deserializer)?;
    for directive in text.split(',') {
        if !directive.contains('=') {
            parse::<LevelFilter, D::Error>(directive)?;
        }
    }
    parse(&text)
}

/// A value from its text, which an error names.
pub(crate) fn parse<T: FromStr<Err: Display>, E: serde::de::Error>(text: &str) -> Result<T, E> {
    text.parse()
        .map_err(|error| E::custom(format_args!("{text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = Config::read(file.path())?;
        config.check()?;
        Ok(config)
    }

    /// The whole chain of causes, as the program prints it.
    fn refusal(text: &str) -> String {
        use std::error::Error;
        let error = read(text).unwrap_err();
        format!(
            "{error}: {}",
            error.source().map(ToString::to_string).unwrap_or_default()
        )
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = read("").unwrap();
        assert_eq!(config.root_dir, Path::new("/var/lib/peerfs"));
        assert_eq!(config.key_file(), config.state_dir().join("peer.key"));
        assert_eq!(config.device, DeviceChoice::Path("/dev/peerfs".into()));
        assert_eq!(config.request_timeout, Duration::from_secs(25));
    }

    #[test]
    fn the_example_is_the_default_too() {
        let example = include_str!("../peerfsd.toml");
        let example = read(example).unwrap();
        assert_eq!(format!("{example:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn the_keys_that_the_example_leaves_out_are_valid() {
        // `# key = value` is a setting, `## text` is text.
        let example = include_str!("../peerfsd.toml");
        let settings: Vec<&str> = example
            .lines()
            .map(|line| line.strip_prefix("# ").unwrap_or(line))
            .collect();
        // Some are for a node that is on the Internet.
        let settings = settings.join("\n");
        let settings = settings.replace("profile = \"lan\"\n", "profile = \"internet\"\n");
        // What is for a private swarm does not go with what is for everybody.
        let settings = settings.replace("\"127.0.0.1:9465\"", "\"/run/peerfs/serve.sock\"");
        let config = read(&settings).unwrap();
        assert_eq!(config.source.len(), 3);
        assert_eq!(config.pin.len(), 1);
        assert!(config.registry.auth_file.is_some());
        assert!(config.peer.upload_bytes_per_second.is_some());
        assert_eq!(config.peer.external.len(), 1);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("root_dri = '/x'", "root_dri"),
            ("root_dir = 'x'", "root_dir must be an absolute path"),
            ("request_timeout = '5 parsecs'", "request_timeout"),
            ("request_timeout = '0s'", "request_timeout must be between"),
            ("[peer]\nlisten = ['4001']", "4001"),
            ("[peer]\nlisten = []", "peer.listen must have"),
            ("[peer]\nlisten = ['/dns4/a/tcp/1']", "which is a name"),
            ("[peer]\nbootstrap = ['']", "peer.bootstrap has \"\""),
            ("[peer]\nbootstrap = ['/ip4/192.0.2.1']", "has no port"),
            (
                "[peer]\nbootstrap = ['/ip4/192.0.2.1/udp/1/quic-v1']",
                "no TCP address",
            ),
            (
                &format!("control_socket = '/{}'", "x".repeat(107)),
                "control_socket is too long",
            ),
            ("[peer]\nprofile = 'wan'", "lan"),
            (
                "[peer]\nrelay = true",
                "peer.relay is for profile = \"internet\"",
            ),
            (
                "[peer]\nprofile = 'internet'\nexternal = ['/ip4/10.0.0.1/tcp/1']",
                "peer.external has \"/ip4/10.0.0.1/tcp/1\", which means nothing",
            ),
            (
                "[peer]\nupload_bytes_per_second = 0",
                "upload_bytes_per_second",
            ),
            ("[limits]\nrequests = 0", "requests"),
            (
                "[limits]\nrequests = 10000000",
                "limits.requests must be at most",
            ),
            ("[log]\nlevel = 'loud'", "loud"),
            ("[log]\nformat = 'xml'", "xml"),
            (
                "[[source]]\ndirectory = '/var/lib/peerfs'",
                "source.directory must be another",
            ),
            ("[[source]]\nurl = 'ftp://a/'", "source.url must be such as"),
            (
                "[[source]]\noci = 'debian'",
                "is no repository of a registry",
            ),
            ("[[source]]\noci = 'a.example/b:1'", "is no repository"),
            ("[registry]\nauth_file = 'x'", "registry.auth_file must be"),
            ("[[source]]\nuri = 'http://a/'", "uri"),
            ("[[pin]]\nimage = 'a b'", "line 2"),
            (
                "[[pin]]\nimage = 'debian'\n[[pin]]\nimage = 'registry.example/debian'",
                "line 4",
            ),
            (
                "[[pin]]\nimage = 'registry.example/debian'",
                "can't fetch from registries",
            ),
            (
                &format!("[[pin]]\nimage = 'peerfs:{}/base'", "a".repeat(52)),
                "can't fetch from publishers",
            ),
            ("[[mirror]]\nmanifest = 'latest'", "mirror is called pin"),
            ("[mirror]\nlisten = '[::1]:1'", "mirror.upstreams must name"),
            ("[mirror]\nupstreams = ['a/b']", "\"a/b\" is no registry"),
            (
                "[peer]\nswarm_key = '/a'\n[serve]\nlisten = '127.0.0.1:1'",
                "serve.listen must be the path of a Unix socket",
            ),
            (
                "[peer]\ncertificate = '/a'\n[serve]\nlisten = '[::]:1'",
                "serve.listen must be the path of a Unix socket",
            ),
            ("device = 'peerfs'", "device must be an absolute path"),
            ("state_dir = 'x'", "state_dir must be an absolute path"),
            (
                "state_dir = '/var/lib/peerfs/state'",
                "state_dir must not be in the store",
            ),
            (
                "[peer]\nkey_file = '/var/lib/peerfs/peer.key'",
                "peer.key_file must not be in the store",
            ),
            (
                "[peer]\nswarm_key = 'swarm.key'",
                "peer.swarm_key must be an absolute path",
            ),
            (
                "[peer]\nswarm_key = '/var/lib/peerfs/swarm.key'",
                "peer.swarm_key must not be in the store",
            ),
            ("root_dir = ", "line 1"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(named), "{text:?} gives {refusal:?}");
        }
    }
}
