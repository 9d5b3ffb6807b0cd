// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The control socket (Documentation/control.md).

mod fetches;
mod seats;
mod session;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use peerfs_sys::unix_socket;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::commands::Commands;
use seats::Seats;

/// A control socket that listens. Its file is removed when it is dropped, if it was made here.
pub struct ControlSocket {
    listener: UnixListener,
    made: Option<PathBuf>,
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
        let listener = unix_socket::listen(path, 0o600)?;
        Ok(ControlSocket {
            listener: UnixListener::from_std(listener)?,
            made: Some(path.to_owned()),
        })
    }

    /// Listens at a socket that somebody else has made and keeps when this daemon ends: who connects meanwhile waits for
    /// the next one. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If it is no Unix stream socket that listens.
    pub fn passed(socket: OwnedFd) -> io::Result<Self> {
        let listener = unix_socket::passed(socket)?;
        Ok(ControlSocket {
            listener: UnixListener::from_std(listener)?,
            made: None,
        })
    }

    /// The name that clients connect to, if it has one.
    pub fn path(&self) -> Option<PathBuf> {
        let address = self.listener.local_addr().ok()?;
        address.as_pathname().map(Path::to_owned)
    }

    /// Answers clients until `shutdown`.
    pub async fn serve(self, commands: Commands, shutdown: CancellationToken) {
        let commands = Arc::new(commands);
        let seats = Seats::new();
        let mut clients = JoinSet::new();
        let accept = async || Some((seats.take().await?, self.listener.accept().await));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = clients.join_next() => (),
                Some((seat, accepted)) = accept() => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn(session::serve(stream, Arc::clone(&commands), seat));
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
        if let Some(path) = &self.made {
            // Whoever has removed it already has done no harm.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_passed_stays_and_must_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let listening = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let socket = ControlSocket::passed(listening.try_clone().unwrap().into()).unwrap();
        assert_eq!(socket.path().as_deref(), Some(&*path));
        drop(socket);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (connected, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        for wrong in [OwnedFd::from(tcp), OwnedFd::from(connected)] {
            assert!(ControlSocket::passed(wrong).is_err());
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(ControlSocket::passed(file.into()).is_err());
    }
}
