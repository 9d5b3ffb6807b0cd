// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the process of a daemon spends on a peer that wants to do it harm: processor time, memory, and bytes read.

#![forbid(unsafe_code)]

#[path = "../../peer/tests/peer/raw.rs"]
mod raw;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::future::join_all;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Stream};
use libp2p_stream::Control;
use peerfs_exchange::limits::STREAMS_PER_PEER;
use peerfs_format::METADATA_MAX;
use peerfs_store::Store;
use raw::{drive, frame, raw_peer, PROTOCOL};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);

/// Processor time is measured, so one test runs at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A daemon as users run it.
struct Victim {
    child: Child,
    address: Multiaddr,
    _root: TempDir,
}

/// What a process has used until a moment.
#[derive(Debug)]
struct Usage {
    /// Processor time in hundredths of a second.
    ticks: u64,
    /// Memory in KiB that is in use.
    resident: u64,
    /// Bytes that it has read from files.
    read: u64,
}

impl Victim {
    async fn start(root: TempDir) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let address = format!("/ip4/127.0.0.1/tcp/{port}");
        let file = root.path().join("peerfsd.toml");
        let text = format!(
            "root_dir = {:?}\nstate_dir = {:?}\ncontrol_socket = {:?}\ndevice = \"none\"\n[peer]\nmdns = false\n\
             listen = [\"{address}\"]\n",
            root.path().join("store"),
            root.path().join("state"),
            root.path().join("control"),
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerfsd"));
        command.arg("--config").arg(file).stderr(Stdio::null());
        Victim {
            child: command.spawn().unwrap(),
            address: address.parse().unwrap(),
            _root: root,
        }
    }

    fn usage(&self) -> Usage {
        let file = |name: &str| {
            std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap()
        };
        let field = |text: &str, name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.unwrap().trim_start_matches(':').trim();
            value.trim_end_matches(" kB").parse().unwrap()
        };
        let stat = file("stat");
        // The name before it may have spaces; utime and stime are the 14th and 15th of all.
        let times: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
        Usage {
            ticks: times[12].parse::<u64>().unwrap() + times[13].parse::<u64>().unwrap(),
            resident: field(&file("status"), "VmRSS"),
            read: field(&file("io"), "rchar"),
        }
    }

    /// Connects a peer that has the transport of a node and nothing else.
    async fn attacker(&self) -> (PeerId, Control) {
        let (mut swarm, control) = raw_peer();
        let connected = async {
            swarm.dial(self.address.clone()).unwrap();
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => return peer_id,
                    // It has not begun to listen.
                    SwarmEvent::OutgoingConnectionError { .. } => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        swarm.dial(self.address.clone()).unwrap();
                    }
                    _ => (),
                }
            }
        };
        let peer = timeout(LONG, connected).await.expect("not connected");
        drive(swarm);
        (peer, control)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn read_frame(stream: &mut Stream) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.unwrap();
    let mut rest = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut rest).await.unwrap();
}

/// 2,000 requests of 56 bytes for a pack, which is no metadata: each is answered by its length. They cost 34 GB read
/// and 24 s of processor time when the pack was hashed for each.
#[tokio::test(flavor = "multi_thread")]
async fn small_requests_cost_little() {
    const REQUESTS: u32 = 2000;
    let _alone = ALONE.lock().await;
    let root = tempfile::tempdir().unwrap();
    let store = Store::create(&root.path().join("store")).unwrap();
    let pack = store.add_blob(&vec![7; METADATA_MAX as usize + 1]).unwrap();
    let victim = Victim::start(root).await;
    let (peer, mut control) = victim.attacker().await;
    let mut stream = control.open_stream(peer, PROTOCOL).await.unwrap();
    let before = victim.usage();
    let attack = async {
        let credit = (32u32 << 20).to_le_bytes();
        stream.write_all(&frame(1, 0, &credit)).await.unwrap();
        for request in 0..REQUESTS {
            let want = [&pack.0[..], &u64::MAX.to_le_bytes(), &[1, 0, 0, 0]].concat();
            stream.write_all(&frame(3, request, &want)).await.unwrap();
            stream.flush().await.unwrap();
            read_frame(&mut stream).await;
        }
    };
    timeout(LONG, attack).await.expect("not answered");
    let after = victim.usage();
    let read = after.read - before.read;
    assert!(read < 2 << 20, "{read} bytes read");
    // A hundredth of what it was.
    let ticks = after.ticks - before.ticks;
    assert!(ticks < 100, "{ticks}0 ms of processor time");
    let resident = after.resident.saturating_sub(before.resident);
    assert!(resident < 16 << 10, "{resident} KiB of memory");
}

/// Peers, each with as many streams as one may have, on which all of a frame but its last byte was sent: what a server
/// keeps of them is what a request may be long, whatever length the frame claims.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_frames_take_little_memory() {
    const PEERS: usize = 64;
    let _alone = ALONE.lock().await;
    let victim = Victim::start(tempfile::tempdir().unwrap()).await;
    let mut bytes = frame(3, 1, &vec![0; 500 << 10]);
    bytes.pop();
    let mut attackers = Vec::new();
    for _ in 0..PEERS {
        attackers.push(victim.attacker().await);
    }
    let before = victim.usage();
    let mut streams = Vec::new();
    for (peer, control) in &mut attackers {
        for _ in 0..STREAMS_PER_PEER {
            let opened = timeout(LONG, control.open_stream(*peer, PROTOCOL)).await;
            streams.push(opened.expect("stalled").expect("refused"));
        }
    }
    let bytes = &bytes;
    let send = |mut stream: Stream| async move {
        // The server ends a stream with such a frame, as soon as it has seen its length.
        let _ = timeout(LONG, stream.write_all(bytes)).await;
        let _ = timeout(LONG, stream.flush()).await;
        stream
    };
    let _open = join_all(streams.into_iter().map(send)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let resident = victim.usage().resident.saturating_sub(before.resident);
    assert!(resident < 32 << 10, "{resident} KiB of memory");
}
