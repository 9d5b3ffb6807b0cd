// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can go wrong with a server.

use std::time::Duration;

use peerfs_format::Digest;
use peerfs_text::printable;

use crate::credentials::CredentialsError;

/// The result of asking a server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a server did not do what it was asked to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be asked: its name, the network, its certificate.
    #[error("cannot ask {host}")]
    Request {
        /// The server.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The connection ended in the middle of an answer.
    #[error("{host} broke off")]
    BrokenOff {
        /// The server.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// It says nothing, or takes nothing, for long.
    #[error("nothing has come from or gone to {host} for {:?}", patience)]
    Stalled {
        /// The server.
        host: String,
        /// For how long.
        patience: Duration,
    },
    /// It sends something short so slowly that it is not waited for.
    #[error("{host} takes more than {:?} for an answer", patience)]
    Slow {
        /// The server.
        host: String,
        /// How long it could take.
        patience: Duration,
    },
    /// It sends something long so slowly that it is not waited for.
    #[error("{host} sends less than {least} bytes in {:?}", period)]
    Trickles {
        /// The server.
        host: String,
        /// How long bytes were counted.
        period: Duration,
        /// The fewest that would do.
        least: u64,
    },
    /// It does not have it.
    #[error("{host} does not have it")]
    Missing {
        /// The server.
        host: String,
    },
    /// It does not let this user do that.
    #[error(
        "{host} refuses{}: log in to it by `docker login` or `podman login`, or check that this user may do it",
        told(message)
    )]
    Denied {
        /// The server.
        host: String,
        /// What it says about that.
        message: String,
    },
    /// It has too much to do, or has been asked for too much.
    #[error("{host} is busy, or limits how often it is asked")]
    Busy {
        /// The server.
        host: String,
        /// For how long it wants to be left alone; None if it does not say.
        retry_after: Option<Duration>,
    },
    /// It answers something else.
    #[error("{host} answers {status}{}", told(message))]
    Status {
        /// The server.
        host: String,
        /// The status of the answer.
        status: u16,
        /// What it says about that.
        message: String,
    },
    /// What it has as signatures of an image are none.
    #[error("what {host} has as signatures of the image is not understood")]
    Signatures {
        /// The server.
        host: String,
        /// Why.
        source: peerfs_names::InvalidSignature,
    },
    /// Others change at once what is to be changed.
    #[error(
        "others change what {host} has there, too, so that it does not stay; try again in a while"
    )]
    Contended {
        /// The server.
        host: String,
    },
    /// It does not answer as the protocol says.
    #[error("{host} does not keep to the protocol: {problem}")]
    Protocol {
        /// The server.
        host: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// It gives out files as a whole only.
    #[error("{host} gives out no ranges of a file, or another one than was asked for")]
    NoRanges {
        /// The server.
        host: String,
    },
    /// It sends more than something may have.
    #[error("{host} sends more than {limit} bytes")]
    TooLong {
        /// The server.
        host: String,
        /// The most that is taken.
        limit: u64,
    },
    /// It sends less than something has.
    #[error("{host} ends before the end")]
    Short {
        /// The server.
        host: String,
    },
    /// What it sent has another digest.
    #[error("{host} sent wrong bytes for {digest}")]
    Wrong {
        /// The server.
        host: String,
        /// What they should have been.
        digest: Digest,
    },
    /// An index or a manifest can't be read.
    #[error("{host} has an index or a manifest that can't be read")]
    Document {
        /// The server.
        host: String,
        /// Why.
        source: peerfs_oci::Error,
    },
    /// An index has not the image that is asked for.
    #[error("{}", printable(&.0.to_string()))]
    Choice(peerfs_oci::Error),
    /// The user's credentials can't be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// What is to be sent can't be read.
    #[error("cannot read what is to be sent")]
    Content(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No connections can be made.
    #[error("cannot prepare for TLS: {0}")]
    Tls(String),
}

impl Error {
    /// Whether it may go another way when it is tried again.
    pub(crate) fn trouble(&self) -> Trouble {
        match self {
            Error::Request { source, .. } if source.is_builder() => Trouble::Final,
            Error::Request { source, .. } if source.is_connect() => Trouble::Unreachable,
            Error::Request { .. }
            | Error::BrokenOff { .. }
            | Error::Stalled { .. }
            | Error::Short { .. } => Trouble::Passing(None),
            Error::Busy { retry_after, .. } => Trouble::Passing(*retry_after),
            Error::Status {
                status: 408 | 500 | 502 | 504,
                ..
            } => Trouble::Passing(None),
            _ => Trouble::Final,
        }
    }
}

/// Whether trying again helps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    /// It may, after so long if the server says that.
    Passing(Option<Duration>),
    /// It may, but more likely the server is not there.
    Unreachable,
    /// It does not.
    Final,
}

fn told(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(" ({})", printable(message))
    }
}
