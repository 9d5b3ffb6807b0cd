// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Another machine, which publishes what layers of ordinary images unpack to.

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{program, succeed, until, Machine, Process};

/// A machine with a store, a daemon and a key of its own.
pub struct Converter {
    folder: TempDir,
    _peerfsd: Process,
}

impl Converter {
    /// Starts it as a neighbour of a machine.
    pub fn start(machine: &Machine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut status = Command::new(program("peerfs"));
        status.args(["status", "--json", "--socket"]);
        let status = succeed(status.arg(machine.path("control")));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let address = &status["listen_addresses"][0];
        let config = format!(
            "root_dir = {:?}\nstate_dir = {:?}\ncontrol_socket = {:?}\ndevice = \"none\"\n[peer]\n\
             mdns = false\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nbootstrap = [{address}]\n",
            path("store"),
            path("state"),
            path("control"),
        );
        fs::write(path("peerfsd.toml"), config).unwrap();
        let mut peerfsd = Command::new(program("peerfsd"));
        peerfsd.arg("--config").arg(path("peerfsd.toml"));
        let peerfsd = Process::start(peerfsd.stderr(Stdio::null()));
        let converter = Converter {
            folder,
            _peerfsd: peerfsd,
        };
        until("peerfsd answers", || {
            let status = converter.ask("status").output();
            status.unwrap().status.success()
        });
        succeed(converter.command("key").arg("new"));
        converter
    }

    /// Publishes what the layers of an image unpack to; returns the name.
    pub fn publish(&self, reference: &str) -> String {
        let mut publish = self.ask("publish-layers");
        succeed(publish.arg(reference)).trim().to_owned()
    }

    /// The ids of the layers that are published; sorted.
    pub fn listed(&self) -> Vec<String> {
        let listed = succeed(self.command("ls").args(["layers", "/"]));
        listed.lines().map(str::to_owned).collect()
    }

    fn ask(&self, name: &str) -> Command {
        let mut command = self.command(name);
        command
            .arg("--socket")
            .arg(self.folder.path().join("control"));
        command
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program("peerfs"));
        command.arg(name);
        command.env("PEERFS_ROOT_DIR", self.folder.path().join("store"));
        command.env("PEERFS_KEYS", self.folder.path().join("keys"));
        command
    }
}
