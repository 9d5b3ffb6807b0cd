// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One client of the control socket.

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerfs_control::{
    Conversion, EventKind, PullStatus, Reply, Request, COMMANDS, LINE_MAX, REQUEST_MAX,
};
use peerfs_fetch::source::{ConversionProgress, Ordinary};
use peerfs_fetch::Progress;
use peerfs_format::Digest;
use peerfs_store::Tag;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use tracing::debug;

use super::fetches;
use super::seats::Seat;
use crate::commands::{refusal, verdict, CommandError, Commands, Sought, Wanted};
use crate::events::{now, Events};
use crate::names::Back;

/// How long a client may be silent, or take for an answer.
pub(super) const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the daemon may take for an answer: the store may be on a disk that does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Who waits for an image hears of it at least so often.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Between two words on how a conversion goes.
const CONVERSION_INTERVAL: Duration = Duration::from_millis(250);

/// Answers a client until it or the daemon ends the connection.
pub(super) async fn serve(stream: UnixStream, commands: Arc<Commands>, seat: Seat) {
    let (reader, writer) = stream.into_split();
    let mut session = Session {
        reader: BufReader::new(reader),
        writer,
        commands,
    };
    if let Err(error) = session.serve(seat).await {
        debug!(%error, "a client of the control socket went away");
    }
}

struct Session {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    commands: Arc<Commands>,
}

impl Session {
    async fn serve(&mut self, mut seat: Seat) -> io::Result<()> {
        let commands = Arc::clone(&self.commands);
        while let Some(line) = timeout(CLIENT_TIMEOUT, self.read_line()).await?? {
            let request = match parse(&line) {
                Ok(request) => request,
                Err(problem) => {
                    self.send_soon(&Reply::Error(problem)).await?;
                    if line.len() as u64 >= REQUEST_MAX {
                        // Where the next one begins is not known. Who has not sent all of it could not read the
                        // answer.
                        let mut rest = (&mut self.reader).take(LINE_MAX);
                        let mut nowhere = tokio::io::sink();
                        let read = tokio::io::copy(&mut rest, &mut nowhere);
                        return timeout(CLIENT_TIMEOUT, read).await?.map(drop);
                    }
                    continue;
                }
            };
            match request {
                Request::Pull { .. }
                | Request::Warm { .. }
                | Request::Gc { .. }
                | Request::Events
                | Request::Fetch
                | Request::Follow { .. }
                    if !seat.change_to_long() =>
                {
                    let problem = "too many clients stay connected; try again later";
                    return self.send_soon(&Reply::Error(problem.to_owned())).await;
                }
                Request::Pull {
                    image,
                    tag,
                    timeout,
                    lazy,
                    used_as,
                    convert,
                    platform,
                } => {
                    let patience = timeout.unwrap_or(Request::PATIENCE);
                    let patience = Duration::from_secs(patience.into());
                    let wanted = Wanted {
                        image,
                        tag,
                        used_as,
                        convert,
                        platform,
                    };
                    return self.pull(wanted, patience, lazy).await;
                }
                Request::Warm { image, workload } => return self.warm(&image, workload).await,
                Request::Gc { dry_run } => {
                    // It takes as long as the disk does.
                    let collected = commands.collect(dry_run).await;
                    let reply = collected.map_or_else(|error| refusal(&error), Reply::Collected);
                    self.send_soon(&reply).await?;
                }
                Request::Events => return self.events().await,
                Request::Fetch => {
                    let handler = Arc::clone(&commands.handler);
                    let (reader, writer) = (&mut self.reader, &mut self.writer);
                    return fetches::serve(reader, writer, handler, &commands.uses).await;
                }
                Request::Follow { name } => {
                    let followed = follow(&commands, &name, &mut self.reader, &mut self.writer);
                    return followed.await;
                }
                Request::Publish { record } => {
                    let done = commands.publish_name(&record);
                    self.answer(done, Reply::Name).await?;
                }
                Request::Name { name, search } => {
                    self.answer(commands.name(&name, search), Reply::Name)
                        .await?;
                }
                Request::Names => {
                    let reply = Reply::Names(commands.names.statuses());
                    self.send_soon(&reply).await?;
                }
                Request::Replicas => {
                    let reply = Reply::Replicas(commands.status.replicas.status());
                    self.send_soon(&reply).await?;
                }
                Request::Rollback {
                    name,
                    sequence,
                    generation,
                    image,
                    time,
                    refused,
                } => {
                    let back = Back {
                        sequence,
                        generation,
                        image,
                        time,
                        refused,
                    };
                    let done = commands.roll_back(&name, back);
                    self.answer(done, Reply::Name).await?;
                }
                Request::Status => self.answer(commands.status.read(), Reply::Status).await?,
                Request::Activity => {
                    let read = async { Ok::<_, CommandError>(commands.status.activity().await) };
                    self.answer(read, Reply::Activity).await?;
                }
                Request::Peers => {
                    let reply = Reply::Peers(commands.status.peers());
                    self.send_soon(&reply).await?;
                }
                Request::Unban { peer, all } => {
                    self.answer(commands.unban(peer, all), Reply::Unbanned)
                        .await?;
                }
                Request::Images => self.answer(commands.status.images(), Reply::Images).await?,
                Request::Mounts => self.answer(commands.status.mounts(), Reply::Mounts).await?,
                Request::Pin { image } => {
                    let pinned = |manifest: Digest| Reply::Pinned(manifest.to_string());
                    self.answer(commands.pin(&image), pinned).await?;
                }
                Request::Unpin { image } => {
                    let unpinned = |manifest: Digest| Reply::Unpinned(manifest.to_string());
                    self.answer(commands.unpin(&image), unpinned).await?;
                }
            }
        }
        Ok(())
    }

    /// A request as it came, or the beginning of one that is too long; None at the end.
    async fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(REQUEST_MAX);
        limited.read_until(b'\n', &mut line).await?;
        Ok(Some(line).filter(|line| !line.is_empty()))
    }

    /// Sends the one reply to a request, when what it asks for is done.
    async fn answer<T, E: Error>(
        &mut self,
        done: impl Future<Output = Result<T, E>>,
        reply: impl FnOnce(T) -> Reply,
    ) -> io::Result<()> {
        let answer = match timeout(ANSWER_TIMEOUT, done).await {
            Ok(Ok(value)) => reply(value),
            Ok(Err(error)) => refusal(&error),
            Err(_) => {
                let problem = "the disk of the store or of the state directory does not answer";
                Reply::Error(problem.to_owned())
            }
        };
        self.send_soon(&answer).await
    }

    /// Sends a line to a client that has to take it soon.
    async fn send_soon(&mut self, reply: &Reply) -> io::Result<()> {
        timeout(CLIENT_TIMEOUT, self.send(reply)).await?
    }

    /// Sends a line, however long the client takes.
    async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let line = to_line(reply)?;
        self.writer.write_all(&line).await
    }

    /// Brings an image here as long as the client is there.
    async fn pull(&mut self, wanted: Wanted, patience: Duration, is_lazy: bool) -> io::Result<()> {
        let commands = Arc::clone(&self.commands);
        let last = tokio::select! {
            () = hung_up(&mut self.reader) => return Ok(()),
            last = pull(&commands, &mut self.writer, wanted, (patience, is_lazy)) => last?,
        };
        self.send(&last).await
    }

    /// Brings what the trace of an image names, as long as the client is there.
    async fn warm(&mut self, image: &str, workload: Option<String>) -> io::Result<()> {
        let commands = Arc::clone(&self.commands);
        let last = tokio::select! {
            () = hung_up(&mut self.reader) => return Ok(()),
            warmed = with_heartbeat(&mut self.writer, image, commands.warm(image, workload)) => {
                warmed?.map_or_else(|error| refusal(&error), |(manifest, brought)| Reply::Warmed {
                    image: manifest.to_string(),
                    steps: brought.steps,
                    left_out: brought.left_out,
                })
            }
        };
        self.send(&last).await
    }

    async fn events(&mut self) -> io::Result<()> {
        let events = self.commands.events.clone();
        tell(&events, &mut self.reader, &mut self.writer).await
    }
}

/// Tells a client what happens, until it goes away. One that does not read loses events, and is told how many.
async fn tell(
    events: &Events,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let mut happened = events.subscribe();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut event = now(EventKind::Subscribed { version });
    loop {
        writer.write_all(&to_line(&Reply::Event(event))?).await?;
        let next = tokio::select! {
            () = hung_up(reader) => return Ok(()),
            next = happened.recv() => next,
        };
        event = match next {
            Ok(event) => event,
            Err(RecvError::Lagged(events)) => now(EventKind::Lost { events }),
            Err(RecvError::Closed) => return Ok(()),
        };
    }
}

/// Tells a client what a name stands for, until it goes away.
async fn follow(
    commands: &Commands,
    name: &str,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let mut following = match commands.names.parse(name) {
        Ok(name) => commands.names.follow(&name, &commands.status.node),
        Err(error) => return writer.write_all(&to_line(&refusal(&error))?).await,
    };
    let mut told = None;
    loop {
        match following.status() {
            Err(error) => return writer.write_all(&to_line(&refusal(&error))?).await,
            Ok(status) if told.as_ref() == Some(&status) => (),
            Ok(status) => {
                let line = to_line(&Reply::Name(status.clone()))?;
                writer.write_all(&line).await?;
                told = Some(status);
            }
        }
        tokio::select! {
            () = hung_up(reader) => return Ok(()),
            () = following.changed() => (),
        }
    }
}

/// Waits until the client has closed its side. What it sends meanwhile is not looked at.
async fn hung_up(reader: &mut BufReader<OwnedReadHalf>) {
    match reader.fill_buf().await {
        Ok([]) | Err(_) => (),
        Ok(_) => std::future::pending().await,
    }
}

/// Brings an image here and tells how that goes; returns the last line. When the future is dropped, that ends, unless
/// somebody else wants the image.
async fn pull(
    commands: &Commands,
    writer: &mut OwnedWriteHalf,
    wanted: Wanted,
    (patience, is_lazy): (Duration, bool),
) -> io::Result<Reply> {
    let located = match commands.locate(wanted).await {
        Ok(Sought::Image(located)) => located,
        Ok(Sought::Ordinary(ordinary, tag)) => {
            let (manifest, conversion) = match convert(commands, writer, &ordinary, tag).await? {
                Ok(converted) => converted,
                Err(error) => return Ok(refusal(&error)),
            };
            // All of it is here, which is made sure of.
            let pulled = bring(commands, writer, manifest, patience).await?;
            return Ok(match pulled {
                Ok(progress) => Reply::Done(PullStatus {
                    conversion: Some(conversion),
                    ..progress.status()
                }),
                Err(error) => refusal(&error),
            });
        }
        Err(error) => return Ok(refusal(&error)),
    };
    if is_lazy {
        let image = located.manifest.to_string();
        let start = async {
            let status = commands.begin(located.manifest, patience).await?;
            commands.tag(located).await?;
            Ok::<_, CommandError>(status)
        };
        let started = with_heartbeat(writer, &image, start).await?;
        return Ok(started.map_or_else(|error| refusal(&error), Reply::Done));
    }
    let progress = match bring(commands, writer, located.manifest, patience).await? {
        Ok(progress) => progress,
        Err(error) => return Ok(refusal(&error)),
    };
    if let Err(error) = commands.tag(located).await {
        return Ok(refusal(&error));
    }
    Ok(Reply::Done(progress.status()))
}

/// Brings all of an image here, and tells how that goes.
async fn bring(
    commands: &Commands,
    writer: &mut OwnedWriteHalf,
    manifest: Digest,
    patience: Duration,
) -> io::Result<Result<Progress, CommandError>> {
    let begun = Instant::now();
    let mut pull = commands.pull(manifest);
    loop {
        // What was true before it was begun says nothing.
        let _ = timeout(HEARTBEAT, pull.changed()).await;
        let progress = pull.progress();
        match verdict(&progress, begun, Instant::now(), patience) {
            None => {
                let line = to_line(&Reply::Progress(progress.status()))?;
                writer.write_all(&line).await?;
            }
            Some(Ok(())) => return Ok(Ok(progress)),
            Some(Err(error)) => return Ok(Err(error)),
        }
    }
}

/// Makes an image of an ordinary one, and tells how that goes.
async fn convert(
    commands: &Commands,
    writer: &mut OwnedWriteHalf,
    ordinary: &Ordinary,
    tag: Option<Tag>,
) -> io::Result<Result<(Digest, Conversion), CommandError>> {
    let progress = ConversionProgress::default();
    let mut done = std::pin::pin!(commands.convert(ordinary, tag, &progress));
    loop {
        match timeout(CONVERSION_INTERVAL, &mut done).await {
            Ok(done) => return Ok(done),
            Err(_) => {
                let line = to_line(&Reply::Progress(ordinary.status(&progress)))?;
                writer.write_all(&line).await?;
            }
        }
    }
}

/// Waits for what is done for a client, and tells it from time to time that it is being done.
async fn with_heartbeat<T>(
    writer: &mut OwnedWriteHalf,
    image: &str,
    done: impl Future<Output = T>,
) -> io::Result<T> {
    let waiting = to_line(&Reply::Progress(PullStatus {
        image: image.to_owned(),
        ..PullStatus::default()
    }))?;
    let mut done = std::pin::pin!(done);
    loop {
        match timeout(HEARTBEAT, &mut done).await {
            Ok(done) => return Ok(done),
            Err(_) => writer.write_all(&waiting).await?,
        }
    }
}

/// What a client asks, or what it is told if that is not understood.
fn parse(line: &[u8]) -> Result<Request, String> {
    if line.len() as u64 >= REQUEST_MAX && !line.ends_with(b"\n") {
        return Err(format!("a request has at most {REQUEST_MAX} bytes"));
    }
    serde_json::from_slice(line).map_err(|error| {
        let version = env!("CARGO_PKG_VERSION");
        let value: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
        match value.get("command").and_then(|command| command.as_str()) {
            Some(command) if !COMMANDS.contains(&command) => format!(
                "peerfsd {version} does not know the command {command:?}, but {}",
                COMMANDS.join(", ")
            ),
            _ => format!("peerfsd {version} does not understand the request: {error}"),
        }
    })
}

/// An answer as it is sent: never longer than what a client reads.
pub(super) fn to_line(reply: &Reply) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(reply)?;
    if line.len() as u64 >= LINE_MAX {
        let problem = format!("the answer has more than {LINE_MAX} bytes");
        line = serde_json::to_vec(&Reply::Error(problem))?;
    }
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_never_longer_than_what_is_read() {
        let long = Reply::Error("x".repeat(LINE_MAX as usize));
        let line = to_line(&long).unwrap();
        assert!((line.len() as u64) < LINE_MAX && line.ends_with(b"\n"));
    }

    #[tokio::test]
    async fn who_does_not_read_loses_events_and_holds_nobody_up() {
        const EVENTS: u64 = 50_000;
        let (daemon, client) = UnixStream::pair().unwrap();
        let (reader, mut writer) = daemon.into_split();
        let (mut reader, events) = (BufReader::new(reader), Events::new());
        let telling = {
            let events = events.clone();
            tokio::spawn(async move { tell(&events, &mut reader, &mut writer).await })
        };
        let mut client = BufReader::new(client);
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        assert!(line.contains("\"kind\":\"subscribed\""), "{line}");
        for number in 0..EVENTS {
            let peer = number.to_string();
            events.tell(EventKind::PeerConnected { peer });
            tokio::task::yield_now().await;
        }
        let (mut told, mut lost) = (0, 0);
        while told + lost < EVENTS {
            line.clear();
            client.read_line(&mut line).await.unwrap();
            let Ok(Reply::Event(event)) = serde_json::from_str(&line) else {
                panic!("{line}");
            };
            match event.kind {
                EventKind::PeerConnected { peer } => {
                    assert_eq!(peer, (told + lost).to_string(), "in order");
                    told += 1;
                }
                EventKind::Lost { events } => lost += events,
                other => panic!("{other:?}"),
            }
        }
        assert!(lost > 0 && told > 0, "{told} {lost}");
        drop(client);
        telling.await.unwrap().unwrap();
    }

    #[test]
    fn what_is_not_understood_is_answered_with_the_version() {
        let version = format!("peerfsd {}", env!("CARGO_PKG_VERSION"));
        for (line, named) in [
            (
                &b"{\"command\":\"evict\"}\n"[..],
                "does not know the command \"evict\"",
            ),
            (b"{\"command\":\"pull\"}\n", "missing field `image`"),
            (b"{\"command\":\"pull\",\"image\":7}\n", "invalid type"),
            (b"\n", "EOF"),
            (b"\xff\n", "does not understand"),
            (b"[[[[", "does not understand"),
        ] {
            let problem = parse(line).unwrap_err();
            assert!(
                problem.starts_with(&version) && problem.contains(named),
                "{problem}"
            );
        }
        let long = vec![b' '; REQUEST_MAX as usize];
        assert!(parse(&long).unwrap_err().contains("at most 4096 bytes"));
        let newer = b"{\"command\":\"events\",\"since\":5}";
        assert_eq!(parse(newer), Ok(Request::Events));
    }
}
