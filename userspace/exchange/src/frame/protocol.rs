// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What may answer what: a table of the requests, the states that each goes through, and the replies that fit each
//! state.
//!
//! Both ends of a stream are checked by it as they run, the tests and the fuzzer walk through it, and
//! `Documentation/peer-protocol.md` has the same table. It knows the kinds of frames and not what they say: that pieces
//! add up and that chunks were asked for is for whoever puts them together.

use ReplyKind::{
    BlobData, BlobNotFound, Busy, ChunkData, ChunkNotFound, HaveDelta, HaveMap, NotServed,
    PeerList, Presence, Suggestion, TooLarge,
};
use State::{Begun, Done, Open};

use super::{ReplyKind, RequestKind};

/// How many replies a request has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pattern {
    /// None.
    Silent,
    /// One.
    Question,
    /// The pieces of a blob or of chunks, until all were sent.
    Pieces,
    /// One whenever there is something to say, until the request is cancelled.
    Subscription,
}

/// How far a request was answered.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// The next reply begins something: an answer, a blob, a chunk. So it is when the request was sent.
    Open,
    /// The next reply is to go on with the blob or chunk that was begun.
    Begun,
    /// No reply fits any more.
    Done,
}

/// The replies that fit a state, and lead to the same ones.
#[derive(Debug)]
pub struct Rule {
    /// The state.
    pub state: State,
    /// The replies.
    pub replies: &'static [ReplyKind],
    /// The states that each of them can lead to: which one it is depends on what it says.
    pub next: &'static [State],
}

/// How requests of one kind are answered.
#[derive(Debug)]
pub struct Protocol {
    /// The kind.
    pub request: RequestKind,
    /// How many replies there are.
    pub pattern: Pattern,
    /// Which ones: none but these. Of a state and a reply there is one rule at most.
    pub rules: &'static [Rule],
}

/// The table. A request that has replies can be refused in any state by Busy and NotServed, which end it.
pub const PROTOCOLS: &[Protocol] = &[
    Protocol {
        request: RequestKind::Credit,
        pattern: Pattern::Silent,
        rules: &[],
    },
    Protocol {
        request: RequestKind::Have,
        pattern: Pattern::Question,
        rules: &[rule(Open, &[Presence, Busy, NotServed], &[Done])],
    },
    Protocol {
        request: RequestKind::WantBlob,
        pattern: Pattern::Pieces,
        rules: &[
            rule(Open, &[BlobData], &[Begun, Done]),
            rule(Open, &[BlobNotFound, TooLarge, Busy, NotServed], &[Done]),
            rule(Begun, &[BlobData], &[Begun, Done]),
            rule(Begun, &[BlobNotFound, TooLarge, Busy, NotServed], &[Done]),
        ],
    },
    Protocol {
        request: RequestKind::WantChunks,
        pattern: Pattern::Pieces,
        rules: &[
            rule(Open, &[ChunkData], &[Open, Begun, Done]),
            rule(Open, &[ChunkNotFound], &[Open, Done]),
            rule(Open, &[Busy, NotServed], &[Done]),
            rule(Begun, &[ChunkData], &[Open, Begun, Done]),
            rule(Begun, &[Busy, NotServed], &[Done]),
        ],
    },
    Protocol {
        request: RequestKind::Cancel,
        pattern: Pattern::Silent,
        rules: &[],
    },
    Protocol {
        request: RequestKind::Follow,
        pattern: Pattern::Subscription,
        rules: &[
            rule(Open, &[HaveMap, HaveDelta], &[Open]),
            rule(Open, &[Busy, NotServed], &[Done]),
        ],
    },
    Protocol {
        request: RequestKind::Suggest,
        pattern: Pattern::Question,
        rules: &[rule(Open, &[Suggestion, Busy, NotServed], &[Done])],
    },
    Protocol {
        request: RequestKind::Peers,
        pattern: Pattern::Question,
        rules: &[rule(Open, &[PeerList, Busy, NotServed], &[Done])],
    },
    Protocol {
        request: RequestKind::HavePack,
        pattern: Pattern::Question,
        rules: &[rule(Open, &[Presence, Busy, NotServed], &[Done])],
    },
    OTHER,
];

/// How a request is answered that is not known.
const OTHER: Protocol = Protocol {
    request: RequestKind::Other,
    pattern: Pattern::Question,
    rules: &[rule(Open, &[Busy, NotServed], &[Done])],
};

const fn rule(state: State, replies: &'static [ReplyKind], next: &'static [State]) -> Rule {
    Rule {
        state,
        replies,
        next,
    }
}

/// A reply that does not fit its request as far as that was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reply:?} that leads to {next:?}, in reply to {request:?} in the state {state:?}")]
pub struct Unfit {
    /// The request.
    pub request: RequestKind,
    /// How far it was answered.
    pub state: State,
    /// The reply.
    pub reply: ReplyKind,
    /// Where it would have led.
    pub next: State,
}

/// A request and how far it was answered.
#[derive(Clone, Copy, Debug)]
pub struct Conversation {
    protocol: &'static Protocol,
    state: State,
}

impl Conversation {
    /// A request that was not answered yet.
    pub fn new(request: RequestKind) -> Self {
        let mut protocols = PROTOCOLS.iter();
        let protocol = protocols.find(|protocol| protocol.request == request);
        Conversation {
            // There is one of each kind.
            protocol: protocol.unwrap_or(&OTHER),
            state: Open,
        }
    }

    /// How many replies the request has.
    pub fn pattern(&self) -> Pattern {
        self.protocol.pattern
    }

    /// How far it was answered.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes a reply that leads to this state by what it says.
    ///
    /// # Errors
    /// If it does not fit; the state is as before then.
    pub fn reply(&mut self, reply: ReplyKind, next: State) -> Result<(), Unfit> {
        let Conversation { protocol, state } = *self;
        let fits = |rule: &Rule| {
            rule.state == state && rule.replies.contains(&reply) && rule.next.contains(&next)
        };
        if !protocol.rules.iter().any(fits) {
            return Err(Unfit {
                request: protocol.request,
                state,
                reply,
                next,
            });
        }
        self.state = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
