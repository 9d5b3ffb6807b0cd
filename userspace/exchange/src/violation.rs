// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What no correct node does.

use crate::frame::FrameError;

/// How a peer broke the protocol.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame that is none.
    #[error("bad frame")]
    Frame(#[from] FrameError),
    /// A request id that is outstanding already.
    #[error("request {0} is outstanding already")]
    DuplicateRequest(u32),
    /// More credit than a server may hold.
    #[error("more credit than {} bytes", crate::limits::CREDIT_MAX)]
    CreditOverflow,
    /// Ever more requests although all are refused.
    #[error("requests went on although the answer was Busy")]
    BusyIgnored,
    /// More data than there was credit for.
    #[error("data without credit")]
    CreditExceeded,
    /// Many answers that nobody asked for; the last of them.
    #[error("answers to requests that there are not, such as {0}")]
    Unasked(u32),
    /// An answer that does not fit the request.
    #[error("the answer to request {0} does not fit it")]
    UnexpectedReply(u32),
}
