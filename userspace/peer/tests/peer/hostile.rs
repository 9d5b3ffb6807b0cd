// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Peers that break the protocol.

use std::time::Duration;

use crate::raw::{drive, frame, raw_peer, PROTOCOL};
use crate::support::*;
use futures::future::join_all;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    identify, noise, tcp, yamux, Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder,
};
use peerfs_exchange::frame::{FrameError, HEADER_SIZE};
use peerfs_exchange::limits::{piece_size, FRAME_MAX, PIECE_MAX, STREAMS_PER_PEER};
use peerfs_exchange::{Have, Priority, Violation};
use peerfs_peer::{Event, Node, RequestError};
use tokio::time::timeout;

/// For what is answered at once, on a machine that does something else as well.
const LONG: Duration = Duration::from_secs(20);

/// A client that is connected to a peer which does this with each stream that is opened to it, and takes it
/// for stalled after so long.
async fn client_of<F>(
    stall_timeout: Duration,
    behave: impl Fn(Stream) -> F + Send + 'static,
) -> (Node, PeerId)
where
    F: std::future::Future<Output = ()> + Send + 'static,
{
    let (mut swarm, mut control) = raw_peer();
    let peer = *swarm.local_peer_id();
    swarm
        .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
        .unwrap();
    let address: Multiaddr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let mut incoming = control.accept(PROTOCOL).unwrap();
    drive(swarm);
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            tokio::spawn(behave(stream));
        }
    });
    let mut settings = config();
    settings.bootstrap = vec![address];
    settings.stall_timeout = stall_timeout;
    let client = start(settings, Store::default()).await;
    connected(&client, peer).await;
    (client, peer)
}

/// Waits for a client's first request, which comes behind its credit, and then sends these bytes.
async fn answer_with(mut stream: Stream, bytes: Vec<u8>) {
    let mut credit_and_more = [0; HEADER_SIZE + 4 + 1];
    let _ = stream.read_exact(&mut credit_and_more).await;
    let _ = stream.write_all(&bytes).await;
    let _ = stream.flush().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// What a client says when it asks for chunk 1 and gets these bytes.
async fn answered_with(bytes: Vec<u8>) -> RequestError {
    let (client, peer) = client_of(LONG, move |stream| answer_with(stream, bytes.clone())).await;
    let mut chunks = fetch(&client, peer, &[1], Priority::Demand);
    let answer = timeout(LONG, chunks.next()).await;
    answer.expect("no answer").unwrap().unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_frame_from_a_server_is_refused() {
    let length = FRAME_MAX as u32 - 3;
    let error = answered_with(length.to_le_bytes().to_vec()).await;
    assert!(matches!(
        error,
        RequestError::Violation(Violation::Frame(FrameError::Length(refused))) if refused == length
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_answers_that_do_not_fit_are_refused() {
    let of_a_client = answered_with(frame(99, 0, &[])).await;
    assert!(matches!(
        of_a_client,
        RequestError::Violation(Violation::Frame(FrameError::Direction(99)))
    ));
    let unexpected = |error| {
        matches!(
            error,
            RequestError::Violation(Violation::UnexpectedReply(0))
        )
    };
    assert!(unexpected(answered_with(frame(28, 0, &[])).await));
    let first = |number| piece(number, 0, 2 * PIECE_MAX);
    assert!(unexpected(answered_with(first(2)).await), "another chunk");
    let overlapping = [first(1), first(1)].concat();
    assert!(unexpected(answered_with(overlapping).await));
    let changing = [first(1), piece(1, PIECE_MAX, 2 * PIECE_MAX + 1)].concat();
    assert!(unexpected(answered_with(changing).await));
    let short = frame(18, 0, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 7]);
    assert!(matches!(
        answered_with(short).await,
        RequestError::Violation(Violation::Frame(FrameError::Malformed("ChunkData")))
    ));
}

/// The frame of a piece of a chunk, to the first request.
fn piece(number: u32, offset: u32, total: u32) -> Vec<u8> {
    let mut payload: Vec<u8> = [number, offset, total]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    let size = piece_size(total.into(), offset.into());
    payload.resize(payload.len() + size as usize, 7);
    frame(18, 0, &payload)
}

/// Nothing is asked of a busy peer before the time that it says, on the stream on which it says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_peer_is_left_alone() {
    let busy = frame(22, 0, &1000_u32.to_le_bytes());
    let (client, peer) = client_of(LONG, move |stream| answer_with(stream, busy.clone())).await;
    let ask = || client.have(peer, PACK, soon());
    let rest = |answer| match answer {
        Err(RequestError::Busy { retry_after }) => retry_after,
        other => panic!("{other:?}"),
    };
    assert_eq!(rest(ask().await), Duration::from_secs(1));
    // Without asking: it would not answer.
    assert!(rest(ask().await) < Duration::from_secs(1));
    let other = fetch(&client, peer, &[1], Priority::Background)
        .next()
        .await;
    assert_eq!(
        rest(other.unwrap().map(|_| Have::Absent)),
        Duration::from_secs(1)
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = timeout(Duration::from_secs(1), ask()).await;
    assert!(asked.is_err(), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_or_hangs_up_is_not_waited_for() {
    let (client, peer) = client_of(Duration::from_secs(1), |stream| {
        answer_with(stream, Vec::new())
    })
    .await;
    let have = timeout(Duration::from_secs(5), client.have(peer, PACK, soon())).await;
    assert!(
        matches!(have, Ok(Err(RequestError::Stalled(_)))),
        "{have:?}"
    );

    let (client, peer) = client_of(LONG, |stream| async { drop(stream) }).await;
    let have = timeout(Duration::from_secs(5), client.have(peer, PACK, soon())).await;
    assert!(
        matches!(have, Ok(Err(RequestError::Disconnected))),
        "{have:?}"
    );
}

/// What nobody asked for keeps no stream alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_only_junk_is_not_waited_for() {
    let (client, peer) = client_of(Duration::from_secs(1), |mut stream| async move {
        let junk = frame(20, 99, &[1, 0, 0, 0]);
        while stream.write_all(&junk).await.is_ok() && stream.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let have = timeout(Duration::from_secs(5), client.have(peer, PACK, soon())).await;
    assert!(
        matches!(have, Ok(Err(RequestError::Stalled(_)))),
        "{have:?}"
    );
}

/// Answers the first request with this frame, a part of it at a time; all of them take longer than a peer may be
/// silent.
async fn drip(mut stream: Stream, frame: Vec<u8>) {
    const PARTS: usize = 10;
    let mut credit_and_more = [0; HEADER_SIZE + 4 + 1];
    let _ = stream.read_exact(&mut credit_and_more).await;
    for part in frame.chunks(frame.len().div_ceil(PARTS)) {
        let sent = stream.write_all(part).await.is_ok() && stream.flush().await.is_ok();
        if !sent {
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    tokio::time::sleep(LONG).await;
}

/// Each byte of an answer is a sign of life, and none of what nobody asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_waited_for_as_long_as_it_answers() {
    let second = Duration::from_secs(1);
    let slow = |stream| drip(stream, piece(1, 0, PIECE_MAX));
    let (client, peer) = client_of(second, slow).await;
    let answer = fetch(&client, peer, &[1], Priority::Demand).next().await;
    let (number, data) = answer.unwrap().unwrap();
    assert_eq!((number, data.unwrap().len()), (1, PIECE_MAX as usize));

    let mut of_another = piece(1, 0, PIECE_MAX);
    of_another[HEADER_SIZE - 4] = 9;
    let (client, peer) = client_of(second, move |stream| drip(stream, of_another.clone())).await;
    let begun = tokio::time::Instant::now();
    let answer = fetch(&client, peer, &[1], Priority::Demand).next().await;
    assert!(matches!(answer, Some(Err(RequestError::Stalled(_)))));
    assert!(begun.elapsed() < 5 * second / 2, "{:?}", begun.elapsed());
}

/// A server, and a peer that is connected to it.
async fn server_and_raw_peer() -> (Node, libp2p_stream::Control) {
    let server = start(config(), store_with_pack(10, 100)).await;
    let control = raw_peer_of(&server).await;
    (server, control)
}

/// A peer that is connected to this server.
pub async fn raw_peer_of(server: &Node) -> libp2p_stream::Control {
    let (mut swarm, control) = raw_peer();
    let peer = *swarm.local_peer_id();
    let address = server.listen_addresses().swap_remove(0);
    swarm.dial(address).unwrap();
    drive(swarm);
    connected(server, peer).await;
    control
}

/// Another program, or a node of another version.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
struct Stranger {
    identify: identify::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// A peer of another version is not banned: it may come again when it has this one.
#[tokio::test(flavor = "multi_thread")]
async fn another_kind_of_node_is_left_alone() {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|key| Stranger {
            identify: identify::Behaviour::new(identify::Config::new(
                "/peerfs/1".to_owned(),
                key.public(),
            )),
            streams: libp2p_stream::Behaviour::new(),
        })
        .unwrap()
        .build();
    let mut control = swarm.behaviour().streams.new_control();
    let former = StreamProtocol::new("/peerfs/exchange/1");
    let _served = control.accept(former).unwrap();
    let server = start(config(), Store::default()).await;
    let mut events = server.subscribe();
    let address = server.listen_addresses().swap_remove(0);
    swarm.dial(address.clone()).unwrap();
    let peer = *swarm.local_peer_id();
    tokio::spawn(async move {
        loop {
            let event = swarm.select_next_some().await;
            if matches!(event, SwarmEvent::ConnectionClosed { .. }) {
                let _ = swarm.dial(address.clone());
            }
        }
    });
    let [come, gone] = [Event::PeerConnected(peer), Event::PeerDisconnected(peer)];
    for expected in [come, gone, come, gone] {
        let mut event = Event::PeerMeasured(peer, Duration::ZERO);
        // Pings are answered in between.
        while let Event::PeerMeasured(..) = event {
            let next = timeout(Duration::from_secs(5), events.recv()).await;
            event = next.unwrap().unwrap();
        }
        assert_eq!(event, expected);
    }
}

/// Sends these bytes to a server; whether it ends the stream.
async fn is_cut_off(bytes: &[u8]) -> bool {
    let (server, mut control) = server_and_raw_peer().await;
    let mut stream = control
        .open_stream(server.peer_id(), PROTOCOL)
        .await
        .unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = [0; 1024];
    match timeout(Duration::from_secs(2), stream.read(&mut answer)).await {
        Ok(Ok(0) | Err(_)) => true,
        Ok(Ok(_)) | Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_the_protocol_is_cut_off() {
    assert!(
        is_cut_off(&(FRAME_MAX as u32).to_le_bytes()).await,
        "too long"
    );
    let length = FRAME_MAX as u32 - 4;
    assert!(
        is_cut_off(&length.to_le_bytes()).await,
        "longer than any request"
    );
    assert!(is_cut_off(&frame(16, 0, &[0; 8])).await, "a server's frame");
    assert!(
        is_cut_off(&frame(1, 7, &[1, 0, 0, 0])).await,
        "credit of a request"
    );
    assert!(
        is_cut_off(&frame(1, 0, &[0xff; 4])).await,
        "too much credit"
    );
    assert!(is_cut_off(&frame(4, 0, &[0; 69])).await, "half a number");
    assert!(is_cut_off(&frame(6, 0, &[0; 31])).await, "half a manifest");
    assert!(!is_cut_off(&frame(2, 0, &[0; 32])).await, "a good question");
    assert!(
        !is_cut_off(&frame(10, 0, &[0; 32])).await,
        "a question that is not served"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_keeps_only_so_many_streams() {
    let (server, control) = server_and_raw_peer().await;
    assert_eq!(
        answered_of(&server, control, STREAMS_PER_PEER + 1).await,
        STREAMS_PER_PEER
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_is_lost_when_many_peers_open_theirs_at_once() {
    const PEERS: usize = 48;
    let server = start(config(), store_with_pack(10, 100)).await;
    let mut controls = Vec::new();
    for _ in 0..PEERS {
        controls.push(raw_peer_of(&server).await);
    }
    let answered = controls
        .into_iter()
        .map(|control| answered_of(&server, control, STREAMS_PER_PEER));
    let answered: usize = join_all(answered).await.into_iter().sum();
    assert_eq!(answered, PEERS * STREAMS_PER_PEER);
}

/// Opens so many streams at once, and asks a question on each, and when all are answered or closed another one. How many
/// of these are answered.
async fn answered_of(server: &Node, control: libp2p_stream::Control, streams: usize) -> usize {
    let peer = server.peer_id();
    let opened = (0..streams).map(|_| {
        let mut control = control.clone();
        async move {
            let mut stream = control.open_stream(peer, PROTOCOL).await.unwrap();
            // The server may have closed it already.
            let _ = stream.write_all(&frame(2, 0, &[0; 32])).await;
            let _ = stream.flush().await;
            stream
        }
    });
    let mut streams = join_all(opened).await;
    for again in [true, false] {
        let answers = streams.into_iter().map(|mut stream| async move {
            let mut answer = [0; 1024];
            let read = timeout(LONG, stream.read(&mut answer)).await;
            let length = read.expect("neither answered nor closed").unwrap_or(0);
            (length > 0).then_some(stream)
        });
        streams = join_all(answers).await.into_iter().flatten().collect();
        if again {
            let questions = streams.iter_mut().map(|stream| async {
                let _ = stream.write_all(&frame(2, 1, &[0; 32])).await;
                let _ = stream.flush().await;
            });
            join_all(questions).await;
        }
    }
    streams.len()
}
