// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The state of an exchange stream at the node that accepted it. Decides what to read and to answer
//! next; reads nothing and sends nothing.

mod follows;
mod ready;
mod step;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerfs_format::Digest;

use crate::frame::{Conversation, Reply, Request, State};
use crate::limits::{
    CHUNKS_PER_STREAM, CHUNK_CREDIT, CREDIT_MAX, CROWDED_RETRY, PIECE_MAX, READS_AHEAD,
    REFUSALS_MAX, REQUESTS_PER_STREAM, RETRY_MAX,
};
use crate::uplink::Copies;
use crate::{Arrivals, Have, Priority, Violation};

use follows::Follows;
pub use ready::Outgoing;
use ready::Ready;
pub use step::{BlobForm, BlobStep, Found, Step};

/// Chunks of which it is compared how often they were sent.
const COMPARED_MAX: usize = 64;

/// The requests that a peer has outstanding on a stream.
#[derive(Default)]
pub struct Responder {
    /// Bytes of data that may be sent, those of the steps under way already taken off.
    credit: u32,
    /// Requests that need no credit.
    questions: VecDeque<Step>,
    /// The images that the peer follows.
    follows: Follows,
    /// By priority, the most urgent first.
    queues: ByPriority<VecDeque<Work>>,
    /// What was read and is to be sent.
    ready: ByPriority<VecDeque<Ready>>,
    /// Steps that were begun and whose answers were not all sent.
    under_way: ByPriority<usize>,
    /// The requests that are outstanding.
    live: HashMap<u32, Live>,
    /// The answers that all of them still get.
    answers: usize,
    /// The requests that were forgotten while steps of them were under way, once for each step.
    forgotten: Vec<u32>,
    /// Refusals that were not sent.
    refusals: usize,
}

/// A request that is outstanding.
struct Live {
    /// The answers that it still gets.
    answers: usize,
    /// The steps of it that are under way.
    steps: usize,
    conversation: Conversation,
}

type ByPriority<T> = [T; Priority::ALL.len()];

/// What belongs to a priority.
fn of<T>(all: &mut ByPriority<T>, priority: Priority) -> &mut T {
    let [demand, readahead, background] = all;
    match priority {
        Priority::Demand => demand,
        Priority::Readahead => readahead,
        Priority::Background => background,
    }
}

/// A request that needs data, as far as it has not been begun.
enum Work {
    Blob(BlobStep),
    Chunks {
        request: u32,
        pack: Digest,
        index: Digest,
        through: bool,
        numbers: VecDeque<u32>,
    },
}

impl Responder {
    /// Takes a frame of the peer.
    ///
    /// # Errors
    /// If the peer breaks the protocol; the stream is of no more use then.
    pub fn receive(&mut self, frame: Request) -> Result<(), Violation> {
        let (request, answers) = match &frame {
            Request::Credit { bytes } => {
                self.credit = self
                    .credit
                    .checked_add(*bytes)
                    .filter(|credit| *credit <= CREDIT_MAX)
                    .ok_or(Violation::CreditOverflow)?;
                return Ok(());
            }
            Request::Cancel { request } => {
                self.forget(*request);
                return Ok(());
            }
            Request::Have { request, .. }
            | Request::WantBlob { request, .. }
            | Request::Follow { request, .. }
            | Request::Peers { request, .. }
            | Request::Suggest { request, .. }
            | Request::HavePack { request, .. }
            | Request::Other { request, .. } => (*request, 1),
            Request::WantChunks {
                request, chunks, ..
            } => (*request, chunks.len()),
        };
        if self.live.contains_key(&request) {
            return Err(Violation::DuplicateRequest(request));
        }
        let is_refused = self.live.len() >= REQUESTS_PER_STREAM
            || self.answers + answers > CHUNKS_PER_STREAM
            // What comes of these steps would be taken for answers to this one.
            || self.forgotten.contains(&request)
            || matches!(frame, Request::Follow { .. }) && self.follows.is_full();
        if is_refused {
            if self.refusals >= REFUSALS_MAX {
                return Err(Violation::BusyIgnored);
            }
            self.refusals += 1;
            let refusal = Ready::Refusal(busy(request, CROWDED_RETRY));
            of(&mut self.ready, Priority::Demand).push_back(refusal);
            return Ok(());
        }
        let conversation = Conversation::new(frame.kind());
        let live = Live {
            answers,
            steps: 0,
            conversation,
        };
        self.live.insert(request, live);
        self.answers += answers;
        self.enqueue(frame);
        Ok(())
    }

    fn enqueue(&mut self, frame: Request) {
        match frame {
            Request::Have { request, digest } => {
                self.questions.push_back(Step::Have { request, digest });
            }
            Request::Other { request, .. } => self.questions.push_back(Step::Other { request }),
            Request::Peers { request, manifest } => {
                self.questions.push_back(Step::Peers { request, manifest });
            }
            Request::HavePack {
                request,
                pack,
                index,
            } => self.questions.push_back(Step::HavePack {
                request,
                pack,
                index,
            }),
            Request::Suggest {
                request,
                pack,
                index,
                count,
            } => self.questions.push_back(Step::Suggest {
                request,
                pack,
                index,
                count,
            }),
            Request::Follow { request, manifest } => self.follows.add(request, manifest),
            Request::WantBlob {
                request,
                priority,
                digest,
                maximum,
                zstd,
            } => of(&mut self.queues, priority).push_back(Work::Blob(BlobStep {
                request,
                priority,
                digest,
                maximum,
                zstd,
                offset: 0,
                form: None,
                cost: 0,
            })),
            Request::WantChunks {
                request,
                priority,
                pack,
                index,
                through,
                chunks,
            } => of(&mut self.queues, priority).push_back(Work::Chunks {
                request,
                pack,
                index,
                through,
                numbers: chunks.into(),
            }),
            Request::Credit { .. } | Request::Cancel { .. } => {}
        }
    }

    /// The next step, if there is one, credit for it, and not too much under way that is as urgent. Of what nobody
    /// waits for, chunks of which few copies were sent come first. Every step must be given back to [`Self::finish`].
    pub fn next_step(&mut self, copies: &Copies) -> Option<Step> {
        let under_way: usize = self.under_way.iter().sum();
        let mut room = (READS_AHEAD + Priority::ALL.len()).checked_sub(under_way)?;
        for priority in Priority::ALL {
            room = room.checked_sub(1).filter(|room| *room > 0)?;
            let question = self.questions.pop_front();
            let step = match question.or_else(|| self.follows.next_step()) {
                Some(question) => question,
                None => {
                    let queue = of(&mut self.queues, priority);
                    let Some(next) = queue.front() else {
                        continue;
                    };
                    // Nobody less urgent takes the credit that this one waits for.
                    self.credit = self.credit.checked_sub(next.reserved())?;
                    next_of(queue, priority, copies)?
                }
            };
            *of(&mut self.under_way, step.priority()) += 1;
            if let Some(live) = self.live.get_mut(&step.request()) {
                live.steps += 1;
            }
            return Some(step);
        }
        None
    }

    /// Takes what came of a step; it is sent unless the request was cancelled meanwhile.
    pub fn finish(&mut self, step: Step, found: Found) {
        let (request, priority, reserved) = (step.request(), step.priority(), step.reserved());
        *of(&mut self.under_way, priority) -= 1;
        // What next_step() took off, at most.
        self.credit = self.credit.saturating_add(reserved);
        if matches!(step, Step::Image { .. } | Step::Map { .. }) {
            self.follows.looked();
        }
        let mut forgotten = self.forgotten.iter();
        if let Some(place) = forgotten.position(|forgotten| *forgotten == request) {
            self.forgotten.swap_remove(place);
            return;
        }
        let Some(live) = self.live.get_mut(&request) else {
            return;
        };
        live.steps = live.steps.saturating_sub(1);
        match (&step, &found) {
            (Step::Image { .. }, Found::Image(packs)) => {
                self.follows.known(request, Some(Arc::clone(packs)));
                return;
            }
            (Step::Image { .. }, Found::Nothing) => {
                self.follows.known(request, None);
                return;
            }
            (Step::Image { .. }, _) => self.follows.remove(request),
            (Step::Map { .. }, Found::Have(Have::Absent) | Found::Nothing)
                if !self.follows.mapped(request) =>
            {
                return;
            }
            (Step::Map { .. }, Found::Have(Have::Complete | Have::Partial(_))) => {
                self.follows.mapped(request);
            }
            _ => (),
        }
        let refusal = match found {
            Found::Refused { retry_after } => Some(busy(request, retry_after)),
            Found::NotServed => Some(not_served(request, priority)),
            _ => None,
        };
        if let Some(outgoing) = refusal {
            // Whatever else it asked for.
            self.forget(request);
            self.send(priority, Ready::End(outgoing));
            return;
        }
        let (ready, rest) = Ready::answer(step, found);
        self.send(priority, ready);
        if let Some(rest) = rest {
            // Before others of its priority: what was begun is finished first.
            of(&mut self.queues, priority).push_front(Work::Blob(rest));
        }
    }

    /// Takes note of what has come into the store, and tells of it what the peer follows; to be called before each
    /// [`Self::next_step`].
    pub fn tell(&mut self, arrivals: &Arrivals, now: Instant) {
        // Not more than the peer takes.
        if !of(&mut self.ready, Priority::Demand).is_empty() {
            return;
        }
        for reply in self.follows.news(arrivals, now) {
            let outgoing = Outgoing::free(reply, Priority::Demand);
            let next = State::Open;
            self.send(Priority::Demand, Ready::Frame { outgoing, next });
        }
    }

    /// When to [`tell`](Self::tell) the peer what has come meanwhile, or comes later; `None` while there is something
    /// else to do first, or if it follows nothing.
    pub fn tells_at(&self, now: Instant) -> Option<Instant> {
        self.follows.due(now)
    }

    /// Whether the peer follows an image.
    pub fn is_followed(&self) -> bool {
        !self.follows.is_empty()
    }

    fn send(&mut self, priority: Priority, ready: Ready) {
        *of(&mut self.under_way, priority) += 1;
        self.credit = self.credit.saturating_sub(ready.unsent());
        of(&mut self.ready, priority).push_back(ready);
    }

    /// The next frame to send, if something was read: of what is most urgent.
    pub fn next_reply(&mut self) -> Option<Outgoing> {
        let mut all = self.ready.iter_mut().zip(&mut self.under_way);
        let (queue, under_way) = all.find(|(queue, _)| !queue.is_empty())?;
        let (outgoing, next, is_all) = match queue.front_mut()? {
            Ready::Chunk(chunk) => {
                let (outgoing, next) = chunk.next();
                (outgoing, next, next == State::Done)
            }
            Ready::Frame { outgoing, next } => (outgoing.clone(), *next, true),
            Ready::End(outgoing) | Ready::Refusal(outgoing) => {
                let outgoing = outgoing.clone();
                match queue.pop_front() {
                    Some(Ready::Refusal(_)) => self.refusals -= 1,
                    _ => *under_way -= 1,
                }
                return Some(outgoing);
            }
        };
        if is_all {
            queue.pop_front();
            *under_way -= 1;
        }
        let (request, priority) = (outgoing.reply.request(), outgoing.priority);
        if self.accept(&outgoing.reply, next) {
            return Some(outgoing);
        }
        // A defect of this node's, whatever the peer asked for: it is to learn no more of it than that.
        debug_assert!(
            false,
            "{:?} does not fit its request",
            outgoing.reply.kind()
        );
        self.forget(request);
        Some(not_served(request, priority))
    }

    /// Takes note of a reply that is sent, and that leads to `next` if it is the last answer; false if it does not fit.
    fn accept(&mut self, reply: &Reply, next: State) -> bool {
        let request = reply.request();
        let (Some(kind), Some(live)) = (reply.kind(), self.live.get_mut(&request)) else {
            return false;
        };
        let is_answer = next == State::Done;
        let next = match is_answer && live.answers > 1 {
            true => State::Open,
            false => next,
        };
        if live.conversation.reply(kind, next).is_err() {
            return false;
        }
        if is_answer {
            live.answers -= 1;
            self.answers -= 1;
        }
        if next == State::Done {
            self.live.remove(&request);
        }
        true
    }

    /// Forgets a request, and what was read for it.
    fn forget(&mut self, request: u32) {
        let Some(live) = self.live.remove(&request) else {
            return;
        };
        self.answers -= live.answers;
        self.forgotten
            .extend(std::iter::repeat_n(request, live.steps));
        self.follows.remove(request);
        self.questions.retain(|step| step.request() != request);
        for queue in &mut self.queues {
            queue.retain(|work| work.request() != request);
        }
        for (ready, under_way) in self.ready.iter_mut().zip(&mut self.under_way) {
            ready.retain(|ready| {
                let is_kept = ready.request() != request || matches!(ready, Ready::Refusal(_));
                if !is_kept {
                    self.credit = self.credit.saturating_add(ready.unsent());
                    *under_way -= 1;
                }
                is_kept
            });
        }
    }
}

impl Work {
    fn request(&self) -> u32 {
        match self {
            Work::Blob(blob) => blob.request,
            Work::Chunks { request, .. } => *request,
        }
    }

    /// The credit that the next step of it takes.
    fn reserved(&self) -> u32 {
        match self {
            Work::Blob(_) => PIECE_MAX,
            Work::Chunks { .. } => CHUNK_CREDIT,
        }
    }
}

fn busy(request: u32, retry_after: Duration) -> Outgoing {
    let retry_after = retry_after.min(RETRY_MAX).as_millis() as u32;
    let reply = Reply::Busy {
        request,
        retry_after,
    };
    Outgoing::free(reply, Priority::Demand)
}

fn not_served(request: u32, priority: Priority) -> Outgoing {
    Outgoing::free(Reply::NotServed { request }, priority)
}

/// The next step of a queue: its requests take turns.
fn next_of(queue: &mut VecDeque<Work>, priority: Priority, copies: &Copies) -> Option<Step> {
    let (request, chunk) = match priority {
        Priority::Background => least_copied(queue, copies),
        Priority::Demand | Priority::Readahead => (0, 0),
    };
    match queue.remove(request)? {
        Work::Blob(blob) => Some(Step::Blob(blob)),
        Work::Chunks {
            request,
            pack,
            index,
            through,
            mut numbers,
        } => {
            let number = numbers.remove(chunk)?;
            if !numbers.is_empty() {
                queue.push_back(Work::Chunks {
                    request,
                    pack,
                    index,
                    through,
                    numbers,
                });
            }
            Some(Step::Chunk {
                request,
                priority,
                pack,
                index,
                number,
                through,
            })
        }
    }
}

/// The places of a request and of its chunk that was sent least often, of those that come first.
fn least_copied(queue: &VecDeque<Work>, copies: &Copies) -> (usize, usize) {
    // A blob that is first is not held up.
    let requests = queue.iter().enumerate();
    let chunks = requests.map_while(|(place, work)| match work {
        Work::Chunks { pack, numbers, .. } => Some((place, pack, numbers)),
        Work::Blob(_) => None,
    });
    let chunks = chunks.flat_map(|(place, pack, numbers)| {
        let numbers = numbers.iter().enumerate();
        numbers.map(move |(chunk, number)| (copies.of(pack, *number), (place, chunk)))
    });
    let least = chunks.take(COMPARED_MAX).min_by_key(|(copies, _)| *copies);
    least.map_or((0, 0), |(_, places)| places)
}

#[cfg(test)]
mod tests;
