// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The command line of `peerfsd`.

use std::io;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use clap_mangen::Man;

use crate::config::{Config, ConfigError, DeviceChoice, LogFormat};

/// Serves /dev/peerfs for a store: fetches what is read and missing from peers, verifies it, and
/// serves other peers.
#[derive(Clone, Debug, Parser)]
#[command(name = "peerfsd", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// The configuration file [default: /etc/peerfs/peerfsd.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The store, made if it does not exist; overrides the configuration
    #[arg(long, value_name = "DIR")]
    pub root_dir: Option<PathBuf>,

    /// What is this node's own, its key above all, made if it does not exist; overrides the configuration
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// The kernel's device, or `none` to serve peers only; overrides the configuration
    #[arg(long, value_name = "PATH")]
    pub device: Option<PathBuf>,

    /// Where to listen for `peerfs pull`, `status` and the like; overrides the configuration
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,

    /// How the log on standard error is written; overrides the configuration
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Check the configuration, say whether it is valid, and end
    #[arg(long)]
    pub check: bool,

    /// Print the man page, and end
    #[arg(long, hide = true)]
    pub man: bool,
}

const AFTER_HELP: &str = "\
Exit status: 0 if it was told to end (SIGTERM, SIGINT), 1 if it could not start or go on,
2 if the command line or the configuration is wrong. After SIGHUP the configuration is read again: request_timeout,
pull, log.level, limits.cache_bytes and pin change at once. The log names other keys that have changed, for which the
daemon has to be started again, which mounts do not notice. A configuration that is not valid changes nothing.

The example configuration peerfsd.toml explains every key. `peerfs status` shows what the daemon does.";

impl Arguments {
    /// The configuration that the file and the command line make together.
    ///
    /// # Errors
    /// If the file can't be read, or if what it and the command line say is not valid.
    pub fn to_config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::read_default()?,
        };
        if let Some(root_dir) = &self.root_dir {
            config.root_dir = absolute("root_dir", root_dir)?;
        }
        if let Some(state_dir) = &self.state_dir {
            config.state_dir = Some(absolute("state_dir", state_dir)?);
        }
        if let Some(device) = &self.device {
            config.device = DeviceChoice::from(device.clone());
        }
        if let Some(control_socket) = &self.control_socket {
            config.control_socket = absolute("control_socket", control_socket)?;
        }
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
        config.check()?;
        Ok(config)
    }
}

/// The man page of section 8, for troff.
///
/// # Errors
/// None that memory does not give.
pub fn man_page() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(Arguments::command())
        .section("8")
        .render(&mut page)?;
    Ok(page)
}

/// A path on the command line is relative to the working directory.
fn absolute(key: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|error| ConfigError::Value {
        key,
        problem: format!("can't be made absolute: {error}"),
    })
}
