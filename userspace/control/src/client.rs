// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The asking side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Reply, Request, LINE_MAX};

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

/// Asks the daemon that listens at `socket`, and waits at most `timeout` for each step.
pub fn ask(socket: &Path, request: Request, timeout: Duration) -> Result<Reply, Error> {
    let stream = UnixStream::connect(socket).map_err(|source| Error::Connect {
        socket: socket.to_owned(),
        source,
    })?;
    let line = exchange(&stream, request, timeout).map_err(Error::Transfer)?;
    serde_json::from_str(&line).map_err(Error::Malformed)
}

fn exchange(mut stream: &UnixStream, request: Request, timeout: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut line = serde_json::to_string(&request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    line.clear();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut line)?;
    Ok(line)
}
