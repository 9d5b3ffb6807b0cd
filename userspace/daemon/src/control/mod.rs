// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The control socket (Documentation/control.md).

mod fetches;
mod seats;
mod session;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    getsockname, getsockopt, listen, socket, sockopt, AddressFamily, Backlog, SockFlag, SockType,
    UnixAddr,
};
use nix::sys::stat::{fchmod, Mode};
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
        let is_socket =
            std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        }
        let socket = bind(path)?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(ControlSocket {
            listener: UnixListener::from_std(socket.into())?,
            made: Some(path.to_owned()),
        })
    }

    /// Listens at a socket that somebody else has made and keeps when this daemon ends: who connects meanwhile waits for
    /// the next one. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If it is no Unix stream socket that listens.
    pub fn passed(socket: OwnedFd) -> io::Result<Self> {
        let is_listening = getsockopt(&socket, sockopt::AcceptConn)?;
        let is_stream = getsockopt(&socket, sockopt::SockType)? == SockType::Stream;
        let is_unix = getsockname::<UnixAddr>(socket.as_raw_fd()).is_ok();
        if !(is_listening && is_stream && is_unix) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
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
        if let Some(path) = &self.made {
            // Whoever has removed it already has done no harm.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

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
