// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The asking side of the control socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{connect, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::{Reply, Request, LINE_MAX};

/// How often it is tried to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the socket, or it may not be opened.
    #[error("can't reach peerfsd at {}; is it running, and is this its --socket?", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke or the daemon did not answer in time.
    #[error("peerfsd did not answer")]
    Transfer(#[source] io::Error),
    /// The daemon answered something else than a reply.
    #[error("peerfsd's answer is not understood; do peerfs and peerfsd have the same version?")]
    Malformed(#[source] serde_json::Error),
}

/// Asks the daemon that listens at `socket`, and waits at most `timeout`, whoever listens there.
pub fn ask(socket: &Path, request: Request, timeout: Duration) -> Result<Reply, Error> {
    let deadline = Instant::now() + timeout;
    let stream = connect_until(socket, deadline).map_err(|source| Error::Connect {
        socket: socket.to_owned(),
        source,
    })?;
    let line = exchange(&stream, request, deadline).map_err(Error::Transfer)?;
    serde_json::from_slice(&line).map_err(Error::Malformed)
}

/// Connects; waits while too many others do who are not accepted either.
fn connect_until(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address) {
            Ok(()) => {
                let stream = UnixStream::from(socket);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(Errno::AGAIN) => {
                remaining(deadline)?;
                thread::sleep(CONNECT_INTERVAL);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Sends the request and receives a line.
fn exchange(mut stream: &UnixStream, request: Request, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(&line)?;
    line.clear();
    let mut part = vec![0; 64 * 1024];
    while line.len() < LINE_MAX as usize && line.last() != Some(&b'\n') {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        let count = stream.read(&mut part)?;
        if count == 0 {
            break;
        }
        line.extend_from_slice(part.get(..count).unwrap_or_default());
    }
    Ok(line)
}

/// How much time there is left.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    #[test]
    fn nobody_waits_longer_than_the_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let start = Instant::now();
        // One who answers, but never to an end.
        let slow = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b"x").is_ok() {
                thread::sleep(TIMEOUT / 10);
            }
            listener
        });
        let outcome = ask(&socket, Request::Status, TIMEOUT);
        assert!(matches!(outcome, Err(Error::Transfer(_))), "{outcome:?}");
        let _listener = slow.join().unwrap();
        // Nobody accepts, until no more can wait for that.
        let mut waiting = Vec::new();
        while let Ok(stream) = connect_until(&socket, Instant::now()) {
            waiting.push(stream);
        }
        let outcome = ask(&socket, Request::Status, TIMEOUT);
        assert!(matches!(outcome, Err(Error::Connect { .. })), "{outcome:?}");
        assert!(start.elapsed() < 20 * TIMEOUT);
    }
}
