// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What peerfsd is told by its configuration: as much of it as is looked at here.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use peerfs_store::printable;
use serde::Deserialize;

use super::Finding;
use crate::output::one_line;

const CHECK: &str = "configuration";
/// Where peerfsd reads it from unless it is told otherwise.
const DEFAULT_PATH: &str = "/etc/peerfs/peerfsd.toml";
/// What is shown of what peerfsd says.
const SAYING_MAX: usize = 500;

/// Where things are. Whether all of a configuration is valid, peerfsd says.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    pub(super) root_dir: PathBuf,
    pub(super) state_dir: Option<PathBuf>,
    device: PathBuf,
    pub(super) control_socket: PathBuf,
    pub(super) peer: PeerSettings,
}

/// Those of its node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PeerSettings {
    pub(super) swarm_key: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            root_dir: peerfs_store::DEFAULT_ROOT_DIR.into(),
            state_dir: None,
            device: "/dev/peerfs".into(),
            control_socket: peerfs_control::DEFAULT_SOCKET.into(),
            peer: PeerSettings::default(),
        }
    }
}

impl Settings {
    /// Those of a file, or of the one that peerfsd reads by default, and what is wrong with it.
    pub(super) fn read(file: Option<&Path>) -> (Self, Vec<Finding>) {
        let path = file.unwrap_or(Path::new(DEFAULT_PATH));
        let shown = printable(path);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {
                let text = format!("{shown} does not exist: everything has its default");
                return (Settings::default(), vec![Finding::ok(CHECK, text)]);
            }
            Err(error) => {
                let text = format!("{shown} can't be read: {error}");
                let finding = match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        Finding::warning(CHECK, text, "try as root; the defaults are looked at")
                    }
                    _ => Finding::error(CHECK, text, "name another with --config"),
                };
                return (Settings::default(), vec![finding]);
            }
        };
        let valid = format!("{shown} is valid");
        match toml::from_str::<Settings>(&text) {
            Ok(settings) => {
                let finding = match check(path) {
                    Checked::Valid => Finding::ok(CHECK, valid),
                    Checked::Refused(saying) => {
                        let text = format!("peerfsd refuses {shown}: {saying}");
                        Finding::error(CHECK, text, "mend it, and start peerfsd anew")
                    }
                    Checked::NoDaemon => Finding::warning(
                        CHECK,
                        format!("{shown} could not be checked, for there is no peerfsd to ask"),
                        "install peerfsd beside peerfs",
                    ),
                };
                (settings, vec![finding])
            }
            Err(error) => {
                let text = format!(
                    "{shown} is not valid: {}",
                    one_line(error.message().as_bytes(), SAYING_MAX)
                );
                let finding = Finding::error(CHECK, text, "`peerfsd --check` shows the place");
                (Settings::default(), vec![finding])
            }
        }
    }

    /// The kernel's device; None for a daemon without a kernel.
    pub(super) fn device(&self) -> Option<&Path> {
        let is_none = self.device.as_os_str() == OsStr::new("none");
        (!is_none).then_some(&*self.device)
    }
}

enum Checked {
    Valid,
    Refused(String),
    NoDaemon,
}

/// What peerfsd says of a configuration: the one beside this program, or else the one of the user's path.
fn check(path: &Path) -> Checked {
    let beside = std::env::current_exe().map(|program| program.with_file_name("peerfsd"));
    let program = beside.ok().filter(|program| program.exists());
    let program = program.unwrap_or_else(|| "peerfsd".into());
    let checked = Command::new(program)
        .arg("--config")
        .arg(path)
        .arg("--check")
        .stdin(Stdio::null())
        .output();
    match checked {
        Ok(checked) if checked.status.success() => Checked::Valid,
        Ok(checked) => Checked::Refused(one_line(&checked.stderr, SAYING_MAX)),
        Err(_) => Checked::NoDaemon,
    }
}
