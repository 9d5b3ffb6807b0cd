// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The asking side of the control socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::{Reply, Request, LINE_MAX};

/// How often it is tried to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);

/// The daemons that are asked, one after the other, when each ends before it has answered.
const ASKED_MAX: u32 = 16;
/// Before the next of them.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the socket, or it may not be opened.
    #[error("can't reach peerfsd at {}{}", socket.display(), hint(source))]
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

impl Error {
    /// Whether the daemon has ended, so that another one may answer.
    pub fn is_of_its_end(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match self {
            Error::Transfer(error) => {
                matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
            }
            Error::Connect { .. } | Error::Malformed(_) => false,
        }
    }
}

/// What the user can do about a socket that can't be connected to.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            ", which its user alone may ask; try as root, or name another one with --socket"
        }
        _ => {
            "; is it running, and is this its --socket? Start it with `systemctl start peerfsd`, or `peerfsd`"
        }
    }
}

/// Asks the daemon that listens at `socket` for one reply, and waits at most `timeout`, whoever listens there. When the
/// daemon ends meanwhile, the next one is asked, if there is one and the request can be repeated.
///
/// # Errors
/// [`Error`], [`Error::Transfer`] if it takes longer.
pub fn ask(socket: &Path, request: &Request, timeout: Duration) -> Result<Reply, Error> {
    let deadline = Instant::now() + timeout;
    let mut ended: Option<Error> = None;
    for _ in 0..ASKED_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        match ask_once(socket, request, left) {
            Err(error) if error.is_of_its_end() && request.is_repeatable() => {
                ended = Some(error);
                thread::sleep(PAUSE.min(left));
            }
            // Nobody has come after it.
            Err(error @ Error::Connect { .. }) => return Err(ended.unwrap_or(error)),
            answered => return answered,
        }
    }
    Err(ended.unwrap_or(Error::Transfer(io::ErrorKind::UnexpectedEof.into())))
}

fn ask_once(socket: &Path, request: &Request, timeout: Duration) -> Result<Reply, Error> {
    let deadline = Instant::now() + timeout;
    let mut connection = Connection::open(socket, request, timeout)?;
    let left = deadline.saturating_duration_since(Instant::now());
    match connection.next(left)? {
        Next::Reply(reply) => Ok(*reply),
        Next::Nothing => Err(Error::Transfer(io::ErrorKind::TimedOut.into())),
        Next::End => Err(Error::Transfer(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// A connection on which something was asked. Dropping it tells the daemon that nobody waits for the rest.
pub struct Connection {
    stream: UnixStream,
    /// What has come and was not returned yet.
    received: Vec<u8>,
    /// How much of it has no end of a line.
    looked_at: usize,
}

/// What there was to receive.
#[derive(Debug)]
pub enum Next {
    /// A reply.
    Reply(Box<Reply>),
    /// Not a whole one in the time that was given.
    Nothing,
    /// The end: the daemon has closed the connection.
    End,
}

impl Connection {
    /// Connects to the daemon that listens at `socket` and asks; waits at most `timeout` for each.
    ///
    /// # Errors
    /// [`Error::Connect`] or [`Error::Transfer`].
    pub fn open(socket: &Path, request: &Request, timeout: Duration) -> Result<Self, Error> {
        let deadline = Instant::now() + timeout;
        let mut stream = connect(socket, deadline).map_err(|source| Error::Connect {
            socket: socket.to_owned(),
            source,
        })?;
        let mut send = || {
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            stream.set_write_timeout(Some(remaining(deadline)?))?;
            stream.write_all(&line)
        };
        send().map_err(Error::Transfer)?;
        Ok(Connection {
            stream,
            received: Vec::new(),
            looked_at: 0,
        })
    }

    /// The next reply. Waits at most `timeout` for it.
    ///
    /// # Errors
    /// [`Error::Transfer`] if the connection broke, [`Error::Malformed`] if it is no reply.
    pub fn next(&mut self, timeout: Duration) -> Result<Next, Error> {
        let deadline = Instant::now() + timeout;
        let mut part = vec![0; 64 * 1024];
        loop {
            if let Some(line) = self.take_line() {
                let reply = serde_json::from_slice(&line).map_err(Error::Malformed)?;
                return Ok(Next::Reply(reply));
            }
            if self.received.len() as u64 >= LINE_MAX {
                return Err(Error::Transfer(io::ErrorKind::FileTooLarge.into()));
            }
            let Ok(left) = remaining(deadline) else {
                return Ok(Next::Nothing);
            };
            self.stream
                .set_read_timeout(Some(left))
                .map_err(Error::Transfer)?;
            match self.stream.read(&mut part) {
                Ok(0) if self.received.is_empty() => return Ok(Next::End),
                Ok(0) => return Err(Error::Transfer(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    let part = part.get(..count).unwrap_or_default();
                    self.received.extend_from_slice(part);
                }
                Err(error) if is_no_answer_yet(&error) => (),
                Err(error) => return Err(Error::Transfer(error)),
            }
        }
    }

    /// A whole line of what has come, if there is one.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        let rest = self.received.get(self.looked_at..).unwrap_or_default();
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            self.looked_at = self.received.len();
            return None;
        };
        let rest = self.received.split_off(self.looked_at + length + 1);
        self.looked_at = 0;
        Some(std::mem::replace(&mut self.received, rest))
    }
}

/// Whether a read ended because of its timeout or of a signal.
fn is_no_answer_yet(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// Connects to the daemon that listens at a socket; waits while too many others do who are not accepted either.
///
/// # Errors
/// What the system says, [`io::ErrorKind::TimedOut`] at the deadline.
pub fn connect(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match net::connect(&socket, &address) {
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
    fn lines_come_whole_however_they_are_cut() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection {
            stream: ours,
            received: Vec::new(),
            looked_at: 0,
        };
        theirs.write_all(b"{\"pinned\":\"a\"}\n{\"pin").unwrap();
        let mut next = || connection.next(TIMEOUT / 4);
        assert!(matches!(next(), Ok(Next::Reply(reply)) if *reply == Reply::Pinned("a".into())));
        assert!(matches!(next(), Ok(Next::Nothing)));
        theirs.write_all(b"ned\":\"b\"}\n{\"error").unwrap();
        assert!(matches!(next(), Ok(Next::Reply(reply)) if *reply == Reply::Pinned("b".into())));
        drop(theirs);
        assert!(matches!(next(), Err(Error::Transfer(_))), "half a line");
    }

    #[test]
    fn when_the_daemon_ends_the_next_one_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = thread::spawn(move || {
            let mut asked = 0;
            // The last one answers; before it there are two that end, one of them before it has read.
            for answers in [false, false, true] {
                let (mut stream, _) = listener.accept().unwrap();
                asked += 1;
                if asked > 1 {
                    let _ = stream.read(&mut [0; 64]);
                }
                if answers {
                    stream.write_all(b"{\"pinned\":\"a\"}\n").unwrap();
                }
            }
            asked
        });
        let pin = Request::Pin { image: "a".into() };
        let answer = ask(&socket, &pin, TIMEOUT * 10).unwrap();
        assert_eq!(
            (answer, serving.join().unwrap()),
            (Reply::Pinned("a".into()), 3)
        );
        // Nobody listens any more.
        let listener = UnixListener::bind(folder.path().join("other")).unwrap();
        let other = folder.path().join("other");
        let serving = thread::spawn(move || drop(listener.accept().unwrap()));
        let unban = Request::Unban {
            peer: None,
            all: true,
        };
        let outcome = ask(&other, &unban, TIMEOUT * 10);
        assert!(matches!(outcome, Err(Error::Transfer(_))), "{outcome:?}");
        serving.join().unwrap();
    }

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
        let outcome = ask(&socket, &Request::Status, TIMEOUT);
        assert!(matches!(outcome, Err(Error::Transfer(_))), "{outcome:?}");
        let _listener = slow.join().unwrap();
        // Nobody accepts, until no more can wait for that.
        let mut waiting = Vec::new();
        while let Ok(stream) = connect(&socket, Instant::now()) {
            waiting.push(stream);
        }
        let outcome = ask(&socket, &Request::Status, TIMEOUT);
        assert!(matches!(outcome, Err(Error::Connect { .. })), "{outcome:?}");
        assert!(start.elapsed() < 20 * TIMEOUT);
    }
}
