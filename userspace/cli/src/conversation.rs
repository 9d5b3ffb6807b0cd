// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Talking with a running peerfsd.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use peerfs_control::{ask as ask_daemon, Connection, Error as ControlError, Next, Reply, Request};
use peerfs_sys::interrupt;

use crate::error::{Error, Result};

/// How long the daemon may take to answer. It has a minute for a disk that does not.
const TIMEOUT: Duration = Duration::from_secs(70);
/// How often it is looked whether somebody wants the command to end.
const TICK: Duration = Duration::from_millis(100);
/// How often another daemon is asked after one that has ended.
const ENDED_MAX: u32 = 16;
/// Who pulls an image hears of it at least so often.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Asks for one reply.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Reply> {
    match ask_daemon(socket, request, TIMEOUT)? {
        Reply::Error(problem) => Err(Error::Refused(problem)),
        reply => Ok(reply),
    }
}

/// Asks for one reply that takes as long as the daemon's disk does.
pub(crate) fn ask_long(socket: &Path, request: &Request) -> Result<Reply> {
    // Without it the command ends at once when it is interrupted: the daemon goes on in either case.
    let _ = interrupt::watch();
    let mut conversation = Conversation::open(socket, request)?.may_be_silent();
    match conversation.next(interrupt::is_requested)? {
        Some(Reply::Error(problem)) => Err(Error::Refused(problem)),
        Some(reply) => Ok(reply),
        None => Err(Error::Cancelled),
    }
}

/// A request to which there are many replies. When the daemon ends meanwhile, the next one is asked, if there is one and
/// the request can be repeated.
pub(crate) struct Conversation {
    socket: PathBuf,
    request: Request,
    connection: Connection,
    ended: u32,
    last: Instant,
    may_be_silent: bool,
}

impl Conversation {
    /// Asks a daemon that says something from time to time.
    pub(crate) fn open(socket: &Path, request: &Request) -> Result<Self> {
        Ok(Conversation {
            socket: socket.to_owned(),
            request: request.clone(),
            connection: Connection::open(socket, request, TIMEOUT)?,
            ended: 0,
            last: Instant::now(),
            may_be_silent: false,
        })
    }

    /// Nothing may happen for a long time.
    pub(crate) fn may_be_silent(mut self) -> Self {
        self.may_be_silent = true;
        self
    }

    /// The next reply; None as soon as `is_enough`, which is asked some times a second.
    pub(crate) fn next(&mut self, is_enough: impl Fn() -> bool) -> Result<Option<Reply>> {
        loop {
            match self.listen()? {
                Next::Reply(reply) => {
                    self.last = Instant::now();
                    return Ok(Some(*reply));
                }
                Next::End => self.go_on()?,
                Next::Nothing if is_enough() => return Ok(None),
                Next::Nothing if !self.may_be_silent && self.last.elapsed() > SILENCE_MAX => {
                    return Err(Error::DaemonSilent);
                }
                Next::Nothing => (),
            }
        }
    }

    fn listen(&mut self) -> Result<Next> {
        match self.connection.next(TICK) {
            Err(error) if error.is_of_its_end() => Ok(Next::End),
            heard => Ok(heard?),
        }
    }

    /// Asks the daemon that has come after the one that has ended.
    fn go_on(&mut self) -> Result<()> {
        self.ended += 1;
        if !self.request.is_repeatable() || self.ended > ENDED_MAX {
            return Err(Error::DaemonEnded);
        }
        std::thread::sleep(TICK);
        self.connection = match Connection::open(&self.socket, &self.request, TIMEOUT) {
            Err(ControlError::Connect { .. }) => return Err(Error::DaemonEnded),
            Err(error) if error.is_of_its_end() => return self.go_on(),
            opened => opened?,
        };
        self.last = Instant::now();
        Ok(())
    }
}
