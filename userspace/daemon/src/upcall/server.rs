// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Takes requests, has them handled side by side, and answers each one once.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use async_trait::async_trait;
use nix::errno::Errno;
use peerfs_format::upcall::{Failure, Priority, REQUEST_MAX};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, debug_span, warn, Instrument};

use super::{Device, Ioctls, Message, Request};

/// Room for many requests in one read.
const READ_SIZE: usize = 16 * REQUEST_MAX;

/// Where what was asked for is now.
#[derive(Debug)]
pub enum Answer {
    /// In this file: a blob, or a whole pack.
    File(Arc<File>),
    /// Where a pack's table of places says.
    Places {
        /// The table.
        table: Arc<File>,
        /// The data files that the chunks are in, by the number of their slot.
        slots: Vec<(u32, Arc<File>)>,
    },
}

/// Gets what the kernel asks for.
#[async_trait]
pub trait RequestHandler: Send + Sync + 'static {
    /// Gets it into the store and returns where it is, or the errno to answer. When the
    /// request is cancelled, the future is dropped.
    async fn handle(&self, request: Request) -> Result<Answer, Errno>;

    /// The number of requests that are being handled has changed.
    fn in_flight(&self, requests: usize);
}

/// Serves an attached device until `shutdown`, or until the kernel is gone. Requests that are not
/// answered by then go back to the kernel, which gives them to the next daemon.
///
/// At most `limit` requests are handled at a time, and half as many of those that nobody waits for;
/// more are answered with ENOMEM.
///
/// # Errors
/// What the system says when the device can't be read any more, or if its messages are not
/// understood.
pub async fn serve<I: Ioctls>(
    device: Arc<Device<I>>,
    handler: Arc<dyn RequestHandler>,
    limit: usize,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let mut server = Server {
        device,
        handler,
        limit,
        tasks: JoinSet::new(),
        requests: HashMap::new(),
        ids: HashMap::new(),
    };
    let mut buffer = vec![0; READ_SIZE];
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(ended) = server.tasks.join_next_with_id() => {
                server.ended(match ended {
                    Ok((task, ())) => task,
                    Err(error) => error.id(),
                });
            }
            count = server.device.read(&mut buffer) => {
                let mut batch = buffer.get(..count?).unwrap_or_default();
                if batch.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                while !batch.is_empty() {
                    let (id, message) = Message::take(&mut batch)
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    server.take(id, message);
                }
            }
        }
    }
}

struct Server<I> {
    device: Arc<Device<I>>,
    handler: Arc<dyn RequestHandler>,
    limit: usize,
    tasks: JoinSet<()>,
    /// By the requests' ids.
    requests: HashMap<u64, AbortHandle>,
    /// The requests' ids by their tasks.
    ids: HashMap<Id, u64>,
}

impl<I: Ioctls> Server<I> {
    fn take(&mut self, id: u64, message: peerfs_format::Result<Message>) {
        let request = match message {
            Ok(Message::Cancel) => {
                debug!(id, "cancelled");
                if let Some(task) = self.requests.remove(&id) {
                    task.abort();
                }
                return;
            }
            Ok(Message::Request(request)) => request,
            Err(error) => {
                warn!(id, %error, "the kernel's request is not understood");
                answer(&self.device, id, Err(Errno::EIO));
                return;
            }
        };
        let room = match request.priority() {
            Priority::Demand => self.limit,
            Priority::Readahead => self.limit / 2,
        };
        if self.requests.len() >= room {
            debug!(id, "too many requests (limits.requests)");
            answer(&self.device, id, Err(Errno::ENOMEM));
            return;
        }
        debug!(id, ?request, "request");
        let (device, handler) = (Arc::clone(&self.device), Arc::clone(&self.handler));
        // What is logged on the way to the answer says for which request.
        let span = debug_span!("upcall", id);
        let handling = async move {
            let result = handler.handle(request).await;
            answer(&device, id, result);
        };
        let task = self.tasks.spawn(handling.instrument(span));
        self.ids.insert(task.id(), id);
        self.requests.insert(id, task);
        self.handler.in_flight(self.requests.len());
    }

    fn ended(&mut self, task: Id) {
        if let Some(id) = self.ids.remove(&task) {
            self.requests.remove(&id);
        }
        self.handler.in_flight(self.requests.len());
    }
}

impl<I> Drop for Server<I> {
    fn drop(&mut self) {
        // What was being handled is the kernel's again.
        self.handler.in_flight(0);
    }
}

fn answer<I: Ioctls>(device: &Device<I>, id: u64, result: Result<Answer, Errno>) {
    let answered = match &result {
        Ok(Answer::File(file)) => device.reply_file(id, file.as_fd()),
        Ok(Answer::Places { table, slots }) => {
            let slots: Vec<_> = slots
                .iter()
                .map(|(slot, file)| (*slot, file.as_fd()))
                .collect();
            device.reply_places(id, table.as_fd(), &slots)
        }
        Err(errno) => device.reply_failure(
            id,
            Failure {
                errno: (*errno as i32).unsigned_abs(),
            },
        ),
    };
    match answered {
        Ok(()) => debug!(id, ?result, "answered"),
        // Its readers were killed or ran out of time while it was being answered.
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
            debug!(id, "nobody waits for the answer any more");
        }
        Err(error) => warn!(id, %error, "the kernel did not take the answer"),
    }
}
