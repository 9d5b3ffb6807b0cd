// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Asks the daemon for what is missing (Documentation/control.md, "Fetches").

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{sync_channel, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use peerfs_control::{connect, FetchLine, Reply, Request, LINE_MAX};
use rustix::io::Errno;
use tracing::{debug, warn};

/// How often it is tried to reach a daemon that is not there.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// How long a daemon may take to read a request: it reads at once.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why something was not fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FetchError {
    /// The daemon says so.
    #[error("peerfsd can't fetch it: {0}")]
    Refused(Errno),
    /// It did not come in time, be it that there is no daemon.
    #[error("it did not come in time")]
    TimedOut,
}

impl FetchError {
    /// What a reader is told.
    pub(crate) fn errno(self) -> Errno {
        match self {
            FetchError::Refused(errno) => errno,
            FetchError::TimedOut => Errno::TIMEDOUT,
        }
    }
}

/// The daemon that fills a store. There need not be one yet: whoever waits for something asks each daemon that comes.
pub struct Daemon {
    socket: PathBuf,
    /// How long a reader waits.
    timeout: Duration,
    connection: Mutex<Option<Arc<Connection>>>,
    /// None while there is a daemon.
    away: Mutex<Option<Away>>,
}

/// How long no daemon has been there.
#[derive(Clone, Copy)]
struct Away {
    since: Instant,
    /// When one was last looked for.
    looked: Instant,
}

/// A connection on which things are asked for, until either side ends it.
struct Connection {
    stream: UnixStream,
    /// Held by who writes a line.
    sending: Mutex<()>,
    waiting: Mutex<Waiting>,
}

/// Those who wait for an answer, by the ids of their requests.
#[derive(Default)]
struct Waiting {
    last_id: u64,
    /// Nothing comes any more.
    is_closed: bool,
    answers: HashMap<u64, SyncSender<Option<Errno>>>,
}

impl Daemon {
    /// The daemon that listens at this socket; each request waits at most so long.
    pub fn new(socket: &Path, timeout: Duration) -> Self {
        Daemon {
            socket: socket.to_owned(),
            timeout,
            connection: Mutex::new(None),
            away: Mutex::new(None),
        }
    }

    /// Has the daemon bring something into the store; `request` makes the request with a given id. When others have
    /// waited for a daemon as long as a reader waits, this one does not: who reads a damaged tree would wait for each file.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn fetch(&self, request: impl Fn(u64) -> FetchLine) -> Result<(), FetchError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.ask(&request, deadline) {
                Ok(None) => return Ok(()),
                Ok(Some(errno)) => return Err(FetchError::Refused(errno)),
                // Another daemon may come.
                Err(error) => {
                    debug!(%error, socket = %self.socket.display(), "peerfsd does not answer")
                }
            }
            if self.is_given_up() {
                return Err(FetchError::TimedOut);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FetchError::TimedOut);
            }
            thread::sleep(RETRY_INTERVAL.min(left));
        }
    }

    /// Tells a daemon something that needs no answer, if there is one.
    pub(crate) fn tell(&self, lines: &[FetchLine]) {
        if lines.is_empty() {
            return;
        }
        let told = self.connect(Instant::now() + WRITE_TIMEOUT, false);
        let told =
            told.and_then(|connection| lines.iter().try_for_each(|line| connection.send(line)));
        if let Err(error) = told {
            debug!(%error, socket = %self.socket.display(), "peerfsd is not told what was read");
        }
    }

    /// Asks one daemon, once: what it says, or why there is no answer.
    fn ask(
        &self,
        request: &impl Fn(u64) -> FetchLine,
        deadline: Instant,
    ) -> io::Result<Option<Errno>> {
        let connection = self.connect(deadline, true)?;
        let (answer, answered) = sync_channel(1);
        let id = connection.expect(answer)?;
        connection.send(&request(id))?;
        let left = deadline.saturating_duration_since(Instant::now());
        match answered.recv_timeout(left) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(RecvTimeoutError::Timeout) => {
                lock(&connection.waiting).answers.remove(&id);
                connection.send(&FetchLine::Cancel { id })?;
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// The connection, made anew if it ended. That there is no daemon counts only if somebody waits for it.
    fn connect(&self, deadline: Instant, is_waited_for: bool) -> io::Result<Arc<Connection>> {
        let mut current = lock(&self.connection);
        if let Some(connection) = current.as_ref() {
            if !lock(&connection.waiting).is_closed {
                return Ok(Arc::clone(connection));
            }
        }
        let connected = connect(&self.socket, deadline);
        if is_waited_for || connected.is_ok() {
            self.note_away(connected.is_err(), Instant::now());
        }
        let stream = connected?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let reader = BufReader::new(stream.try_clone()?);
        let connection = Arc::new(Connection {
            stream,
            sending: Mutex::default(),
            waiting: Mutex::default(),
        });
        connection.send(&Request::Fetch)?;
        let read = Arc::clone(&connection);
        thread::Builder::new()
            .name("answers".to_owned())
            .spawn(move || read.receive(reader))?;
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// A daemon was looked for. One that was not missed all the time since it was last away is away anew.
    fn note_away(&self, is_away: bool, now: Instant) {
        let mut away = lock(&self.away);
        let goes_on = |away: &Away| now.saturating_duration_since(away.looked) <= self.timeout;
        *away = is_away.then(|| Away {
            since: away.filter(goes_on).map_or(now, |away| away.since),
            looked: now,
        });
    }

    /// Whether no daemon has been there for as long as a reader waits for one.
    fn is_given_up(&self) -> bool {
        let away = *lock(&self.away);
        away.is_some_and(|away| away.since.elapsed() >= self.timeout)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(connection) = lock(&self.connection).take() {
            connection.close();
        }
    }
}

impl Connection {
    /// Has the answer to the next request sent there; the request's id.
    fn expect(&self, answer: SyncSender<Option<Errno>>) -> io::Result<u64> {
        let mut waiting = lock(&self.waiting);
        if waiting.is_closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        waiting.last_id += 1;
        let id = waiting.last_id;
        waiting.answers.insert(id, answer);
        Ok(id)
    }

    fn send(&self, line: &impl serde::Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let sending = lock(&self.sending);
        let sent = (&self.stream).write_all(&bytes);
        drop(sending);
        // Half a line can't be mended.
        sent.inspect_err(|_| self.close())
    }

    /// Hands out answers until the connection ends.
    fn receive(&self, mut reader: BufReader<UnixStream>) {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
            if !matches!(read, Ok(1..)) {
                break;
            }
            match serde_json::from_slice(&line) {
                Ok(Reply::Fetched { id, errno }) => {
                    if let Some(answer) = lock(&self.waiting).answers.remove(&id) {
                        // Who has given up meanwhile does not listen.
                        let _ = answer.try_send(errno.map(Errno::from_raw_os_error));
                    }
                }
                Ok(Reply::Error(reason)) => {
                    warn!(reason, "peerfsd refuses to fetch");
                    break;
                }
                other => {
                    warn!(?other, "peerfsd's answer is not understood");
                    break;
                }
            }
        }
        self.close();
    }

    fn close(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.is_closed = true;
        // Those who wait see that nobody will answer.
        waiting.answers.clear();
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Locks what is valid after every step, whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn request(id: u64) -> FetchLine {
        FetchLine::Blob {
            id,
            image: "a".repeat(64),
            blob: "b".repeat(64),
            readahead: false,
        }
    }

    /// After so many requests, answers those with this errno, in the reverse order, and ends.
    fn answer(stream: &UnixStream, requests: usize, errno: Option<i32>) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), r#"{"command":"fetch"}"#);
        let mut ids = Vec::new();
        for line in lines.by_ref().take(requests) {
            match serde_json::from_str(&line.unwrap()).unwrap() {
                FetchLine::Blob { id, .. } => ids.push(id),
                other => panic!("{other:?}"),
            }
        }
        for id in ids.into_iter().rev() {
            let mut line = serde_json::to_vec(&Reply::Fetched { id, errno }).unwrap();
            line.push(b'\n');
            let mut stream = stream;
            stream.write_all(&line).unwrap();
        }
    }

    #[test]
    fn who_waits_asks_the_next_daemon_until_it_has_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control");
        let asking = Arc::new(Daemon::new(&socket, Duration::from_secs(30)));
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let asking = Arc::clone(&asking);
                thread::spawn(move || asking.fetch(request))
            })
            .collect();
        // There is no daemon at first; the first one dies with all requests, the second one with some, and then each one
        // after its first request.
        thread::sleep(Duration::from_millis(50));
        let listener = UnixListener::bind(&socket).unwrap();
        drop(listener.accept().unwrap());
        answer(&listener.accept().unwrap().0, 3, None);
        listener.set_nonblocking(true).unwrap();
        while !readers.iter().all(thread::JoinHandle::is_finished) {
            match listener.accept() {
                Ok((stream, _)) => answer(&stream, 1, None),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Ok(()));
        }
        listener.set_nonblocking(false).unwrap();
        let refused = thread::spawn(move || asking.fetch(request));
        answer(&listener.accept().unwrap().0, 1, Some(113));
        let errno = Errno::from_raw_os_error(113);
        assert_eq!(refused.join().unwrap(), Err(FetchError::Refused(errno)));
    }

    #[test]
    fn who_tells_something_waits_for_no_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let timeout = Duration::from_millis(300);
        let asking = Daemon::new(&folder.path().join("control"), timeout);
        let begun = Instant::now();
        while begun.elapsed() < 2 * timeout {
            asking.tell(&[FetchLine::Cancel { id: 1 }]);
            thread::sleep(timeout / 6);
        }
        // Nobody has waited for one yet: the first reader who does has all of its time.
        let reading = Instant::now();
        assert_eq!(asking.fetch(request), Err(FetchError::TimedOut));
        assert!(reading.elapsed() >= timeout);
    }

    #[test]
    fn nobody_waits_longer_than_the_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control");
        let begun = Instant::now();
        let asking = Daemon::new(&socket, Duration::from_millis(300));
        assert_eq!(asking.fetch(request), Err(FetchError::TimedOut));
        // Nobody waits again for a daemon that is not there.
        let again = Instant::now();
        for _ in 0..20 {
            assert_eq!(asking.fetch(request), Err(FetchError::TimedOut));
        }
        assert!(again.elapsed() < Duration::from_millis(300));
        // But when it may have come meanwhile.
        thread::sleep(Duration::from_millis(350));
        let again = Instant::now();
        assert_eq!(asking.fetch(request), Err(FetchError::TimedOut));
        assert!(again.elapsed() >= Duration::from_millis(300));
        // One who takes requests and answers none.
        let listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(asking.fetch(request), Err(FetchError::TimedOut));
        drop(listener);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
