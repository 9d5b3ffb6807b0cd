// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Conversations between the ends of a stream, as somebody chooses them.
//!
//! Which kinds of replies fit is read from the table; what they say (numbers, places, lengths) is right as far as
//! there is something right to say. The tests choose everything in turn, the fuzzer as it likes.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerfs_exchange::frame::{
    Encoding, Pattern, Protocol, Reply, ReplyKind, Request, RequestKind, State, PROTOCOLS,
};
use peerfs_exchange::limits::{piece_size, PIECE_MAX};
use peerfs_exchange::uplink::Copies;
use peerfs_exchange::{
    Answer, Arrival, Arrivals, BlobForm, Found, Have, Priority, Requester, Responder, Step,
    Suggestion, Violation, Waiter, Wanted,
};
use peerfs_format::Digest;

/// Requests that are outstanding at once where bytes choose, and what happens then.
const ASKED_MAX: usize = 6;
const EVENTS_MAX: usize = 100;
/// Chunks that are asked for.
const CHUNKS: u32 = 2;
/// Bytes of a blob or chunk: one piece, or three.
const LENGTHS: [u64; 2] = [7, 2 * PIECE_MAX as u64 + 1];
/// A type that no frame has.
const UNKNOWN: u8 = 31;
/// The first request of such a type: not one of the requester's.
const OTHERS: u32 = 1 << 31;
/// What may happen while steps are under way, besides that one of them comes to its end.
const SEND: usize = 0;
const CANCEL: usize = 1;

/// One of so many, from 0.
pub type Choose<'a> = &'a mut dyn FnMut(usize) -> usize;

/// Replies that were accepted: to which request, in which state of it, and where they led.
pub type Seen = BTreeSet<(RequestKind, State, ReplyKind, State)>;

/// All that the table has.
pub fn table() -> Seen {
    let mut all = Seen::new();
    for protocol in PROTOCOLS {
        for rule in protocol.rules {
            for reply in rule.replies {
                let ways = rule.next.iter();
                all.extend(ways.map(|next| (protocol.request, rule.state, *reply, *next)));
            }
        }
    }
    all
}

/// Whoever waits, and what it got last.
#[derive(Default)]
struct Listener {
    answer: Cell<Option<Answer>>,
    is_gone: Cell<bool>,
}

impl Waiter for &Listener {
    fn answer(&self, answer: Answer) {
        self.answer.set(Some(answer));
    }

    fn progressed(&self, _at: Instant) {}

    fn is_gone(&self) -> bool {
        self.is_gone.get()
    }
}

fn pack(number: u8) -> Digest {
    Digest([number; Digest::SIZE])
}

/// What a client wants that sends such a request.
fn wanted(kind: RequestKind) -> Option<Wanted> {
    let (digest, manifest, pack, index) = (pack(1), pack(9), pack(1), pack(2));
    let priority = Priority::Demand;
    Some(match kind {
        RequestKind::Credit | RequestKind::Cancel | RequestKind::Other => return None,
        RequestKind::Have => Wanted::Have { digest },
        RequestKind::WantBlob => Wanted::Blob {
            priority,
            digest,
            maximum: 1 << 20,
        },
        RequestKind::WantChunks => Wanted::Chunks {
            priority,
            pack,
            index,
            through: false,
            chunks: (0..CHUNKS).collect(),
        },
        RequestKind::Follow => Wanted::News { manifest },
        RequestKind::Peers => Wanted::Peers { manifest },
        RequestKind::HavePack => Wanted::HavePack { pack, index },
        RequestKind::Suggest => Wanted::Suggestion {
            pack,
            index,
            count: 1,
        },
    })
}

/// How far a request was answered, by what the replies said and without the table.
struct Talk {
    request: u32,
    protocol: &'static Protocol,
    state: State,
    /// Answers that are still to come.
    answers: u32,
    /// Where the next piece begins, and all bytes of what was begun.
    offset: u64,
    total: u64,
}

impl Talk {
    fn new(request: u32, protocol: &'static Protocol) -> Self {
        Talk {
            request,
            protocol,
            state: State::Open,
            answers: match protocol.request {
                RequestKind::WantChunks => CHUNKS,
                _ => 1,
            },
            offset: 0,
            total: 0,
        }
    }

    /// The number of the next chunk.
    fn number(&self) -> u32 {
        CHUNKS - self.answers
    }

    /// A reply of this kind: of what was begun the next piece; otherwise the first one of something long or short.
    fn reply(&self, kind: ReplyKind, is_long: bool) -> Reply {
        let (request, number) = (self.request, self.number());
        let offset = self.offset;
        let total = match self.state {
            State::Begun => self.total,
            State::Open | State::Done => LENGTHS[usize::from(is_long)],
        };
        let data = Bytes::from(vec![7; piece_size(total, offset) as usize]);
        let (have, pack) = (Have::Complete, pack(1));
        match kind {
            ReplyKind::Presence => Reply::Presence { request, have },
            ReplyKind::BlobData => Reply::BlobData {
                request,
                encoding: Encoding::Plain,
                sent_length: total,
                length: total,
                data,
            },
            ReplyKind::ChunkData => Reply::ChunkData {
                request,
                number,
                offset: offset as u32,
                total: total as u32,
                data,
            },
            ReplyKind::BlobNotFound => Reply::BlobNotFound { request },
            ReplyKind::ChunkNotFound => Reply::ChunkNotFound { request, number },
            ReplyKind::TooLarge => Reply::TooLarge {
                request,
                length: u64::MAX,
            },
            ReplyKind::Busy => Reply::Busy {
                request,
                retry_after: 1,
            },
            ReplyKind::HaveMap => Reply::HaveMap {
                request,
                pack,
                have,
            },
            ReplyKind::HaveDelta => Reply::HaveDelta {
                request,
                pack,
                runs: std::iter::once(0..1).collect(),
            },
            ReplyKind::PeerList => Reply::PeerList {
                request,
                peers: Vec::new(),
            },
            ReplyKind::NotServed => Reply::NotServed { request },
            ReplyKind::Suggestion => Reply::Suggestion {
                request,
                suggestion: Suggestion::Any,
            },
        }
    }

    /// Takes a reply, if the table has it here.
    fn take(&mut self, reply: &Reply, seen: &mut Seen) -> bool {
        let (offset, total) = match reply {
            Reply::BlobData {
                sent_length, data, ..
            } => (self.offset + data.len() as u64, *sent_length),
            Reply::ChunkData {
                offset,
                total,
                data,
                ..
            } => (u64::from(*offset) + data.len() as u64, u64::from(*total)),
            _ => (0, 0),
        };
        let is_one_of_some = matches!(
            reply,
            Reply::BlobData { .. } | Reply::ChunkData { .. } | Reply::ChunkNotFound { .. }
        );
        let next = match reply {
            _ if offset < total => State::Begun,
            Reply::HaveMap { .. } | Reply::HaveDelta { .. } => State::Open,
            _ if is_one_of_some && self.answers > 1 => State::Open,
            _ => State::Done,
        };
        let Some(kind) = reply.kind() else {
            return false;
        };
        let fits = self.protocol.rules.iter().any(|rule| {
            rule.state == self.state && rule.replies.contains(&kind) && rule.next.contains(&next)
        });
        if fits {
            seen.insert((self.protocol.request, self.state, kind, next));
            self.state = next;
            self.answers -= u32::from(is_one_of_some && next == State::Open);
            (self.offset, self.total) = match next {
                State::Begun => (offset, total),
                _ => (0, 0),
            };
        }
        fits
    }
}

/// Tells a client that has asked for these what was chosen, so many replies: it must take what the table has, and end
/// the stream at anything else.
pub fn tell(asked: &[&'static Protocol], replies: usize, choose: Choose) -> Seen {
    let (mut seen, now) = (Seen::new(), Instant::now());
    let listeners: Vec<_> = asked.iter().map(|_| Listener::default()).collect();
    let (mut requester, _) = Requester::new();
    let mut talks = Vec::new();
    for protocol in asked {
        if let Some(wanted) = wanted(protocol.request) {
            let listener = &listeners[talks.len()];
            let request = requester.start(wanted, listener, now);
            assert_eq!(request.kind(), protocol.request);
            talks.push((Talk::new(talks.len() as u32, protocol), listener));
        }
    }
    for _ in 0..replies {
        talks.retain(|(talk, _)| talk.state != State::Done);
        assert_eq!(requester.is_idle(), talks.is_empty());
        if talks.is_empty() {
            break;
        }
        let about = choose(talks.len());
        let (talk, listener) = &mut talks[about];
        let reply = match ReplyKind::ALL.get(choose(ReplyKind::ALL.len() + 1)) {
            Some(kind) => {
                let has_data = matches!(kind, ReplyKind::BlobData | ReplyKind::ChunkData);
                let is_long = has_data && talk.state == State::Open && choose(2) == 1;
                talk.reply(*kind, is_long)
            }
            None => Reply::Other {
                request: talk.request,
                kind: UNKNOWN,
                payload: Bytes::new(),
            },
        };
        let result = requester.receive(reply.clone(), now);
        if !talk.take(&reply, &mut seen) {
            let unexpected = Err(Violation::UnexpectedReply(talk.request));
            assert_eq!(result, unexpected, "{reply:?} in {:?}", talk.state);
            break;
        }
        assert!(result.is_ok(), "{reply:?}: {result:?}");
        let is_told = listener.answer.take().is_some();
        assert_eq!(is_told, talk.state != State::Begun);
        if talk.state == State::Done {
            // It is nobody's now.
            assert_eq!(requester.receive(reply, now), Ok(0));
            assert_eq!(listener.answer.take(), None);
        }
    }
    seen
}

/// Has a server that was asked for these find what was chosen, so many events: it must say what the table has, and a
/// client must take it; to what was
/// cancelled it must say nothing but that it was refused before.
pub fn ask(asked: &[&'static Protocol], events: usize, choose: Choose) -> Seen {
    let (mut seen, mut now) = (Seen::new(), Instant::now());
    let listeners: Vec<_> = asked.iter().map(|_| Listener::default()).collect();
    let (mut requester, credit) = Requester::new();
    let (mut responder, copies) = (Responder::default(), Copies::default());
    let mut arrivals = Arrivals::default();
    responder.receive(credit).unwrap();
    let (mut talks, mut others) = (Vec::new(), OTHERS);
    for (protocol, listener) in asked.iter().zip(&listeners) {
        let (request, frame) = match (wanted(protocol.request), protocol.pattern) {
            (Some(wanted), _) => {
                let request = talks.len() as u32 - (others - OTHERS);
                (request, requester.start(wanted, listener, now))
            }
            (None, Pattern::Silent) => continue,
            (None, _) => {
                let (request, kind, payload) = (others, UNKNOWN - 16, Bytes::new());
                others += 1;
                let other = Request::Other {
                    request,
                    kind,
                    payload,
                };
                (request, other)
            }
        };
        responder.receive(frame).unwrap();
        talks.push((Talk::new(request, protocol), listener));
    }
    let mut steps = VecDeque::new();
    for _ in 0..events {
        responder.tell(&arrivals, now);
        steps.extend(std::iter::from_fn(|| responder.next_step(&copies)));
        // What was found is sent at once or later.
        let choice = if steps.is_empty() { SEND } else { choose(3) };
        let sent = (choice == SEND).then(|| responder.next_reply()).flatten();
        if let Some(outgoing) = sent {
            let reply = outgoing.reply;
            let mut talks = talks.iter_mut();
            let talk = talks.find(|(talk, _)| talk.request == reply.request());
            let (talk, listener) = talk.expect("a reply to something that was asked for");
            assert!(
                talk.take(&reply, &mut seen),
                "{reply:?} in {:?}",
                talk.state
            );
            let is_refusal = matches!(reply, Reply::Busy { .. } | Reply::NotServed { .. });
            assert!(is_refusal || !listener.is_gone.get(), "{reply:?}");
            if talk.protocol.request != RequestKind::Other {
                let result = requester.receive(reply.clone(), now);
                assert!(result.is_ok(), "{reply:?}: {result:?}");
            }
        } else if choice == CANCEL {
            let (talk, listener) = &talks[choose(talks.len())];
            let request = talk.request;
            listener.is_gone.set(true);
            requester.cancel_abandoned();
            responder.receive(Request::Cancel { request }).unwrap();
        } else if let Some(step) = steps.pop_front() {
            let found = find(&step, choose);
            responder.finish(step, found);
        } else {
            // Nothing is left to be done until something comes.
            now += Duration::from_secs(1);
            let (pack, number) = (pack(1), 0);
            arrivals.push(Arrival::Chunk { pack, number });
        }
    }
    seen
}

/// Has conversations with either end about what the bytes choose: each of them is one choice.
pub fn converse(bytes: &[u8]) {
    converse_by(bytes, tell);
    converse_by(bytes, ask);
}

fn converse_by(bytes: &[u8], talk: fn(&[&'static Protocol], usize, Choose) -> Seen) {
    let mut bytes = bytes.iter();
    let mut choose = |count: usize| bytes.next().map_or(0, |byte| usize::from(*byte) % count);
    let count = 1 + choose(ASKED_MAX);
    let asked = (0..count).map(|_| &PROTOCOLS[choose(PROTOCOLS.len())]);
    let asked: Vec<_> = asked.collect();
    talk(&asked, EVENTS_MAX, &mut choose);
}

/// What may come of a step.
fn find(step: &Step, choose: Choose) -> Found {
    let retry_after = Duration::from_millis(1);
    let mut found = vec![
        Found::Nothing,
        Found::NotServed,
        Found::Refused { retry_after },
        Found::TooLarge(1 << 30),
        Found::Have(Have::Absent),
        Found::Have(Have::Complete),
    ];
    match step {
        Step::Blob(blob) => {
            found.extend(LENGTHS.map(|length| Found::Blob {
                form: BlobForm {
                    encoding: Encoding::Plain,
                    sent_length: length,
                    length,
                },
                data: vec![7; piece_size(length, blob.offset) as usize].into(),
                cost: 0,
            }));
        }
        Step::Chunk { .. } => {
            found.extend(LENGTHS.map(|length| Found::Chunk(vec![7; length as usize].into())));
        }
        Step::Image { .. } => found.push(Found::Image([pack(1), pack(2)].into())),
        Step::Peers { .. } => found.push(Found::Peers(Vec::new())),
        Step::Suggest { .. } => found.push(Found::Suggestion(Suggestion::Any)),
        Step::Have { .. } | Step::Map { .. } | Step::HavePack { .. } | Step::Other { .. } => {}
    }
    found.swap_remove(choose(found.len()))
}
