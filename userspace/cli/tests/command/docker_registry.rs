// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Debian's docker-registry, for the tests of several crates.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

/// A registry on the loopback interface.
pub struct Registry {
    pub folder: TempDir,
    pub address: String,
    process: Child,
}

impl Registry {
    /// Starts one; `http` and `auth` are parts of its configuration.
    pub fn start(folder: TempDir, http: &str, auth: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap().to_string();
        drop(port);
        let root = folder.path().join("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"{http}}}\n{auth}\n",
            root.display()
        );
        let path = folder.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("scripts/setup-packages installs docker-registry");
        for _ in 0..200 {
            if TcpStream::connect(&address).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        Registry {
            folder,
            address,
            process,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
