// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The control socket: tells `peerfs status` how the daemon is doing.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use peerfs_control::{Reply, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::status::StatusReader;

/// Clients at a time; others wait in the socket's queue.
const CLIENTS_MAX: usize = 16;
/// The longest request, in bytes.
const REQUEST_MAX: u64 = 4096;
/// How long a client may be silent, or take for an answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A control socket that listens. Its file is removed when it is dropped.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, which only its owner may use. A socket that a dead daemon left there is
    /// replaced. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AddrInUse`] if somebody listens there.
    pub fn listen(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let is_socket =
            std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(ControlSocket {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers clients until `shutdown`.
    pub async fn serve(self, status: StatusReader, shutdown: CancellationToken) {
        let status = Arc::new(status);
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = clients.join_next() => (),
                accepted = self.listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn(serve_client(stream, Arc::clone(&status)));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept on the control socket");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Whoever has removed it already has done no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_client(stream: UnixStream, status: Arc<StatusReader>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    loop {
        line.clear();
        let mut limited = (&mut reader).take(REQUEST_MAX);
        match timeout(CLIENT_TIMEOUT, limited.read_line(&mut line)).await {
            Ok(Ok(1..)) => (),
            _ => return,
        }
        let reply = match serde_json::from_str(&line) {
            Ok(Request::Status) => match status.read().await {
                Ok(status) => Reply::Status(status),
                Err(error) => Reply::Error(error.to_string()),
            },
            Err(error) => Reply::Error(format!("not a request: {error}")),
        };
        let Ok(mut answer) = serde_json::to_vec(&reply) else {
            return;
        };
        answer.push(b'\n');
        match timeout(CLIENT_TIMEOUT, writer.write_all(&answer)).await {
            Ok(Ok(())) => (),
            _ => return debug!("a client of the control socket went away"),
        }
    }
}
