// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Talking with a running peerfsd.

use std::path::Path;
use std::time::{Duration, Instant};

use peerfs_control::{ask as ask_daemon, Connection, Next, Reply, Request};
use peerfs_sys::interrupt;

use crate::error::{Error, Result};

/// How long the daemon may take to answer. It has a minute for a disk that does not.
const TIMEOUT: Duration = Duration::from_secs(70);
/// How often it is looked whether somebody wants the command to end.
const TICK: Duration = Duration::from_millis(100);
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

/// A request to which there are many replies.
pub(crate) struct Conversation {
    connection: Connection,
    last: Instant,
    may_be_silent: bool,
}

impl Conversation {
    /// Asks a daemon that says something from time to time.
    pub(crate) fn open(socket: &Path, request: &Request) -> Result<Self> {
        Ok(Conversation {
            connection: Connection::open(socket, request, TIMEOUT)?,
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
            match self.connection.next(TICK)? {
                Next::Reply(reply) => {
                    self.last = Instant::now();
                    return Ok(Some(*reply));
                }
                Next::End => return Err(Error::DaemonEnded),
                Next::Nothing if is_enough() => return Ok(None),
                Next::Nothing if !self.may_be_silent && self.last.elapsed() > SILENCE_MAX => {
                    return Err(Error::DaemonSilent);
                }
                Next::Nothing => (),
            }
        }
    }
}
