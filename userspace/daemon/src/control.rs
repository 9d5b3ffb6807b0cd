// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The control socket: tells `peerfs status` how the daemon is doing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{listen, socket, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{fchmod, Mode};
use peerfs_control::{Reply, Request, LINE_MAX};
use peerfs_text::Causes;
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
        let socket = bind(path)?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(ControlSocket {
            listener: UnixListener::from_std(socket.into())?,
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

/// A socket with this name, which nobody can connect to yet and nobody else ever could.
fn bind(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Linux makes the name with the mode that the socket has.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
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
                Err(error) => Reply::Error(Causes(&error).to_string()),
            },
            Err(error) => Reply::Error(format!("not a request: {error}")),
        };
        let Ok(answer) = to_line(&reply) else {
            return;
        };
        match timeout(CLIENT_TIMEOUT, writer.write_all(&answer)).await {
            Ok(Ok(())) => (),
            _ => return debug!("a client of the control socket went away"),
        }
    }
}

/// An answer as it is sent: never longer than what a client reads.
fn to_line(reply: &Reply) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(reply)?;
    if line.len() as u64 >= LINE_MAX {
        let problem = format!("the answer has more than {LINE_MAX} bytes");
        line = serde_json::to_vec(&Reply::Error(problem))?;
    }
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_answer_is_never_longer_than_what_is_read() {
        let long = Reply::Error("x".repeat(LINE_MAX as usize));
        let line = to_line(&long).unwrap();
        assert!((line.len() as u64) < LINE_MAX && line.ends_with(b"\n"));
    }

    #[test]
    fn nobody_else_can_ever_connect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let _socket = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let early = std::os::unix::net::UnixStream::connect(&path);
        assert_eq!(early.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
