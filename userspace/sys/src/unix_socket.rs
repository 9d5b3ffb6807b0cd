// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Unix sockets that have a name.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{
    bind, getsockname, getsockopt, listen as begin, socket, sockopt, AddressFamily, Backlog,
    SockFlag, SockType, UnixAddr,
};
use nix::sys::stat::{fchmod, Mode};

/// Listens at `path`, without blocking, for those whom `mode` lets write there: nobody else could connect at any time. A
/// socket that a dead process has left there is replaced.
///
/// # Errors
/// What the system says; [`io::ErrorKind::AddrInUse`] if somebody listens there, or something else is there.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    let socket = named(path, mode)?;
    begin(&socket, Backlog::MAXCONN)?;
    Ok(socket.into())
}

/// A socket that somebody else has made, without blocking.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if it is no Unix stream socket that listens.
pub fn passed(socket: OwnedFd) -> io::Result<UnixListener> {
    let is_listening = getsockopt(&socket, sockopt::AcceptConn)?;
    let is_stream = getsockopt(&socket, sockopt::SockType)? == SockType::Stream;
    let is_unix = getsockname::<UnixAddr>(socket.as_raw_fd()).is_ok();
    if !(is_listening && is_stream && is_unix) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket with this name, which nobody can connect to yet.
fn named(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Linux makes the name with the mode that the socket has.
    fchmod(&socket, Mode::from_bits_truncate(mode))?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_else_can_ever_connect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _socket = named(&path, 0o600).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let early = UnixStream::connect(&path);
        assert_eq!(early.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn only_what_a_dead_process_has_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = listen(&path, 0o660).unwrap();
        let second = listen(&path, 0o660).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let third = listen(&path, 0o660).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(third);
        let file = folder.path().join("file");
        fs::write(&file, "content").unwrap();
        assert!(listen(&file, 0o660).is_err());
        assert_eq!(fs::read(file).unwrap(), b"content");
    }
}
