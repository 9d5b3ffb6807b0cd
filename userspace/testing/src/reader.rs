// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A daemon whose kernel is this program: reads chunks of an image one by one, as a program does that takes page faults,
//! and says how long each of them took.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use peerfs_daemon::config::Config;
use peerfs_daemon::daemon::Daemon;
use peerfs_daemon::upcall::Request;
use peerfs_format::upcall::{BlobKind, FetchBlob, FetchChunks, Priority, Workload};
use peerfs_format::{BlobTable, Digest, Manifest, PackRecord};

use crate::{Error, Result};

/// The options of a run.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// The daemon's configuration; its device is not used.
    #[arg(long)]
    config: PathBuf,
    /// The image to read.
    #[arg(long)]
    manifest: Digest,
    /// Which chunks are read, in which order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Starts the daemon and prints "ready". Each line "COUNT MILLISECONDS" of standard input has it read so many chunks that
/// are not here, one each so many milliseconds, and print a line with the milliseconds that each took, or "failed". Ends
/// with standard input.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let finding = |error: &dyn std::error::Error| Error::Finding(error.to_string());
    let config = Config::read(&settings.config).map_err(|error| finding(&error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start", "the runtime".as_ref()))?;
    runtime.block_on(async {
        let started = Daemon::start(&config, None).await;
        let daemon = started.map_err(|error| finding(&error))?;
        println!("ready");
        let mut reader = None;
        let next_line = || tokio::task::spawn_blocking(|| std::io::stdin().lines().next());
        while let Ok(Some(Ok(line))) = next_line().await {
            let numbers = line.split_once(' ');
            let numbers =
                numbers.and_then(|(count, pause)| Some((count.parse().ok()?, pause.parse().ok()?)));
            let (count, pause) =
                numbers.ok_or_else(|| Error::Finding(format!("not a task: {line}")))?;
            let reader = match &mut reader {
                Some(reader) => reader,
                none => {
                    none.insert(Reader::open(&daemon, config.root_dir.clone(), settings).await?)
                }
            };
            println!(
                "{}",
                reader.read(count, Duration::from_millis(pause)).await?
            );
        }
        daemon.shut_down().await;
        Ok(())
    })
}

/// An image that is read.
struct Reader<'a> {
    daemon: &'a Daemon,
    store: PathBuf,
    manifest: Digest,
    packs: Vec<PackRecord>,
    /// Chunks that were not read yet, by the number of their pack; the last one is the next.
    unread: Vec<(usize, u32)>,
}

impl<'a> Reader<'a> {
    /// Gets what mounting the image takes, and the indexes of its packs.
    async fn open(daemon: &'a Daemon, store: PathBuf, settings: &Settings) -> Result<Self> {
        let mut reader = Reader {
            daemon,
            store,
            manifest: settings.manifest,
            packs: Vec::new(),
            unread: Vec::new(),
        };
        let bytes = reader.blob(settings.manifest, BlobKind::Manifest).await?;
        let manifest = Manifest::parse(&bytes).map_err(Error::format(&reader.store))?;
        let bytes = reader
            .blob(manifest.blob_table, BlobKind::BlobTable)
            .await?;
        let table =
            BlobTable::parse(&bytes, manifest.inode_count).map_err(Error::format(&reader.store))?;
        reader.packs = table.packs.iter().collect();
        for pack in &reader.packs {
            reader.blob(pack.index_digest, BlobKind::PackIndex).await?;
        }
        let chunks = reader.packs.iter().enumerate();
        let mut unread: Vec<_> = chunks
            .flat_map(|(pack, record)| (0..record.chunk_count).map(move |chunk| (pack, chunk)))
            .collect();
        fastrand::Rng::with_seed(settings.seed).shuffle(&mut unread);
        reader.unread = unread;
        Ok(reader)
    }

    async fn blob(&self, digest: Digest, kind: BlobKind) -> Result<Vec<u8>> {
        let request = Request::Blob(FetchBlob {
            digest,
            manifest: self.manifest,
            workload: Workload::default(),
            length: 0,
            kind: kind as u32,
            priority: Priority::Demand as u32,
        });
        let answer = self.daemon.handler().handle(request).await;
        answer.map_err(|errno| Error::Finding(format!("blob {digest}: {errno}")))?;
        let path = self.store.join("blobs/sha256").join(digest.to_string());
        std::fs::read(&path).map_err(Error::io("read", &path))
    }

    async fn read(&mut self, count: usize, pause: Duration) -> Result<String> {
        let mut times = Vec::new();
        while times.len() < count {
            let Some((pack, chunk)) = self.unread.pop() else {
                return Err(Error::Finding("all of the image was read".to_owned()));
            };
            let Some(record) = self.packs.get(pack) else {
                continue;
            };
            let (pack, index) = (record.digest, record.index_digest);
            let here = self.daemon.disk().run(move |store| {
                let open = store.open_pack(&pack, &index);
                Ok(store.has_blob(&pack) || open.is_some_and(|pack| pack.has(chunk)))
            });
            if here
                .await
                .map_err(|error| Error::Finding(error.to_string()))?
            {
                continue;
            }
            let began = Instant::now();
            let handler = self.daemon.handler();
            let answer = handler.handle(Request::Chunks(FetchChunks {
                pack,
                index,
                manifest: self.manifest,
                workload: Workload::default(),
                first_chunk: chunk,
                chunk_count: 1,
                priority: Priority::Demand as u32,
                flags: 0,
            }));
            let took = match answer.await {
                Ok(_) => format!("{:.2}", began.elapsed().as_secs_f64() * 1e3),
                Err(_) => "failed".to_owned(),
            };
            times.push(took);
            tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
        }
        Ok(times.join(" "))
    }
}
