// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Requests of a client that reads images of the store without the kernel, as the kernel makes them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use peerfs_control::{FetchLine, Reply, REQUEST_MAX};
use peerfs_format::upcall::{
    BlobKind, FetchBlob, FetchChunks, Priority, Workload, FETCH_AGAIN, FETCH_CHUNKS_MAX,
};
use peerfs_format::{Digest, Error};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::session::{to_line, CLIENT_TIMEOUT};
use crate::upcall::{Request, RequestHandler};
use crate::uses::Uses;

/// Requests of a client that are worked on at a time; more fail. Half of them are kept for readers that wait.
const REQUESTS_MAX: usize = 1024;
/// Chunks that one line may tell of: more than a pack has, as builders make them.
const USED_MAX: u64 = 65_536;

/// A request, or that nobody waits for it any more, or what was read.
enum Asked {
    Fetch {
        id: u64,
        request: Request,
        priority: Priority,
    },
    Cancel(u64),
    Used(UsedChunks),
}

/// Chunks of a pack that were read.
struct UsedChunks {
    pack: Digest,
    index: Digest,
    /// The first one of each run, and how many.
    runs: Vec<(u32, u32)>,
}

impl UsedChunks {
    /// Their numbers.
    fn chunks(&self) -> impl Iterator<Item = u32> + '_ {
        let runs = self.runs.iter();
        runs.flat_map(|&(first, count)| first..first.saturating_add(count))
    }
}

/// Handles a client's requests side by side, each answered once, and notes what it says was read, until the client goes
/// away.
pub(super) async fn serve(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    handler: Arc<dyn RequestHandler>,
    uses: &Uses,
) -> io::Result<()> {
    // Dropped, and all requests with it, when the client goes away.
    let mut tasks: JoinSet<(u64, Option<Errno>)> = JoinSet::new();
    let mut running: HashMap<u64, AbortHandle> = HashMap::new();
    // What has come of a line: a read that is broken off for an answer goes on behind it.
    let mut line = Vec::new();
    loop {
        let room = REQUEST_MAX.saturating_sub(line.len() as u64);
        let mut limited = (&mut *reader).take(room);
        let (id, errno) = tokio::select! {
            read = limited.read_until(b'\n', &mut line) => {
                read?;
                if line.is_empty() {
                    return Ok(());
                }
                if !line.ends_with(b"\n") {
                    return refuse(writer, "a request has no end, or too many bytes").await;
                }
                let asked = parse(&std::mem::take(&mut line));
                match asked {
                    Err(problem) => return refuse(writer, &problem).await,
                    Ok(Asked::Cancel(id)) => {
                        if let Some(task) = running.remove(&id) {
                            task.abort();
                        }
                        continue;
                    }
                    Ok(Asked::Used(used)) => {
                        uses.read(&used.pack, &used.index, used.chunks(), Instant::now());
                        continue;
                    }
                    Ok(Asked::Fetch { id, .. }) if running.contains_key(&id) => {
                        let problem = format!("a request {id} is not answered yet");
                        return refuse(writer, &problem).await;
                    }
                    Ok(Asked::Fetch { id, priority, .. }) if is_full(running.len(), priority) => {
                        (id, Some(Errno::ENOMEM))
                    }
                    Ok(Asked::Fetch { id, request, .. }) => {
                        let handler = Arc::clone(&handler);
                        let task = tasks.spawn(async move { (id, handler.handle(request).await.err()) });
                        running.insert(id, task);
                        continue;
                    }
                }
            }
            Some(ended) = tasks.join_next_with_id() => match ended {
                // Not of a cancelled one, whose id another one may have meanwhile.
                Ok((task, (id, errno))) if running.get(&id).is_some_and(|own| own.id() == task) => {
                    running.remove(&id);
                    (id, errno)
                }
                _ => continue,
            }
        };
        let reply = Reply::Fetched {
            id,
            errno: errno.map(|errno| errno as i32),
        };
        timeout(CLIENT_TIMEOUT, writer.write_all(&to_line(&reply)?)).await??;
    }
}

fn is_full(running: usize, priority: Priority) -> bool {
    let room = match priority {
        Priority::Demand => REQUESTS_MAX,
        Priority::Readahead => REQUESTS_MAX / 2,
    };
    running >= room
}

/// Tells the client why the connection ends.
async fn refuse(writer: &mut OwnedWriteHalf, problem: &str) -> io::Result<()> {
    let line = to_line(&Reply::Error(problem.to_owned()))?;
    timeout(CLIENT_TIMEOUT, writer.write_all(&line)).await?
}

fn parse(line: &[u8]) -> Result<Asked, String> {
    let line: FetchLine = serde_json::from_slice(line).map_err(|error| {
        let version = env!("CARGO_PKG_VERSION");
        format!("peerfsd {version} does not understand the request: {error}")
    })?;
    let priority = |readahead| match readahead {
        true => Priority::Readahead,
        false => Priority::Demand,
    };
    let asked = |line| -> Result<Asked, Error> {
        Ok(match line {
            FetchLine::Cancel { id } => Asked::Cancel(id),
            FetchLine::Used { pack, index, runs } => Asked::Used(UsedChunks {
                pack: pack.parse()?,
                index: index.parse()?,
                runs,
            }),
            FetchLine::Blob {
                id,
                image,
                blob,
                readahead,
            } => {
                let (digest, manifest): (Digest, Digest) = (blob.parse()?, image.parse()?);
                let kind = match digest == manifest {
                    true => BlobKind::Manifest,
                    false => BlobKind::InodeShard,
                };
                let priority = priority(readahead);
                let request = Request::Blob(FetchBlob {
                    digest,
                    manifest,
                    workload: Workload::default(),
                    length: 0,
                    kind: kind as u32,
                    priority: priority as u32,
                });
                Asked::Fetch {
                    id,
                    request,
                    priority,
                }
            }
            FetchLine::Chunks {
                id,
                image,
                pack,
                index,
                first,
                count,
                again,
                readahead,
            } => {
                let priority = priority(readahead);
                let request = Request::Chunks(FetchChunks {
                    pack: pack.parse()?,
                    index: index.parse()?,
                    manifest: image.parse()?,
                    workload: Workload::default(),
                    first_chunk: first,
                    chunk_count: count,
                    priority: priority as u32,
                    flags: if again { FETCH_AGAIN } else { 0 },
                });
                Asked::Fetch {
                    id,
                    request,
                    priority,
                }
            }
        })
    };
    match asked(line) {
        Ok(Asked::Fetch {
            request: Request::Chunks(run),
            ..
        }) if !(1..=FETCH_CHUNKS_MAX).contains(&run.chunk_count)
            || run.first_chunk.checked_add(run.chunk_count).is_none() =>
        {
            Err(format!("a run has 1 to {FETCH_CHUNKS_MAX} chunks"))
        }
        Ok(Asked::Used(used))
            if used
                .runs
                .iter()
                .map(|&(_, count)| u64::from(count))
                .sum::<u64>()
                > USED_MAX =>
        {
            Err(format!("{USED_MAX} chunks at most are told at a time"))
        }
        asked => asked.map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use serde_json::{json, Value};
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::*;
    use crate::upcall::Answer;

    /// Never gets a blob, and says so of chunks at once.
    #[derive(Default)]
    struct Slow {
        going: AtomicUsize,
    }

    struct Going<'a>(&'a AtomicUsize);

    impl Drop for Going<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[async_trait]
    impl RequestHandler for Slow {
        async fn handle(&self, request: Request) -> Result<Answer, Errno> {
            self.going.fetch_add(1, Ordering::Relaxed);
            let _going = Going(&self.going);
            match request {
                Request::Blob(_) => std::future::pending().await,
                Request::Chunks(run) => Err(match run.flags {
                    FETCH_AGAIN => Errno::EHOSTUNREACH,
                    _ => Errno::ENOENT,
                }),
            }
        }

        fn in_flight(&self, _: usize) {}
    }

    struct Client {
        reader: BufReader<OwnedReadHalf>,
        writer: OwnedWriteHalf,
        handler: Arc<Slow>,
        uses: Arc<Uses>,
        session: JoinHandle<io::Result<()>>,
    }

    impl Client {
        fn new() -> Self {
            let (daemon, client) = UnixStream::pair().unwrap();
            let handler = Arc::new(Slow::default());
            let uses = Arc::new(Uses::new(Instant::now()));
            let (slow, noted) = (Arc::clone(&handler), Arc::clone(&uses));
            let session = tokio::spawn(async move {
                let (reader, mut writer) = daemon.into_split();
                serve(&mut BufReader::new(reader), &mut writer, slow, &noted).await
            });
            let (reader, writer) = client.into_split();
            Client {
                reader: BufReader::new(reader),
                writer,
                handler,
                uses,
                session,
            }
        }

        async fn say(&mut self, line: &str) {
            let line = format!("{line}\n");
            self.writer.write_all(line.as_bytes()).await.unwrap();
        }

        async fn answer(&mut self) -> Value {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line);
            timeout(Duration::from_secs(30), read)
                .await
                .unwrap()
                .unwrap();
            serde_json::from_str(&line).unwrap_or_default()
        }

        /// Waits until so many requests go on.
        async fn wait_for(&self, going: usize) {
            let wait = async {
                while self.handler.going.load(Ordering::Relaxed) != going {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(30), wait).await.unwrap();
        }
    }

    fn blob(id: usize) -> String {
        let digest = "ab".repeat(32);
        json!({"blob": {"id": id, "image": digest, "blob": digest}}).to_string()
    }

    fn chunks(id: u64, first: u32, count: u32, again: bool) -> String {
        let digest = "cd".repeat(32);
        json!({"chunks": {
            "id": id, "image": digest, "pack": digest, "index": digest,
            "first": first, "count": count, "again": again,
        }})
        .to_string()
    }

    #[tokio::test]
    async fn requests_are_answered_as_they_end_and_not_after_they_are_cancelled() {
        let mut client = Client::new();
        client.say(&blob(1)).await;
        client.say(&chunks(2, 0, 64, false)).await;
        let expected = json!({"fetched": {"id": 2, "errno": Errno::ENOENT as i32}});
        assert_eq!(client.answer().await, expected);
        client.wait_for(1).await;
        client.say(r#"{"cancel":{"id":1}}"#).await;
        client.say(r#"{"cancel":{"id":77}}"#).await;
        client.wait_for(0).await;
        // Its id is free again.
        client.say(&chunks(1, 7, 1, true)).await;
        let expected = json!({"fetched": {"id": 1, "errno": Errno::EHOSTUNREACH as i32}});
        assert_eq!(client.answer().await, expected);
    }

    fn used(runs: &[(u32, u32)]) -> String {
        let digest = "cd".repeat(32);
        json!({"used": {"pack": digest, "index": digest, "runs": runs}}).to_string()
    }

    #[tokio::test]
    async fn what_a_client_says_was_read_is_noted_and_not_answered() {
        let mut client = Client::new();
        client
            .say(&used(&[(0, 2), (7, 1), (u32::MAX, 3), (9, 0)]))
            .await;
        client.say(&chunks(1, 0, 1, false)).await;
        assert_eq!(client.answer().await["fetched"]["id"], 1);
        let (recency, digest) = (client.uses.recency(), Digest([0xcd; 32]));
        let noted = |chunk| recency.last_used(&digest, &digest, chunk) > 0;
        let noted: Vec<_> = (0..12).filter(|chunk| noted(*chunk)).collect();
        assert_eq!(noted, [0, 1, 7]);
    }

    #[tokio::test]
    async fn what_a_client_has_asked_for_ends_with_it() {
        let mut client = Client::new();
        for id in 0..10 {
            client.say(&blob(id)).await;
        }
        client.wait_for(10).await;
        client.writer.shutdown().await.unwrap();
        client.wait_for(0).await;
        client.session.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn too_many_requests_fail_and_the_others_go_on() {
        let mut client = Client::new();
        for id in 0..=REQUESTS_MAX {
            client.say(&blob(id)).await;
        }
        let expected = json!({"fetched": {"id": REQUESTS_MAX, "errno": Errno::ENOMEM as i32}});
        assert_eq!(client.answer().await, expected);
        client.wait_for(REQUESTS_MAX).await;
    }

    #[tokio::test]
    async fn what_is_no_request_ends_the_connection() {
        let long = " ".repeat(REQUEST_MAX as usize);
        let same = format!("{}\n{}", blob(5), blob(5));
        let (none, many, last) = (
            chunks(1, 0, 0, false),
            chunks(1, 0, FETCH_CHUNKS_MAX + 1, false),
            chunks(1, u32::MAX, 2, false),
        );
        let path = blob(1).replacen("ab", "..", 1);
        let much = used(&[(0, u32::MAX), (0, 1)]);
        for line in [
            "",
            "{}",
            "\u{0}",
            "[]",
            "{\"status\":1}",
            &long,
            &same,
            &none,
            &many,
            &last,
            &path,
            &much,
        ] {
            let mut client = Client::new();
            client.say(line).await;
            let answer = client.answer().await;
            assert!(answer["error"].is_string(), "{line:?}: {answer}");
            client.session.await.unwrap().unwrap();
            assert_eq!(client.handler.going.load(Ordering::Relaxed), 0);
        }
    }
}
